/* Descriptors and stack frames: what segment.c, transfer.c, interrupt.c and task.c share.
 *
 * A descriptor is two dwords as the GDT or LDT holds it, three where long mode makes it 16 bytes. Functions that look
 * one up take the vector to raise, because the same mistake in a selector is #GP for a load, #TS for a stack taken from
 * a TSS. Selector error codes never carry the RPL; event_deliver() adds the EXT bit where it belongs.
 *
 * SDM vol. 3, 3.4.5, 3.5, 5.8.3, 6.14.
 */
#ifndef RING3_CPU_DESCRIPTOR_H
#define RING3_CPU_DESCRIPTOR_H

#include "cpu/segment.h"

/* Types of system descriptors, SDM vol. 3, table 3-2. */
enum system_type {
    TYPE_TSS16 = 1,
    TYPE_LDT = 2,
    TYPE_TSS16_BUSY = 3,
    TYPE_CALL16 = 4,
    TYPE_TASK_GATE = 5,
    TYPE_INT16 = 6,
    TYPE_TRAP16 = 7,
    TYPE_TSS32 = 9, /* in long mode: the 64-bit TSS, and so for the gates below */
    TYPE_TSS32_BUSY = 11,
    TYPE_CALL32 = 12,
    TYPE_INT32 = 14,
    TYPE_TRAP32 = 15,
};
#define TYPE_BUSY 2u

/* Hidden parts that SYSCALL and its kin load without looking at a table. */
#define ATTR_CODE64 (SEG_ATTR_G | SEG_ATTR_L | SEG_ATTR_P | SEG_ATTR_S | 0xbu)
#define ATTR_CODE32 (SEG_ATTR_G | SEG_ATTR_DB | SEG_ATTR_P | SEG_ATTR_S | 0xbu)
#define ATTR_DATA32 (SEG_ATTR_G | SEG_ATTR_DB | SEG_ATTR_P | SEG_ATTR_S | 0x3u)
#define ATTR_REAL (SEG_ATTR_P | SEG_ATTR_S | 0x3u)
#define ATTR_DPL(dpl) ((uint32_t)(dpl) << SEG_ATTR_DPL_SHIFT)

static inline unsigned descriptor_type(const struct descriptor *d)
{
    return d->high >> 8 & 0xf;
}

static inline bool descriptor_is_system(const struct descriptor *d)
{
    return !(d->high & SEG_ATTR_S << 8);
}

static inline bool descriptor_is_code(const struct descriptor *d)
{
    return (d->high & (SEG_ATTR_S | SEG_ATTR_CODE) << 8) == (SEG_ATTR_S | SEG_ATTR_CODE) << 8;
}

static inline bool descriptor_is_conforming(const struct descriptor *d)
{
    return descriptor_is_code(d) && (d->high & SEG_ATTR_EC << 8);
}

static inline bool descriptor_is_writable(const struct descriptor *d) /* data that can be written */
{
    return (d->high & (SEG_ATTR_S | SEG_ATTR_CODE | SEG_ATTR_RW) << 8) == (SEG_ATTR_S | SEG_ATTR_RW) << 8;
}

static inline unsigned descriptor_dpl(const struct descriptor *d)
{
    return d->high >> 13 & 3;
}

static inline bool descriptor_is_present(const struct descriptor *d)
{
    return (d->high & SEG_ATTR_P << 8) != 0;
}

static inline bool descriptor_is_code64(const struct vcpu *v, const struct descriptor *d)
{
    return vcpu_long_mode(v) && (d->high & SEG_ATTR_L << 8);
}

static inline bool selector_is_null(uint16_t selector)
{
    return (selector & ~3u) == 0;
}

static inline unsigned segment_dpl(const struct segment *s)
{
    return (s->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
}

/* Linear addresses of tables and task state segments: 32 bits outside long mode. */
static inline gva_t gva_system(const struct vcpu *v, gva_t gva)
{
    return vcpu_long_mode(v) ? gva : (uint32_t)gva;
}

/* Raises `vector` with the selector (without RPL) as its error code. */
_Noreturn void fault_selector(struct vcpu *v, enum vector vector, uint16_t selector);

/* False if the selector is null or lies outside its table. Reads 8 bytes. */
bool descriptor_find(struct vcpu *v, uint16_t selector, struct descriptor *d);
/* The same, raising `vector` with the selector. */
void descriptor_read(struct vcpu *v, uint16_t selector, enum vector vector, struct descriptor *d);
/* Reads the second half of a system descriptor in long mode (nothing to do elsewhere); raises #GP(selector) if it lies
 * outside the table or is not one. */
void descriptor_read_upper(struct vcpu *v, uint16_t selector, struct descriptor *d);
/* Sets and clears bits in the access byte of a descriptor in its table, in one locked operation. */
void descriptor_update(struct vcpu *v, uint16_t selector, uint8_t set, uint8_t clear);
/* Sets the accessed bit, in the table if need be and in `d`. */
void descriptor_set_accessed(struct vcpu *v, uint16_t selector, struct descriptor *d);
/* Where the access byte lies, to be probed before a task switch. */
gva_t descriptor_gva(struct vcpu *v, uint16_t selector);

/* A system segment register (LDTR, TR) from a descriptor with its upper half. */
void segment_from_system(struct vcpu *v, struct segment *seg, uint16_t selector, const struct descriptor *d);
/* Loads a null selector: any use faults, outside 64-bit mode. `dpl` keeps CPL where SS may be null. */
void segment_set_null(struct segment *seg, uint16_t selector, unsigned dpl);
/* As virtual-8086 mode has it. */
void segment_set_v86(struct segment *seg, uint16_t selector);
/* Base 0, limit 4 GiB. */
void segment_set_flat(struct segment *seg, uint16_t selector, uint32_t attr);

/* A stack that is being built: the current one or another, always before any register is changed. */
struct frame {
    struct segment ss;
    uint64_t sp;     /* already pushed down */
    uint64_t mask;   /* the stack pointer's size */
    uint32_t error;  /* of the #SS that is raised when there is no room */
    unsigned access; /* ACCESS_* of the privilege that owns the stack */
    bool wide;       /* 64-bit: no limits */
};

/* On the stack in use; with `wide` as 64-bit code will see it. */
void frame_init_current(struct vcpu *v, struct frame *f, bool wide);
/* On the stack that the TSS keeps for `cpl` (in long mode `ist` of 1 to 7 names another); raises #TS, #SS. */
void frame_init_inner(struct vcpu *v, struct frame *f, unsigned cpl, unsigned ist);
void frame_push(struct vcpu *v, struct frame *f, unsigned size, uint64_t value);
/* Puts SS and RSP in place. The caller calls vcpu_mode_changed(). */
void frame_commit(struct vcpu *v, const struct frame *f);

/* #GP(0) unless `offset` can be executed in that code segment. */
void code_check_offset(struct vcpu *v, const struct descriptor *code, uint64_t offset);
/* Loads CS with `rpl` in its selector. */
void code_load(struct vcpu *v, uint16_t selector, unsigned rpl, const struct descriptor *code);

/* Task switches (task.c). */
enum task_cause { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
struct task_switch {
    enum task_cause cause;
    uint16_t selector; /* of the new TSS */
    uint64_t rip;      /* that the old task resumes at */
    uint32_t flags;    /* that it resumes with */
    bool has_error;    /* push `error` on the new task's stack */
    uint32_t error;
};
/* Switches to `t->selector`, which a JMP, CALL or task gate named. Raises before anything is changed in the old task's
 * context, later ones in the new task's (v->rip and v->next_rip then are the new task's). Not in long mode. */
void task_switch(struct vcpu *v, const struct task_switch *t);

#endif
