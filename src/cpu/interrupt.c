/* Delivery of exceptions and interrupts, and the instructions that ask for one.
 *
 * Model. An event goes through the interrupt vector table (real mode, and v86 mode with CR4.VME for INT n that the
 * TSS's map redirects), through an interrupt or trap gate, or through a task gate. The frame is built with the
 * privilege of the handler, before any register changes; then registers change and nothing can fault any more (a task
 * gate is the exception: later faults belong to the new task).
 *
 * Faults while delivering. event_deliver() catches them with an unwind point of its own and applies table 6-5: benign
 * ones are delivered in turn, two contributory ones (or a page fault first) become #DF, a fault while delivering #DF
 * shuts the processor down. INT n, INT3, INTO and INT1 run as instructions: their faults unwind to the engine, which
 * delivers them for the instruction itself. A guest can build a chain of benign faults that never ends (#AC whose
 * handler's stack is misaligned); processors loop, ring3 shuts the guest down after EVENT_ROUNDS_MAX.
 *
 * Error codes: faults on the way get the EXT bit unless INT n, INT3 or INTO was delivered; it is added where they are
 * caught.
 *
 * RF in the pushed flags is 1 for faults, except #DB for an instruction breakpoint; else it is what it was, and 0 for
 * software interrupts, which complete.
 *
 * Each delivered event goes through the door once, when nothing can prevent it any more.
 *
 * SDM vol. 3, chapter 6, 17.3.1.1, 20.1.4, 20.2, 20.3; APM vol. 2, chapter 8.
 */
#include "cpu/cpuid.h"
#include "cpu/descriptor.h"
#include "cpu/msr.h"
#include "cpu/ops.h"
#include "cpu/watch.h"
#include "mmu/access.h"

#define EVENT_ROUNDS_MAX 16

#define DR6_BREAKPOINTS 0xfull
#define DR6_BD (1ull << 13)
#define DR7_GD (1ull << 13)

struct event {
    enum event_kind kind;
    struct fault fault;
    uint64_t return_rip; /* what gets pushed */
};

static bool event_is_soft(const struct event *e)
{
    return e->kind == EVENT_SOFT_INT || e->kind == EVENT_SOFT_EXCEPTION;
}

static bool event_has_error(const struct event *e)
{
    return e->kind == EVENT_EXCEPTION && e->fault.has_error;
}

static uint32_t gate_error(const struct event *e)
{
    return e->fault.vector * 8u + ERROR_IDT;
}

/* The flags that are saved for the interrupted code. */
static uint32_t event_flags(const struct vcpu *v, const struct event *e)
{
    uint32_t flags = rflags_get(v);
    if (event_is_soft(e) || e->kind == EVENT_PRIV_SOFT)
        return flags & ~FLAG_RF;
    if (e->kind != EVENT_EXCEPTION)
        return flags;
    switch (e->fault.vector) {
    case VECTOR_DB: return !e->fault.trap && (e->fault.dr6 & DR6_BD) ? flags | FLAG_RF : flags;
    case VECTOR_NMI:
    case VECTOR_BP:
    case VECTOR_OF:
    case VECTOR_DF:
    case VECTOR_MC: return flags;
    default: return flags | FLAG_RF;
    }
}

/* Through the door, before registers change. */
static void event_count(struct vcpu *v, const struct event *e)
{
    static const uint8_t reasons[] = {
        [EVENT_EXTERNAL] = EXIT_INTERRUPT,
        [EVENT_NMI] = EXIT_NMI,
        [EVENT_EXCEPTION] = EXIT_EXCEPTION,
        [EVENT_SOFT_INT] = EXIT_SOFT_INTERRUPT,
        [EVENT_SOFT_EXCEPTION] = EXIT_EXCEPTION,
        [EVENT_PRIV_SOFT] = EXIT_EXCEPTION,
    };
    struct exit exit = {.reason = reasons[e->kind], .vector = e->fault.vector};
    if (event_has_error(e))
        exit.error = e->fault.error;
    if (e->kind == EVENT_EXCEPTION && e->fault.vector == VECTOR_PF)
        exit.address = e->fault.address;
    vcpu_exit(v, &exit);
}

/* CR2 and DR6 hold the circumstances whether or not a handler is reached. #DB clears DR7.GD, DEBUGCTL.LBR and .BTF. */
static void event_circumstances(struct vcpu *v, const struct event *e)
{
    if (e->kind == EVENT_EXCEPTION && e->fault.vector == VECTOR_PF)
        v->cr2 = e->fault.address;
    if (e->kind == EVENT_EXCEPTION && e->fault.vector == VECTOR_DB) {
        v->dr[6] = (v->dr[6] & ~DR6_BREAKPOINTS) | e->fault.dr6;
        v->dr[7] &= ~DR7_GD;
        v->msr.debugctl &= ~(DEBUGCTL_LBR | DEBUGCTL_BTF);
    }
}

/* Registers after the frame has been built. */
static void handler_go(struct vcpu *v, uint64_t rip, uint32_t clear)
{
    rflags_set(v, rflags_get(v) & ~clear);
    v->rip = v->next_rip = rip;
    vcpu_mode_changed(v);
}

/* ---- interrupt vector tables ---- */

/* Pushes FLAGS, CS and IP and goes to the far pointer at `entry` of an interrupt vector table. */
static void vector_table_deliver(struct vcpu *v, const struct event *e, gva_t entry, uint32_t flags, uint32_t clear)
{
    struct frame f;
    uint32_t to = (uint32_t)access_read(v, entry, 4, ACCESS_IMPLICIT);
    frame_init_current(v, &f, false);
    frame_push(v, &f, 2, flags);
    frame_push(v, &f, 2, v->seg[SEG_CS].selector);
    frame_push(v, &f, 2, e->return_rip);
    event_count(v, e);
    frame_commit(v, &f);
    segment_load_real(v, SEG_CS, (uint16_t)(to >> 16));
    handler_go(v, to & 0xffff, clear);
}

static void deliver_real(struct vcpu *v, const struct event *e)
{
    unsigned offset = e->fault.vector * 4u;
    if (offset + 3 > v->idtr.limit)
        fault_gp(v, gate_error(e));
    vector_table_deliver(v, e, gva_system(v, v->idtr.base + offset), event_flags(v, e),
                         FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
}

/* INT n in v86 mode. With CR4.VME the bit for n in the map below the I/O permission map, when clear, sends it to the
 * 8086 program's own table. Returns true if that was done; raises #GP(0) if the monitor has to do it. */
static bool deliver_v86_redirected(struct vcpu *v, const struct event *e)
{
    const struct segment *tr = &v->seg[SEG_TR];
    unsigned iopl = vcpu_iopl(v), vector = e->fault.vector;
    if (v->cr4 & CR4_VME) {
        if ((tr->attr & SEG_ATTR_NULL) || (tr->attr & SEG_ATTR_TYPE) < TYPE_TSS32 || tr->limit < 0x67)
            fault_gp(v, 0);
        uint32_t map = (uint32_t)access_read(v, gva_system(v, tr->base + 0x66), 2, ACCESS_IMPLICIT);
        uint32_t offset = map - 32 + vector / 8;
        if (map < 32 || offset > tr->limit)
            fault_gp(v, 0);
        uint64_t bits = access_read(v, gva_system(v, tr->base + offset), 1, ACCESS_IMPLICIT);
        if (!(bits >> vector % 8 & 1)) {
            uint32_t flags = event_flags(v, e), interrupt = FLAG_IF;
            if (iopl < 3) {
                flags = (flags & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
                interrupt = FLAG_VIF;
            }
            vector_table_deliver(v, e, vector * 4, flags, interrupt | FLAG_TF | FLAG_RF);
            return true;
        }
    }
    if (iopl < 3)
        fault_gp(v, 0);
    return false;
}

/* ---- gates ---- */

struct gate {
    unsigned type, dpl;
    bool present;
    uint16_t selector;
    uint64_t offset;
    unsigned ist;
    unsigned size; /* of what is pushed: 2, 4, 8 */
};

static struct gate gate_read(struct vcpu *v, const struct event *e)
{
    bool wide = vcpu_long_mode(v);
    unsigned length = wide ? 16 : 8, offset = e->fault.vector * length;
    if (offset + length - 1 > v->idtr.limit)
        fault_gp(v, gate_error(e));
    gva_t gva = gva_system(v, v->idtr.base + offset);
    uint64_t word = access_read(v, gva, 8, ACCESS_IMPLICIT);
    uint64_t upper = wide ? access_read(v, gva + 8, 8, ACCESS_IMPLICIT) : 0;
    struct gate gate = {
        .type = word >> 40 & 0x1f,
        .dpl = word >> 45 & 3,
        .present = word >> 47 & 1,
        .selector = (uint16_t)(word >> 16),
        .offset = (word & 0xffff) | (word >> 32 & 0xffff0000u),
        .ist = wide ? word >> 32 & 7 : 0,
        .size = wide ? 8 : 4,
    };
    bool ok = gate.type == TYPE_INT32 || gate.type == TYPE_TRAP32;
    if (wide) {
        gate.offset |= upper << 32;
    } else if (gate.type == TYPE_INT16 || gate.type == TYPE_TRAP16 || gate.type == TYPE_TASK_GATE) {
        ok = true;
        gate.size = 2;
        gate.offset &= 0xffff;
    }
    if (!ok || (event_is_soft(e) && gate.dpl < v->cpl))
        fault_gp(v, gate_error(e));
    if (!gate.present)
        fault_np(v, gate_error(e));
    return gate;
}

/* The handler's code segment; `*inner` if it runs at a more privileged level. */
static void handler_code_read(struct vcpu *v, const struct gate *gate, struct descriptor *code, bool *inner)
{
    if (selector_is_null(gate->selector))
        fault_gp(v, 0);
    descriptor_read(v, gate->selector, VECTOR_GP, code);
    unsigned dpl = descriptor_dpl(code);
    bool conforming = descriptor_is_conforming(code);
    bool ok = descriptor_is_code(code) && dpl <= v->cpl;
    if (vcpu_long_mode(v) && (!descriptor_is_code64(v, code) || (code->high & SEG_ATTR_DB << 8)))
        ok = false;
    if (vcpu_v86(v) && (conforming || dpl != 0))
        ok = false;
    if (!ok)
        fault_selector(v, VECTOR_GP, gate->selector);
    if (!descriptor_is_present(code))
        fault_selector(v, VECTOR_NP, gate->selector);
    *inner = !conforming && dpl < v->cpl;
}

static void frame_init_handler(struct vcpu *v, struct frame *f, const struct gate *gate, bool inner, unsigned cpl)
{
    if (inner || gate->ist != 0)
        frame_init_inner(v, f, cpl, gate->ist);
    else
        frame_init_current(v, f, gate->size == 8);
    if (gate->size == 8)
        f->sp &= ~15ull;
}

static void deliver_through_gate(struct vcpu *v, const struct event *e, const struct gate *gate)
{
    static const uint8_t v86_data[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    struct descriptor code;
    struct frame f;
    bool inner;
    bool from_v86 = vcpu_v86(v);
    unsigned size = gate->size;
    handler_code_read(v, gate, &code, &inner);
    unsigned cpl = inner ? descriptor_dpl(&code) : v->cpl;
    frame_init_handler(v, &f, gate, inner, cpl);
    code_check_offset(v, &code, gate->offset);
    descriptor_set_accessed(v, gate->selector, &code);
    if (from_v86)
        for (unsigned i = 0; i < ARRAY_LEN(v86_data); i++)
            frame_push(v, &f, size, v->seg[v86_data[i]].selector);
    if (inner || size == 8) {
        frame_push(v, &f, size, v->seg[SEG_SS].selector);
        frame_push(v, &f, size, v->regs[RSP]);
    }
    frame_push(v, &f, size, event_flags(v, e));
    frame_push(v, &f, size, v->seg[SEG_CS].selector);
    frame_push(v, &f, size, e->return_rip);
    if (event_has_error(e))
        frame_push(v, &f, size, e->fault.error);
    event_count(v, e);

    if (from_v86)
        for (unsigned i = 0; i < ARRAY_LEN(v86_data); i++)
            segment_set_null(&v->seg[v86_data[i]], 0, 0);
    frame_commit(v, &f);
    code_load(v, gate->selector, cpl, &code);
    bool interrupt = gate->type == TYPE_INT32 || gate->type == TYPE_INT16;
    handler_go(v, gate->offset, FLAG_TF | FLAG_NT | FLAG_VM | FLAG_RF | (interrupt ? FLAG_IF : 0));
}

static void deliver(struct vcpu *v, const struct event *e)
{
    event_circumstances(v, e);
    if (!(v->cr0 & CR0_PE)) {
        deliver_real(v, e);
        return;
    }
    if (vcpu_v86(v) && e->kind == EVENT_SOFT_INT && deliver_v86_redirected(v, e))
        return;
    struct gate gate = gate_read(v, e);
    if (gate.type != TYPE_TASK_GATE) {
        deliver_through_gate(v, e, &gate);
        return;
    }
    struct task_switch t = {
        .cause = TASK_EVENT,
        .selector = gate.selector,
        .rip = e->return_rip,
        .flags = event_flags(v, e),
        .has_error = event_has_error(e),
        .error = e->fault.error,
    };
    event_count(v, e);
    task_switch(v, &t);
}

/* ---- events from the engine ---- */

/* False: v->fault prevented it. */
static __attribute__((noinline)) bool deliver_attempt(struct vcpu *v, const struct event *e)
{
    jmp_buf here;
    jmp_buf *const outer = v->unwind;
    v->unwind = &here;
    if (setjmp(here) != 0) {
        v->unwind = outer;
        return false;
    }
    deliver(v, e);
    v->unwind = outer;
    return true;
}

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE };

static enum fault_class class_of(const struct event *e)
{
    if (e->kind != EVENT_EXCEPTION)
        return CLASS_BENIGN;
    switch (e->fault.vector) {
    case VECTOR_DE:
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP: return CLASS_CONTRIBUTORY;
    case VECTOR_PF: return CLASS_PAGE;
    default: return CLASS_BENIGN;
    }
}

static bool event_is_double_fault(const struct event *e)
{
    return e->kind == EVENT_EXCEPTION && e->fault.vector == VECTOR_DF;
}

static bool makes_double_fault(const struct event *first, const struct event *second)
{
    if (class_of(first) == CLASS_CONTRIBUTORY)
        return class_of(second) == CLASS_CONTRIBUTORY;
    return class_of(first) == CLASS_PAGE && class_of(second) != CLASS_BENIGN;
}

static void chain_add(struct vcpu *v, const struct fault *fault)
{
    if (v->fault_chain_length == ARRAY_LEN(v->fault_chain)) {
        v->fault_chain[0] = v->fault_chain[1];
        v->fault_chain[1] = v->fault_chain[2];
        v->fault_chain_length--;
    }
    v->fault_chain[v->fault_chain_length++] = *fault;
}

static void shut_down(struct vcpu *v)
{
    struct exit exit = {.reason = EXIT_TRIPLE_FAULT, .vector = VECTOR_DF};
    v->shutdown_rip = v->rip;
    v->activity = ACTIVITY_SHUTDOWN;
    vcpu_exit(v, &exit);
}

/* The fault that `first` met when it was delivered. */
static struct event event_from_fault(struct vcpu *v, const struct event *first)
{
    struct event second = {.kind = EVENT_EXCEPTION, .fault = v->fault, .return_rip = v->rip};
    bool selector_error = class_of(&second) == CLASS_CONTRIBUTORY || second.fault.vector == VECTOR_AC;
    if (second.fault.has_error && selector_error && !event_is_soft(first))
        second.fault.error |= ERROR_EXT;
    event_circumstances(v, &second); /* CR2 is the second page fault's even when it becomes #DF or a shutdown */
    return second;
}

static void deliver_rounds(struct vcpu *v, enum event_kind kind, const struct fault *fault)
{
    struct event e = {.kind = kind, .fault = *fault, .return_rip = v->rip};
    if (v->activity == ACTIVITY_HLT)
        v->activity = ACTIVITY_RUNNING;
    if (kind == EVENT_NMI) {
        e.fault.vector = VECTOR_NMI;
        v->nmi_blocked = true;
    }
    v->shadow = 0;
    v->fault_chain_length = 0;
    chain_add(v, &e.fault);
    for (unsigned round = 0; !deliver_attempt(v, &e); round++) {
        struct event second = event_from_fault(v, &e);
        chain_add(v, &second.fault);
        if ((event_is_double_fault(&e) && class_of(&second) != CLASS_BENIGN) || round == EVENT_ROUNDS_MAX) {
            shut_down(v);
            return;
        }
        if (makes_double_fault(&e, &second))
            second.fault = (struct fault){.vector = VECTOR_DF, .has_error = true};
        e = second;
    }
    v->fault_chain_length = 0;
}

void event_deliver(struct vcpu *v, enum event_kind kind, const struct fault *fault)
{
    deliver_rounds(v, kind, fault);
    if (unlikely(v->watch != NULL) && v->watch->delivered != NULL && v->rehearsal == NULL)
        v->watch->delivered(v->watch->opaque, v);
}

/* ---- instructions ---- */

static void event_from_instruction(struct vcpu *v, enum event_kind kind, unsigned vector)
{
    struct event e = {.kind = kind, .fault.vector = (uint8_t)vector, .return_rip = v->next_rip};
    deliver(v, &e);
}

void op_int(struct vcpu *v, const struct insn *in)
{
    event_from_instruction(v, EVENT_SOFT_INT, in->imm & 0xff);
}

void op_int3(struct vcpu *v, const struct insn *in)
{
    event_from_instruction(v, EVENT_SOFT_EXCEPTION, VECTOR_BP);
}

void op_into(struct vcpu *v, const struct insn *in)
{
    if (v->status & STATUS_OF)
        event_from_instruction(v, EVENT_SOFT_EXCEPTION, VECTOR_OF);
}

void op_int1(struct vcpu *v, const struct insn *in)
{
    event_from_instruction(v, EVENT_PRIV_SOFT, VECTOR_DB);
}
