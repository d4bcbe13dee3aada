/* Looking on: which instructions are sensitive, and what a watch hears of them under an engine. */
#include "system_test.h"

#include "cpu/code_cache.h"
#include "cpu/decode.h"
#include "cpu/watch.h"
#include "engine/door.h"
#include "engine/engine.h"
#include "engine/hot.h"

static enum insn_sensitivity of_bytes(struct bench *b, enum code_mode mode, const char *bytes, unsigned n)
{
    struct insn in;
    assert_int_equal(decode_insn(b->v, mode, (const uint8_t *)bytes, n, 0, &in), DECODE_OK);
    return insn_sensitivity(&in);
}
#define OF(mode, bytes) of_bytes(&s->bench, mode, bytes, sizeof(bytes) - 1)

/* Against Robin and Irvine's list of seventeen, the SDM's list of privileged instructions (vol. 3, 5.9), and what is
 * neither. */
static void test_sensitivity(void **state)
{
    struct system *s = *state;
    /* SGDT SIDT SLDT SMSW PUSHF POPF; LAR LSL VERR VERW POP PUSH CALL JMP RET STR MOV; INT is a gate */
    assert_int_equal(OF(CODE_32, "\x0f\x01\x00"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x01\x08"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x00\xc0"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x01\xe0"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x9c"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x9d"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x02\xc0"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x03\xc0"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x00\xe0"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x0f\x00\xe8"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x1f"), INSN_SILENT);               /* pop ds */
    assert_int_equal(OF(CODE_32, "\x0e"), INSN_SILENT);               /* push cs */
    assert_int_equal(OF(CODE_32, "\x9a\0\0\0\0\x08\0"), INSN_SILENT); /* call 8:0 */
    assert_int_equal(OF(CODE_32, "\xff\x28"), INSN_SILENT);           /* jmp far [eax] */
    assert_int_equal(OF(CODE_32, "\xcb"), INSN_SILENT);               /* retf */
    assert_int_equal(OF(CODE_32, "\x0f\x00\xc8"), INSN_SILENT);
    assert_int_equal(OF(CODE_32, "\x8c\xc8"), INSN_SILENT); /* mov eax, cs */
    assert_int_equal(OF(CODE_32, "\xcd\x80"), INSN_GATE);
    assert_int_equal(OF(CODE_64, "\x0f\x05"), INSN_GATE);
    assert_int_equal(OF(CODE_32, "\xfa"), INSN_PRIVILEGED);
    assert_int_equal(OF(CODE_32, "\xcf"), INSN_PRIVILEGED);
    assert_int_equal(OF(CODE_32, "\xee"), INSN_PRIVILEGED);
    assert_int_equal(OF(CODE_32, "\x0f\x22\xd8"), INSN_PRIVILEGED); /* mov cr3, eax */
    assert_int_equal(OF(CODE_32, "\x0f\x21\xc0"), INSN_PRIVILEGED); /* mov eax, dr0 */
    assert_int_equal(OF(CODE_64, "\x48\x0f\x07"), INSN_PRIVILEGED); /* sysret */
    assert_int_equal(OF(CODE_32, "\x89\xc8"), INSN_INNOCENT);
    assert_int_equal(OF(CODE_32, "\x50"), INSN_INNOCENT);
    assert_int_equal(OF(CODE_32, "\xc3"), INSN_INNOCENT);
    assert_int_equal(OF(CODE_32, "\xff\x20"), INSN_INNOCENT); /* jmp [eax] */
    assert_int_equal(OF(CODE_32, "\xe8\0\0\0\0"), INSN_INNOCENT);
}

struct record {
    char story[512];
    unsigned exits;
};

static void note(struct record *r, const char *format, uint64_t value)
{
    size_t used = strlen(r->story);
    snprintf(r->story + used, sizeof r->story - used, format, (unsigned long)value);
}

static void on_begin(void *opaque, struct vcpu *v, const struct insn *in)
{
    note(opaque,
         in->row == ROW_CLI      ? "cli@%lx "
         : in->row == ROW_INT    ? "int@%lx "
         : in->row == ROW_PUSHFD ? "pushf@%lx "
                                 : "%lx ",
         v->rip & 0xff);
}

static void on_end(void *opaque, struct vcpu *v, const struct insn *in)
{
    note(opaque, "-> %lx; ", v->rip & 0xfff);
}

static void on_delivered(void *opaque, struct vcpu *v)
{
    note(opaque, "delivered %lx; ", v->rip & 0xfff);
}

static void on_mode(void *opaque, struct vcpu *v, unsigned cpl_before)
{
    note(opaque, "cpl %lu ", v->cpl);
}

static void hear_exit(void *opaque, struct vcpu *v, const struct exit *exit, const char *device)
{
    ((struct record *)opaque)->exits++;
    note(opaque, exit->reason == EXIT_EXCEPTION ? "#%lu " : "exit %lu ", exit->vector);
}

#define HANDLER 0x38000u
#define CODE_HERE 0x30000u

/* nop; pushf; cli; int 0x40; then in the handler: ud2. Told in order, the same on each engine. */
static void story(struct system *s, const char *engine_name, bool closely)
{
    const struct engine *engine = engine_find(engine_name, 0, NULL);
    struct bench *b = &s->bench;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    struct record record = {.story = ""};
    struct observer observer = {.exit = hear_exit,
                                .watch = {.begin = closely ? on_begin : NULL,
                                          .end = on_end,
                                          .delivered = on_delivered,
                                          .mode = on_mode,
                                          .opaque = &record}};
    struct door door = {.memory = b->memory, .observer = &observer, .stats = {.timed = true, .hot = hot_create()}};
    door_open(&door, v);
    struct error err;
    v->translate_heat = 0;
    if (engine == NULL || !engine->attach(v, &err))
        skip();
    v->idtr = (struct table_register){.base = IDT_AT, .limit = 0x7ff};
    idt_put(b, 0x40, gate_make(0xe, 3, CODE(0), HANDLER, 0));
    idt_put(b, VECTOR_UD, gate_make(0xe, 0, CODE(0), HANDLER + 0x100, 0));
    memcpy(b->ram + CODE_HERE, "\x90\x9c\xfa\xcd\x40", 5);
    memcpy(b->ram + HANDLER, "\x90\x0f\x0b", 3);
    memcpy(b->ram + HANDLER + 0x100, "\xeb\xfe", 2);
    v->rip = CODE_HERE;
    engine->run(v, v->instructions + 7);
    if (closely)
        assert_string_equal(record.story, "pushf@1 -> 2; cli@2 -> 3; int@3 exit 64 -> 0; #6 delivered 100; ");
    else
        assert_string_equal(record.story, "exit 64 #6 delivered 100; ");
    assert_int_equal(door.stats.exits[EXIT_EXCEPTION][EXIT_MODE_KERNEL], 1);
    const struct hot_place *top[4];
    assert_int_equal(hot_top(door.stats.hot, false, top, 4), 2);
    assert_int_equal(top[0]->rip, CODE_HERE + 3);
    assert_int_equal(top[1]->rip, HANDLER + 1);
    vcpu_raise(v, PENDING_SAMPLE);
    engine->run(v, v->instructions + 100);
    assert_int_equal(hot_top(door.stats.hot, true, top, 4), 1);
    assert_int_equal(top[0]->rip, HANDLER + 0x100);
    assert_int_equal(top[0]->gpa, HANDLER + 0x100);
    engine->detach(v);
    v->watch = NULL;
    v->exit = NULL;
    hot_destroy(door.stats.hot);
}

static void test_interpret(void **state)
{
    story(*state, "interpret", true);
}

static void test_interpret_from_afar(void **state)
{
    story(*state, "interpret", false);
}

static void test_translate(void **state)
{
    story(*state, "translate", true);
}

/* More places than there is room for: none is lost. */
static void test_hot_full(void **state)
{
    struct hot *hot = hot_create(), *sum = hot_create();
    uint64_t kept = 0;
    for (uint64_t i = 0; i < 3 * HOT_SIZE; i++)
        hot_add(hot, &(struct hot_place){.rip = i * 7, .count = i % 3 + 1, .ns = 2});
    hot_merge(sum, hot);
    for (unsigned i = 0; i < HOT_SIZE; i++)
        kept += sum->places[i].count;
    assert_int_equal(kept + sum->others, 2ull * 3 * HOT_SIZE);
    assert_true(sum->used > HOT_SIZE / 2);
    const struct hot_place *top[3];
    assert_int_equal(hot_top(sum, false, top, 3), 3);
    assert_true(top[0]->count == 3 && top[0]->rip < top[1]->rip);
    hot_destroy(hot);
    hot_destroy(sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sensitivity, system_setup, system_teardown),
        cmocka_unit_test_setup_teardown(test_interpret, system_setup, system_teardown),
        cmocka_unit_test_setup_teardown(test_interpret_from_afar, system_setup, system_teardown),
        cmocka_unit_test_setup_teardown(test_translate, system_setup, system_teardown),
        cmocka_unit_test(test_hot_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
