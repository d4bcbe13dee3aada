/* Fuzz target: any bytes as what a user or a client of the monitor types, on a machine whose page tables are any bytes,
 * too. The input: paging mode and session kind, the CR3, the length of the tables; the tables; then what is typed. The
 * machine never runs: what is looked at is state. */
#include "machine_fuzz.h"

#include <stdlib.h>

#include "monitor/monitor.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct loop *loop;
    static struct vm *vm;
    static struct log log;
    if (vm == NULL) {
        log_init(&log, LOG_OFF, NULL, NULL);
        loop = loop_create(NULL);
        vm = machine_create(loop, &log);
    }
    if (size < 6)
        return 0;
    struct vcpu *v = (struct vcpu *)vm_vcpu(vm, 0);
    uint32_t cr3 = bytes[1] | (uint32_t)bytes[2] << 8;
    size_t tables = (bytes[3] | (size_t)bytes[4] << 8) % TABLES_SIZE;
    bool editing = bytes[0] & 0x80;
    bytes += 5;
    size -= 5;
    tables = tables < size ? tables : size;
    memory_write(v->memory, TABLES_GPA, bytes, tables);
    paging_set(v, bytes[-5] & 0x7f, cr3);
    struct client client = {.dev = {.ops = &client_ops}, .mood = bytes[-5]};
    struct monitor *monitor = monitor_create(&(struct monitor_config){.vm = vm, .loop = loop, .log = &log, .version = "fuzz"});
    monitor_attach(monitor, &client.dev, editing, false);
    type(&client, bytes + tables, size - tables);
    type(&client, (const uint8_t *)"\ninfo status\n", 13);
    monitor_destroy(monitor);
    return 0;
}
