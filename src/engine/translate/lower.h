/* Lowering: what the files that turn one guest instruction into host code share. Not for anybody else. */
#ifndef RING3_TRANSLATE_LOWER_H
#define RING3_TRANSLATE_LOWER_H

#include "cpu/decode.h"
#include "cpu/fast.h"
#include "engine/translate/internal.h"

#define STUBS_MAX (6 * BLOCK_INSNS_MAX + 8)

/* A jump in the body that leads to code behind it. */
struct stub_jump {
    uint8_t *at;      /* where its 32-bit distance stands */
    bool call;        /* `number` is a call site, else an exit */
    bool status;      /* of a call: the flags are in memory */
    uint32_t number;
};

struct lower {
    struct translate *t;
    struct vcpu *v;
    struct piece *piece;
    const uint8_t *page;  /* its bytes */
    struct piece *second; /* where the block's one instruction ends */
    struct block *block;
    struct emit e;
    uint8_t *start;   /* of the block's code, in the writable view */
    bool narrow;
    bool segments;    /* KEY_SEGMENTS */

    /* the instruction */
    struct insn in;
    struct decoded decoded;
    struct insn_use use;
    uint8_t bytes[15];
    uint64_t rip, next;
    unsigned index;   /* in the block */
    uint8_t form;     /* FORM_* */
    struct map *map;
    uint32_t slow;    /* call site of its slow way + 1 */
    uint16_t writes;  /* guest registers that it changes */
    const struct group *group; /* lower_loop.c: of its memory operand, in the second version of a loop; NULL */

    /* along the block */
    bool status;      /* the flags are in memory */
    uint8_t align[16]; /* what is known of guest registers: multiples of 2 to this power */
    bool ended;
    bool refused;     /* the instruction cannot be part of a block */
    struct stub_jump stubs[STUBS_MAX];
    unsigned stub_count;
    uint8_t *count_at; /* where the block's number of instructions is to be written */
};

extern const uint8_t host_of[16]; /* host register, or SPILLED */

static inline unsigned natural_size(const struct lower *l)
{
    return l->narrow ? 4 : 8;
}

/* Guest register number of a general register. */
static inline unsigned gpr_number(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(reg);
}

/* ---- lower.c ---- */
/* Runs the instruction in C. The block may go on behind it. */
void lower_call(struct lower *l);
/* A new exit. `rip` is where it goes, `executed` how many instructions are done then. */
uint32_t lower_exit(struct lower *l, enum exit_kind kind, uint64_t rip, unsigned executed);
/* The jump at `at` is the one that is linked. */
void lower_exit_linked(struct lower *l, uint32_t exit, uint8_t *at);
/* A jump to the exit's stub, never linked. */
void lower_exit_jump(struct lower *l, uint32_t exit);
/* Flags into memory, where they stay until they are set or wanted; back again. T is used. */
void lower_status_save(struct lower *l);
void lower_status_restore(struct lower *l);
/* The jump at `at`, with the flags where l->status says, leads to a call of the instruction's C function. */
void lower_slow_way(struct lower *l, uint8_t *at);
/* The host's instructions for one that neither branches nor needs C; false: it has none. */
bool lower_plain(struct lower *l);
/* Decodes the instruction at `off` of the page; false if it cannot be part of a block. */
bool lower_fetch(struct lower *l, unsigned off);
/* The operand that reencode() is about; NULL: none that is visible. */
const ZydisDecodedOperand *lower_memory_operand(const struct lower *l);
/* Leaves translated code through the exit, here and now. */
void lower_exit_now(struct lower *l, uint32_t exit);
/* Where the loop's credit is kept. */
struct emit_mem lower_loop_credit(const struct lower *l);
/* RSP was changed to any value: leaves the block when it is not aligned. */
void lower_rsp_check(struct lower *l);

/* ---- lower_memory.c ---- */
/* Whether this memory operand can be reached by translated code at all; if not, lower_call(). */
bool lower_memory_possible(const struct lower *l, const ZydisDecodedOperand *op, unsigned size, bool written);
/* Puts what has to be added to the returned register into T: [register + T] is the operand on the host. */
unsigned lower_address(struct lower *l, const ZydisDecodedOperand *op, unsigned size, bool checks_itself);
/* The same for a linear address in `reg`, which is aligned. */
void lower_translate(struct lower *l, unsigned reg);
/* The same in 64-bit code for an address that may not be aligned: then the access faults. */
void lower_translate_checked(struct lower *l, unsigned reg, unsigned size);
/* The operand's address does not depend on registers, but perhaps on a segment. */
bool lower_is_constant(const ZydisDecodedOperand *op);
uint64_t lower_constant_address(const struct lower *l, const ZydisDecodedOperand *op);
bool lower_has_segment_base(const struct lower *l, const ZydisDecodedOperand *op);
/* The effective address without segment in the host register `dest`, or in the one returned. */
unsigned lower_effective(struct lower *l, const ZydisDecodedOperand *op, unsigned dest);
/* After an instruction that has changed these guest registers: what is known of their alignment. */
void lower_note_result(struct lower *l, uint16_t written);
/* A guest register's value in a host register: itself, or `temp` if it lives in memory. */
unsigned lower_register(struct lower *l, unsigned guest, unsigned temp);

/* ---- lower_flow.c ---- */
/* False: not one of its instructions, or not in this form. */
bool lower_flow(struct lower *l);
bool lower_stack(struct lower *l);
/* Pushes vcpu.translated.scratch and moves RSP. */
void lower_push_scratch(struct lower *l);

/* ---- lower_loop.c ---- */
/* Behind a finished block: emits it a second time if it is a loop that gains by it. */
void lower_loop_again(struct lower *l);
/* The memory operand of an instruction in such a loop; false: it is to be reached as everywhere. */
bool lower_anchored(const struct lower *l, struct reencode_map *map);

/* ---- lower_system.c ---- */
bool lower_system(struct lower *l);

#endif
