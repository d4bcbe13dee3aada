/* The common code at the start of the cache: into translated code, out of it, and to C functions and back.
 *
 * The monitor's stack pointer is kept in vcpu.translated.monitor_rsp while translated code runs, the shadow return stack's in
 * return_rsp while the monitor runs. Registers are stored to and loaded from vcpu.regs; flags to and from vcpu.status, in
 * its LAHF; SETO layout, which one addition and SAHF restore.
 *
 * Vector registers stay in the host's as long as translated code runs (sse_missing is 0); every way out saves them, since C
 * code uses them too, and they are loaded again when a block that needs them is entered.
 */
#include "engine/translate/internal.h"

/* Which host register holds which guest register, for the registers that are not spilled. */
static const uint8_t held_wide[][2] = {{RAX, HAX}, {RCX, H10}, {RDX, HDX}, {RBX, HBX}, {RSP, H14}, {RBP, HBP},
                                       {RSI, HSI}, {RDI, HDI}, {R8, H8},   {R9, H9},   {R12, H12}, {R13, H13}};
#define HELD_NARROW 8u

static unsigned held_count(unsigned narrow)
{
    return narrow ? HELD_NARROW : ARRAY_LEN(held_wide);
}

static void emit_store_registers(struct emit *e, unsigned narrow)
{
    for (unsigned i = 0; i < held_count(narrow); i++)
        emit_store(e, STATE_REG(held_wide[i][0]), held_wide[i][1]);
}

static void emit_load_registers(struct emit *e, unsigned narrow)
{
    /* In 32-bit code the upper halves are zero, whatever stands in memory: addresses are computed with them. */
    for (unsigned i = 0; i < held_count(narrow); i++)
        if (narrow)
            emit_load32(e, held_wide[i][1], STATE_REG(held_wide[i][0]));
        else
            emit_load(e, held_wide[i][1], STATE_REG(held_wide[i][0]));
    static const uint8_t constants[][2] = {{H8, 12}, {H9, 10}, {H12, 11}, {H13, 9}};
    for (unsigned i = 0; narrow && i < ARRAY_LEN(constants); i++)
        emit_mov_imm(e, constants[i][0], constants[i][1]);
}

/* RAX has been stored. */
static void emit_save_status(struct emit *e)
{
    emit8(e, 0x9f); /* lahf; seto al */
    emit8(e, 0x0f), emit8(e, 0x90), emit8(e, 0xc0);
    emit_store16(e, STATE_OF(status), HAX);
}

static void emit_give_status(struct emit *e)
{
    emit_rm(e, 0, 0x0fb7, HAX, STATE_OF(status));
    emit8(e, 0x04), emit8(e, 0x7f); /* add al, 0x7f */
    emit8(e, 0x9e);                 /* sahf */
}

static void emit_vectors(struct emit *e, const struct translate *t, bool store)
{
    for (unsigned n = 0; n < 16; n++) {
        int32_t disp = (int32_t)offsetof(struct vcpu, fpu.ymm) + (int32_t)(32 * n) - STATE_BIAS;
        if (t->have_avx) {
            emit_vex(e, false, 0, 1, n, 0, STATE, 0);
            e->p[-1] |= 4; /* 256 bits */
            emit8(e, store ? 0x11 : 0x10);
            emit_modrm_mem(e, n, MEM(STATE, disp));
        } else {
            emit_rm(e, 0, store ? 0x0f11 : 0x0f10, n, MEM(STATE, disp));
        }
    }
}

/* The x87 state, whose image has room for the SSE registers as well; they are not used there. The host's own state is that
 * after FNINIT. */
static void emit_save_x87(struct emit *e)
{
    emit_rm(e, E_W, 0x83, 7, STATE_OF(translated.x87_missing)); /* cmp qword [x87_missing], 0 */
    emit8(e, 0);
    uint8_t *skip = emit_jcc(e, 5, NULL);
    emit_rm(e, E_W, 0x0fae, 0, STATE_OF(fpu.x87)); /* fxsave64 */
    struct emit_mem mxcsr = STATE_OF(fpu.x87);
    mxcsr.disp += (int32_t)offsetof(struct x87_image, mxcsr);
    emit_store_imm(e, false, mxcsr, MXCSR_HOST);
    emit8(e, 0xdb), emit8(e, 0xe3); /* fninit */
    emit_store_imm(e, true, STATE_OF(translated.x87_missing), 1);
    emit_target(skip, e->p);
}

/* Only what is loaded; T is kept. */
static void emit_save_vectors(struct emit *e, const struct translate *t)
{
    emit_save_x87(e);
    emit_rm(e, E_W, 0x83, 7, STATE_OF(translated.sse_missing)); /* cmp qword [sse_missing], 0 */
    emit8(e, 0);
    uint8_t *skip = emit_jcc(e, 5, NULL);
    emit_vectors(e, t, true);
    emit_rm(e, 0, 0x0fae, 3, STATE_OF(fpu.mxcsr)); /* stmxcsr */
    emit_store_imm(e, false, STATE_OF(translated.scratch), MXCSR_HOST);
    emit_rm(e, 0, 0x0fae, 2, STATE_OF(translated.scratch)); /* ldmxcsr */
    if (t->have_avx)
        emit8(e, 0xc5), emit8(e, 0xf8), emit8(e, 0x77); /* vzeroupper */
    emit_store_imm(e, true, STATE_OF(translated.sse_missing), 1);
    emit_store_imm(e, true, STATE_OF(translated.avx_missing), 1);
    emit_target(skip, e->p);
}

static void emit_push(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        emit8(e, 0x41);
    emit8(e, 0x50 | (reg & 7));
}

static void emit_pop(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        emit8(e, 0x41);
    emit8(e, 0x58 | (reg & 7));
}

static const uint8_t callee_saved[] = {HBP, HBX, H12, H13, H14, H15};

static void emit_return_to_monitor(struct emit *e)
{
    emit_lea(e, HSP, MEM(HSP, 8));
    for (unsigned i = ARRAY_LEN(callee_saved); i-- > 0;)
        emit_pop(e, callee_saved[i]);
    emit8(e, 0xc3);
}

/* Goes on in translated code at R11, perhaps with RESUME_*; the monitor's stack pointer is in its place. */
static void emit_resume(struct emit *e, const struct translate *t, unsigned narrow)
{
    emit_rr(e, E_W, 0x0fba, 6, S); /* btr r11, 61 */
    emit8(e, 61);
    uint8_t *no_x87 = emit_jcc(e, 3, NULL);
    emit_rm(e, E_W, 0x0fae, 1, STATE_OF(fpu.x87)); /* fxrstor64: the vector registers come after it */
    emit_target(no_x87, e->p);
    emit_rr(e, E_W, 0x0fba, 6, S); /* btr r11, 62 */
    emit8(e, 62);
    uint8_t *skip = emit_jcc(e, 3, NULL);
    emit_vectors(e, t, false);
    emit_rm(e, 0, 0x0fae, 2, STATE_OF(fpu.mxcsr)); /* ldmxcsr */
    emit_target(skip, e->p);
    emit_load(e, HSP, STATE_OF(translated.return_rsp));
    emit_give_status(e);
    emit_load_registers(e, narrow);
    emit_rr(e, 0, 0xff, 4, S); /* jmp r11 */
}

static uint32_t here(const struct translate *t, const struct emit *e)
{
    return (uint32_t)(e->p - t->write);
}

static void emit_mode(struct translate *t, struct emit *e, unsigned narrow)
{
    struct trampolines *at = &t->at;
    at->enter[narrow] = here(t, e);
    for (unsigned i = 0; i < ARRAY_LEN(callee_saved); i++)
        emit_push(e, callee_saved[i]);
    emit_lea(e, HSP, MEM(HSP, -8));
    emit_lea(e, STATE, MEM(HDI, STATE_BIAS));
    emit_store(e, STATE_OF(translated.monitor_rsp), HSP);
    emit_mov_rr(e, S, HSI);
    emit_resume(e, t, narrow);

    at->underflow[narrow] = here(t, e);
    emit_mov_imm(e, T, EXIT_UNDERFLOW);
    at->exit[narrow] = here(t, e);
    emit_store(e, STATE_OF(translated.exit), T);
    at->leave[narrow] = here(t, e);
    emit_store_registers(e, narrow);
    emit_save_status(e);
    uint8_t *join = emit_jmp(e, NULL);
    at->leave_status[narrow] = here(t, e);
    emit_store_registers(e, narrow);
    emit_target(join, e->p);
    emit_store(e, STATE_OF(translated.s), S);
    emit_save_vectors(e, t);
    emit_store(e, STATE_OF(translated.return_rsp), HSP);
    emit_load(e, HSP, STATE_OF(translated.monitor_rsp));
    emit_return_to_monitor(e);

    at->call[narrow] = here(t, e);
    emit_store_registers(e, narrow);
    emit_save_status(e);
    join = emit_jmp(e, NULL);
    at->call_status[narrow] = here(t, e);
    emit_store_registers(e, narrow);
    emit_target(join, e->p);
    emit_save_vectors(e, t);
    emit_store(e, STATE_OF(translated.return_rsp), HSP);
    emit_load(e, HSP, STATE_OF(translated.monitor_rsp));
    emit_lea(e, HDI, MEM(STATE, -STATE_BIAS));
    emit_mov_rr(e, HSI, T);
    emit_mov_imm(e, HAX, (uint64_t)(uintptr_t)translate_call);
    emit_rr(e, 0, 0xff, 2, HAX);      /* call rax */
    emit_rr(e, E_W, 0x85, HAX, HAX);  /* test rax, rax */
    uint8_t *leave = emit_jcc(e, 4, NULL);
    emit_mov_rr(e, S, HAX);
    emit_resume(e, t, narrow);
    emit_target(leave, e->p);
    emit_return_to_monitor(e);
}

void trampolines_emit(struct translate *t)
{
    struct emit e = {.p = t->write + 64, .end = t->write + CACHE_SIZE};
    emit_mode(t, &e, 0);
    emit_mode(t, &e, 1);
    t->used = t->used_base = (here(t, &e) + 63) & ~63u;
}

void translated_enter(struct translate *t, uint64_t resume)
{
    void (*enter)(struct vcpu *v, uint64_t resume);
    const uint8_t *code = t->execute + t->at.enter[t->key & KEY_NARROW ? 1 : 0];
    memcpy(&enter, &code, sizeof enter);
    enter(t->v, resume);
}
