/* The bench of cpu_test.h with a processor made by cpu_model_create() and a platform whose clock the test moves. */
#ifndef RING3_TESTS_SYSTEM_TEST_H
#define RING3_TESTS_SYSTEM_TEST_H

#include "cpu_test.h"

#include "cpu/msr.h"

struct system {
    struct bench bench; /* first */
    uint64_t now_ns;
    uint64_t cr8, apic_base, deadline, pv_eoi;
    uint32_t port_value;
    uint64_t ports_read, ports_written;
    uint64_t last_written;
};

static inline uint64_t system_now(void *opaque)
{
    return ((struct system *)opaque)->now_ns;
}

static inline uint64_t system_wall(void *opaque)
{
    return 1700000000123456789ull;
}

static inline uint64_t system_random(void *opaque)
{
    return 0x1122334455667788ull;
}

static inline uint64_t system_cr8_read(void *opaque)
{
    return ((struct system *)opaque)->cr8;
}

static inline void system_cr8_write(void *opaque, uint64_t cr8)
{
    ((struct system *)opaque)->cr8 = cr8;
}

static inline uint64_t *system_apic_msr(struct system *s, uint32_t msr)
{
    return msr == 0x1b ? &s->apic_base : msr == 0x6e0 ? &s->deadline : msr == 0x4b564d04 ? &s->pv_eoi : NULL;
}

static inline bool system_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    uint64_t *p = system_apic_msr(opaque, msr);
    if (p != NULL)
        *value = *p;
    return p != NULL;
}

static inline bool system_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    uint64_t *p = system_apic_msr(opaque, msr);
    if (p != NULL)
        *p = value;
    return p != NULL;
}

static inline void system_exit(struct vcpu *v, struct exit *exit)
{
    struct system *s = v->exit_opaque;
    bench_exit(v, exit);
    if (exit->reason == EXIT_IO_IN) {
        exit->value = s->port_value++;
        s->ports_read++;
    } else if (exit->reason == EXIT_IO_OUT) {
        s->last_written = exit->value;
        s->ports_written++;
    }
}

/* Gives the bench another processor, reset. */
static inline void system_model(struct system *s, const char *spec)
{
    struct error err = {0};
    struct cpu_model *model = cpu_model_create(spec, &err);
    if (model == NULL)
        fail_msg("%s: %s", spec, err.message);
    s->bench.model = *model;
    free(model);
    s->bench.v->maxphyaddr = s->bench.model.maxphyaddr;
    s->bench.v->tsc_khz = s->bench.model.tsc_khz;
    vcpu_reset(s->bench.v, false);
    s->bench.v->gdtr = (struct table_register){.base = GDT_AT, .limit = GDT_ENTRIES * 8 - 1};
}

static inline int system_setup(void **state)
{
    void *made;
    bench_setup(&made);
    struct system *s = test_calloc(1, sizeof *s);
    s->bench = *(struct bench *)made;
    test_free(made);
    struct vcpu *v = s->bench.v;
    v->model = &s->bench.model;
    v->exit = system_exit;
    v->exit_opaque = s;
    v->platform = (struct vcpu_platform){
        .cr8_read = system_cr8_read,
        .cr8_write = system_cr8_write,
        .apic_msr_read = system_msr_read,
        .apic_msr_write = system_msr_write,
        .now_ns = system_now,
        .wall_base_ns = system_wall,
        .random = system_random,
        .opaque = s,
    };
    s->now_ns = 1000;
    s->apic_base = 0xfee00900;
    system_model(s, "x86-64-v1,+smep,+smap,+umip,+fsgsbase,+pcid,+invpcid,+xsave,+pdpe1gb,+rdpid,+rdrand,+xgetbv1");
    *state = s;
    return 0;
}

static inline int system_teardown(void **state)
{
    struct system *s = *state;
    vcpu_destroy(s->bench.v);
    memory_destroy(s->bench.memory);
    test_free(s);
    return 0;
}

#define SYSTEM_TEST(name) cmocka_unit_test_setup_teardown(name, system_setup, system_teardown)

#endif
