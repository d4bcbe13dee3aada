/* What the translator's files share.
 *
 * Registers while translated code runs:
 *
 *     guest RAX RDX RBX RSI RDI RBP R8 R9 R12 R13    themselves
 *     guest RCX, RSP                                 host R10, R14
 *     guest R10 R11 R14 R15                          in vcpu.regs
 *     host R11 "S", RCX "T"                          scratch
 *     host R15                                       the state: vcpu + STATE_BIAS, 28 mod 64: a count for SHRX
 *     host RSP                                       the shadow return stack
 *     GS base                                        the shadow table
 *
 * In 32-bit code the guest has R8 and above not at all; host R8, R9, R12, R13 then hold the constants 12, 10, 11, 9.
 *
 * Flags. The guest's arithmetic flags are in the host's, and what is emitted leaves them alone. Where a check needs flags (an
 * access that may be unaligned) they are first saved to vcpu.status; until the next instruction that sets all of them, they
 * are "in memory", and faults and calls take them from there (MAP_STATUS).
 *
 * A block is straight-line code from its first instruction, with conditional branches out of it on the way. It has four
 * entries: far (checks that the address space still has this piece of code here), near (checks that vector registers are
 * loaded, if it needs them), poll (looks whether the monitor wants something; what backward branches take) and body.
 *
 * An instruction's host code first computes, in S and T only, and changes the guest's state last, so that a fault anywhere in
 * it finds the state of the instruction's start, and it can be run again from there or in the interpreter.
 *
 * A piece is one virtual page's worth of code: (virtual page, physical page, key). The key says what the code was translated
 * for: privilege, width, segments, SMAP (KEY_*). Branches within a piece, or between pieces
 * of one large page, need no check.
 */
#ifndef RING3_TRANSLATE_INTERNAL_H
#define RING3_TRANSLATE_INTERNAL_H

#include <signal.h>

#include "cpu/insn.h"
#include "engine/translate/emit.h"
#include "engine/translate/reencode.h"
#include "engine/translate/translate.h"

#define STATE_BIAS 28
#define S H11
#define T HCX
#define STATE H15
#define H_GUEST_RCX H10
#define H_GUEST_RSP H14
#define SPILLED 0xfe /* host_of[]: the register lives in memory */

/* A field of struct vcpu as seen from the state register. */
#define STATE_OF(field) MEM(STATE, (int32_t)offsetof(struct vcpu, field) - STATE_BIAS)
#define STATE_REG(n) MEM(STATE, (int32_t)(offsetof(struct vcpu, regs) + 8 * (n)) - STATE_BIAS)

#define KEY_USER 1u
#define KEY_NARROW 2u /* 32-bit code */
#define KEY_SMAP 4u      /* kernel code: user pages are out of reach unless AC is set */
#define KEY_SEGMENTS 8u /* 32-bit code whose data segments do not all begin at 0 and reach everywhere */
#define KEY_TABLE 3u /* the bits that choose jump cache and return stack */

static inline enum code_mode key_mode(uint8_t key)
{
    return !(key & KEY_NARROW) ? CODE_64 : key & KEY_SEGMENTS ? CODE_32 : CODE_32_FLAT;
}

#define CACHE_SIZE (64 * MiB)
#define BLOCKS_MAX (192u * 1024)
#define MAPS_MAX (2u * 1024 * 1024)
#define EXITS_MAX (512u * 1024)
#define SITES_MAX (256u * 1024)
#define PIECES_MAX 32768u
#define BLOCK_INSNS_MAX 64u
#define BLOCK_BYTES_MAX 24576u /* no block's host code is longer */
#define HASH_SIZE 65536u
#define BLOCK_HASH_SIZE (4 * HASH_SIZE)
#define JUMPS 65536u /* entries of a jump cache: by the low 16 bits of RIP */
#define UNPIECED_SLOTS 32u
#define RETURN_STACK_SIZE (64 * KiB)
#define RETURN_FRAME 64u
#define FORMS_SIZE 16384u
#define SIGNAL_STACK_SIZE (64 * KiB)

struct piece {
    uint64_t gpfn, vpage;
    uint32_t id;          /* never 0 */
    uint8_t key;
    bool large;           /* mapped by a large page */
    uint8_t rewrites;     /* how often its code was written */
    uint32_t next;        /* in its bucket by gpfn: id */
    uint32_t blocks;      /* first block: number + 1 */
    uint32_t spanning;    /* first block whose one instruction ends in this page: number + 1 */
    uint64_t code[PAGE_SIZE / 16 / 64]; /* bit n: some block covers bytes 16n to 16n + 15 */
};

#define BLOCK_BORROWED_MAX 7u
#define LOOP_CREDITS 512u

struct block {
    uint32_t code;        /* offset of the far entry in the cache */
    uint32_t size;
    uint16_t near, poll, body; /* entries, from `code` */
    uint16_t off, guest_bytes;
    uint16_t insns;
    bool dead, vector, avx, x87;
    uint32_t piece;
    uint32_t map;         /* first of `insns` entries */
    uint32_t next_in_piece, next_in_hash; /* numbers + 1 */
    uint32_t second, next_spanning;       /* its one instruction ends in this other piece; number + 1 */
    uint32_t incoming;    /* exits that are linked here: number + 1 */
    uint32_t exits, exit_count; /* its own */
    /* Its second version, if it is a loop (lower_loop.c): offsets from `code` of the head, of where registers are saved, of the
     * turns, and of what is behind these. */
    uint16_t loop, loop_saved, loop_body, loop_tail; /* `loop` 0: none */
    uint8_t loop_insns, loop_copies; /* so many maps follow the block's own */
    uint8_t loop_borrowed, borrowed[BLOCK_BORROWED_MAX]; /* host registers; the first counts */
};

/* One guest instruction of a block. */
#define MAP_STATUS 1u     /* the flags are in memory where it may fault */
#define MAP_ALIGN 2u      /* an unaligned address faults by itself */
#define MAP_ALIGNED 4u    /* the instruction itself faults unless its operand is aligned */
struct map {
    uint16_t host;        /* start of its code, from block.code */
    uint16_t off;         /* of the instruction in its page */
    uint8_t len;
    uint8_t address;      /* host register that holds the linear address when the access faults; H_NONE */
    uint8_t size;         /* of the access */
    uint8_t flags;
};

enum exit_kind {
    EXIT_DIRECT,    /* to another block, or to the next instruction */
    EXIT_FAR_MISS,  /* the piece of code is not, or not known to be, at its place */
    EXIT_SECOND,    /* the same of an instruction's second half */
    EXIT_INTERPRET, /* the instruction at its place is the interpreter's */
    EXIT_COUNT,     /* not so many instructions are to be executed any more */
    EXIT_CHECK,     /* vector registers are not there */
    EXIT_COLD_LOOP, /* the block's loop has too few turns for its second version */
};

/* A way out of a block to a known place. */
struct exit_site {
    uint32_t jump;        /* offset of the 32-bit distance that is linked */
    uint32_t stub;        /* where it leads while it is not linked */
    uint32_t block;
    uint32_t to;          /* block number + 1 when linked */
    uint32_t next_incoming, prev_incoming;
    uint16_t executed;    /* instructions of the block that are done when it is taken */
    uint8_t kind;         /* enum exit_kind */
    bool backward;        /* its branch leads back: link to the entry that polls */
    bool landing;         /* where a call comes back: what is loaded then is not known */
    uint64_t rip;
};

/* What a call may change besides registers and memory, if it goes to the next instruction. */
enum call_kind {
    CALL_ANY,
    CALL_SEGMENT, /* a data segment register */
    CALL_SIMPLE,  /* neither mode nor mappings */
};

/* A call of a C function for one instruction. */
struct call_site {
    struct insn in[2];    /* with the end of the run behind it */
    uint32_t block;
    uint32_t resume;      /* offset in the cache; 0: nothing follows it in its block */
    uint16_t index;       /* of the instruction in its block */
    uint64_t to_rip;      /* where it went last, if `to`, a block number + 1, is not 0 */
    uint32_t to;
    uint8_t to_key;
    bool status;          /* flags are in memory */
    uint8_t kind;         /* enum call_kind */
};

/* How an instruction at a place is to be emitted, learnt from faults. */
#define FORM_UNALIGNED 1u
#define FORM_CALL 2u
#define FORM_MISS 4u
#define FORM_NO_LOOP 8u /* of a block's first instruction: no second version */
struct form {
    uint64_t where;       /* piece id, offset */
    uint8_t form, misses, refused;
};

/* vcpu.translated.exit: the number of an exit site, or one of these. */
#define EXIT_FAULTED 0xffffffffu   /* fault.c's handler has noted why */
#define EXIT_RETURNED 0xfffffffdu  /* the state is complete in struct vcpu */
#define EXIT_UNDERFLOW 0xfffffffeu /* a return to vcpu.translated.s that no call had announced */
/* Where to go on, as C returns it to translated code: an offset in the execute view, plus this to load vector registers. */
#define RESUME_VECTORS (1ull << 62)
#define RESUME_X87 (1ull << 61)

/* Offsets of common code in the cache; [1] is for narrow code. */
struct trampolines {
    uint32_t enter[2];        /* void (struct vcpu *, const void *host | RESUME_VECTORS) */
    uint32_t exit[2];         /* jumped to with the exit in T */
    uint32_t leave[2];        /* the same with vcpu.translated.exit set */
    uint32_t leave_status[2]; /* and with the flags in memory */
    uint32_t call[2], call_status[2]; /* jumped to with the number of a call site in T */
    uint32_t underflow[2];
};

struct translate {
    struct vcpu *v;
    struct translate_counters counters;
    int fd;
    uint8_t *write, *execute; /* the two views of the code cache */
    uint32_t used, used_base;
    struct trampolines at;
    uint8_t *near;        /* one mapping within 2 GiB of struct vcpu: jump caches, return stacks */
    size_t near_size;
    int64_t *credits;     /* LOOP_CREDITS: what loops have earned, by block number */
    const uint8_t *probe; /* 8 readable bytes before a guard page */
    struct {
        uint64_t *tags, *hosts;
        uint8_t key;      /* what the entries were entered for */
    } jumps[4];
    struct {
        uint8_t *low;     /* first usable byte; a guard page lies below */
        uint64_t empty;   /* RSP of the empty stack */
        uint64_t rsp;
        bool narrow;      /* whose landings are on it: 32-bit code's */
    } returns[2];         /* kernel, user */
    uint64_t never;       /* the guest's return address on an empty stack: where no code can be, and what no guest can guess */
    uint64_t *fetch;      /* the shadow's fetch slots */
    struct block *blocks;
    uint32_t block_count;
    struct map *maps;
    uint32_t map_count;
    struct exit_site *exits;
    uint32_t exit_count;
    struct call_site *sites;
    uint32_t site_count;
    struct piece **pieces; /* by id - first_id */
    uint32_t piece_count, first_id;
    uint32_t *by_gpfn;     /* buckets of pieces: ids */
    struct {
        uint64_t vpage;
        uint8_t key, trust; /* `trust`: for how many looks more */
    } unpieced[UNPIECED_SLOTS]; /* pages where there was no RAM when we looked: ROM is interpreted */
    uint32_t *hash;        /* blocks by (piece, off): number + 1 */
    uint8_t *heat;
    struct form *forms;
    uint64_t code_generation;
    bool counted;
    uint64_t until;
    uint8_t key;           /* of the code being run */
    int entered;           /* index into `returns` of the code that runs or is to be resumed; -1: none */
    bool x87_loaded;       /* x87_complete() is to follow */
    uint64_t x87_ip, x87_dp; /* the guest's, from before the state was loaded */
    uint16_t x87_op;
    uint64_t epoch;        /* see mapping_epoch() */
    uint32_t from_exit;    /* exit to be linked to the next block: number + 1 */
    bool interpret_one;    /* the instruction at which translated code has been left is the interpreter's */
    bool from_jump;        /* the next block is an indirect branch's target */
    struct verify *verify;   /* verify.c; NULL: off */
    sigset_t signals_before; /* of the thread in run() */
    stack_t stack_before;
    uint8_t *signal_stack;
    bool have_avx, have_fsgsbase;
    /* Left by the fault handler for the monitor. */
    struct {
        uint64_t rip, gva, address;
        uint64_t last_rip; /* of the guest, of the last miss */
        unsigned repeats;
        uint32_t error;
        uint8_t signal, trap;
        enum { FAULT_IN_BLOCK, FAULT_IN_LOOP_HEAD, FAULT_IN_LOOP } place;
        unsigned loop_index; /* FAULT_IN_LOOP: of the instruction in its block */
    } fault;
};

static inline struct translate *translate_of(const struct vcpu *v)
{
    return v->engine_opaque;
}

/* ---- blocks.c: pieces, blocks, links ---- */
bool blocks_create(struct translate *t, struct error *err);
void blocks_destroy(struct translate *t);
/* Forgets all translations. Not while translated code is to be resumed. */
void blocks_flush(struct translate *t);
uint8_t translate_key(const struct vcpu *v);
/* The piece of code at CS:RIP, entered in the fetch slots; NULL if it cannot be fetched from RAM (the interpreter says why). */
struct piece *piece_current(struct translate *t);
struct piece *piece_get(const struct translate *t, uint32_t id);
/* The piece behind `piece`, which an instruction spans into; NULL if it cannot be fetched. */
struct piece *piece_following(struct translate *t, const struct piece *piece);
/* Whether being in `from` proves that the address space has `to` at its place. */
bool piece_implies(const struct piece *from, const struct piece *to);
struct block *block_find(const struct translate *t, const struct piece *piece, unsigned off);
/* The block for CS:RIP if there is one or it is warm enough to be translated now; NULL: interpret. */
struct block *block_current(struct translate *t);
/* Enters a new block in its lists. */
void block_enter(struct translate *t, struct piece *piece, struct block *block);
struct block *block_of_host(const struct translate *t, uint64_t host_rip);
void block_kill(struct translate *t, struct block *block);
void exit_link(struct translate *t, struct exit_site *exit, struct block *to);
/* struct vcpu's code_written hook. */
bool blocks_written(struct vcpu *v, gpa_t gpa, unsigned size);
/* Empties shadow return stacks, and jump caches where asked. */
void returns_reset(struct translate *t);
/* Code of the other width is about to run: what the stack has been told by code of this one is not for it. */
void returns_for_key(struct translate *t);
void jumps_reset(struct translate *t, unsigned table);
void jumps_enter(struct translate *t, uint64_t rip, const struct block *block);
struct form *form_of(struct translate *t, uint32_t piece, unsigned off, bool create);

static inline uint32_t block_number(const struct translate *t, const struct block *block)
{
    return (uint32_t)(block - t->blocks);
}

static inline uint64_t block_rip(const struct translate *t, const struct block *block)
{
    return piece_get(t, block->piece)->vpage << PAGE_SHIFT | block->off;
}

/* ---- trampolines.c ---- */
/* Writes the common code at the start of the cache. */
void trampolines_emit(struct translate *t);
/* Runs translated code at `resume` (an address in the execute view, perhaps with RESUME_VECTORS) until something leaves it. */
void translated_enter(struct translate *t, uint64_t resume);

/* ---- lower*.c ---- */
/* Translates the block at `off` of the piece. NULL if its first instruction cannot be in a block. */
struct block *block_translate(struct translate *t, struct piece *piece, unsigned off);

/* ---- fault.c ---- */
bool fault_attach(struct translate *t, struct error *err);
void fault_detach(struct translate *t);
/* After translated code has faulted: puts it right. Returns where to go on, or 0 with the state in struct vcpu. */
uint64_t fault_handle(struct translate *t);

/* ---- translate.c ---- */
/* Whether the segments are such that code of the current mode can be translated: CS and a 32-bit stack are all that counts. */
bool segments_translatable(const struct vcpu *v);
/* Whether what comes next can be translated code at all: such segments, an aligned stack pointer ... */
bool translate_possible(const struct vcpu *v);
/* The mode may be another one than at the last entry: the key, jump cache and return stacks of this one. */
void mode_update(struct translate *t);

/* ---- call.c ---- */
/* Runs the instruction of a call site in C; called by translated code. Returns where to go on, or 0. */
uint64_t translate_call(struct vcpu *v, uint64_t site);
/* After an instruction of `block` has been run in C: whether translated code can go on at `host`; makes it ready. Else 0. */
uint64_t resume_at(struct translate *t, const struct block *block, uint64_t rip, uint32_t host);
/* Adds to `resume` what the block needs of the vector and x87 registers, which then count as loaded; 0 if the guest may not
 * use them now. */
uint64_t resume_with_registers(struct translate *t, const struct block *block, uint64_t resume);
/* After translated code was left: the x87 state's pointers, which the host has put its own addresses into. */
void x87_complete(struct translate *t);
/* Before translated code runs: makes GS base the table of the current mode, and says what FS and GS are like. */
void segments_update(struct translate *t);
/* When instructions are counted: vcpu.instructions as of instruction `index` of a block that is being executed. */
void count_sync(struct translate *t, const struct block *block, unsigned index);
/* Changes with everything that may change what an address means. */
uint64_t mapping_epoch(const struct translate *t);

/* ---- inspect.c ---- */
/* struct engine's code function. */
bool translate_code(const struct vcpu *v, gpa_t gpa, gva_t gva, bool user, struct engine_code *code);

/* ---- verify.c ---- */
bool verify_create(struct translate *t, struct error *err);
void verify_destroy(struct translate *t);
/* Before a block is entered: has the interpreter execute what it holds, and puts the state back. */
void verify_begin(struct translate *t, const struct block *block);
/* After translated code has been left: compares; a difference is reported and ends the process. */
void verify_end(struct translate *t);
/* Translated code has stopped where the interpreter stopped as well (a fault, a device, code that is written): the engine's
 * loop is to do that instruction. */
bool verify_stops_here(const struct translate *t);
/* A fault was raised while a block was being verified. */
void verify_unwound(struct translate *t);

#endif
