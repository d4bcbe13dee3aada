/* Fuzz target: any bytes as what a client of gdb's protocol sends, on a machine whose page tables are any bytes, too. The
 * input: paging mode and kind of registers, the CR3, the length of the tables; the tables; then packets, a line each, which
 * are framed with a good checksum, or as they are behind a byte FFh. The machine never runs: what is looked at and
 * changed is state. */
#include "machine_fuzz.h"

#include <stdlib.h>

#include "gdb/gdb.h"
#include "monitor/monitor.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void packet(struct client *c, const uint8_t *bytes, size_t size)
{
    char sum[4];
    unsigned total = 0;
    if (size > 0 && bytes[0] == 0xff) {
        type(c, bytes + 1, size - 1);
        return;
    }
    for (size_t i = 0; i < size; i++)
        total += bytes[i];
    snprintf(sum, sizeof sum, "#%02x", total & 0xff);
    type(c, (const uint8_t *)"+$", 2);
    type(c, bytes, size);
    type(c, (const uint8_t *)sum, 3);
}

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
    uint8_t mode = bytes[0];
    bytes += 5;
    size -= 5;
    tables = tables < size ? tables : size;
    memory_write(v->memory, TABLES_GPA, bytes, tables);
    paging_set(v, mode & 0x1f, cr3);
    struct client client = {.dev = {.ops = &client_ops}, .mood = mode};
    struct monitor *monitor = monitor_create(&(struct monitor_config){.vm = vm, .loop = loop, .log = &log, .version = "fuzz"});
    struct gdb *gdb = gdb_create(&(struct gdb_config){
        .vm = vm, .loop = loop, .monitor = mode & 0x80 ? monitor : NULL, .arch = (enum gdb_arch)((mode >> 5 & 3) % 3)});
    gdb_accept(gdb, &client.dev);
    for (const uint8_t *at = bytes + tables, *end = bytes + size; at < end;) {
        const uint8_t *line = memchr(at, '\n', (size_t)(end - at));
        line = line != NULL ? line : end;
        packet(&client, at, (size_t)(line - at));
        at = line + 1;
    }
    if (mode & 0x10)
        chardev_notify_carrier(&client.dev, false);
    gdb_destroy(gdb, 0);
    monitor_destroy(monitor);
    return 0;
}
