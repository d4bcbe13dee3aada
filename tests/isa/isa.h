/* The differential test: the same bytes, on the host's processor and on ring3's interpreter.
 *
 * Guest and host share an instruction set, so the host's processor says what every unprivileged instruction does. A *case*
 * is a few bytes of code with a complete user-mode state and a small arena of memory. It is run twice:
 *
 *   native.c  a child process puts the whole state into a signal frame and returns from the signal; the case ends at an
 *             INT3 (all code memory around it is INT3) or at a fault, whose signal frame is the result;
 *   vcpu.c    a vCPU in long mode at CPL 3, with page tables and descriptor tables like the child's, interprets it until
 *             it stands at the same INT3 or faults; or an engine runs it to there.
 *
 * compare.c judges the two results: all registers, RIP, flags that are defined, vector state, memory, vector number,
 * error code and CR2. encodings.c finds out which byte patterns exist for each row of insn.def by asking the decoder about
 * all of them; generate.c makes cases from these. A case depends on nothing but (seed, row, number), so that a failing one
 * can be repeated alone.
 *
 * Memory, the same for both (linear addresses; all below 2 GiB, so that every form of addressing can reach it):
 *
 *   ARENA      2 pages  read-write       compared after each case
 *   ARENA_RO   1 page   read only        behind it, and behind that nothing
 *   CODE       2 pages  read and execute, nothing behind
 *   ALIAS      3 pages  ARENA and ARENA_RO again, high up: for 64-bit addresses
 *
 * Segments: the selectors of Linux' GDT, and an LDT (below) for 16-bit code and for segments with bases and limits.
 *
 * What the host cannot show (privileged instructions that succeed, interrupts, anything with a result that rightly differs
 * between two machines) is tested elsewhere; elsewhere.def says where, row by row.
 */
#ifndef RING3_TESTS_ISA_H
#define RING3_TESTS_ISA_H

#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "base/types.h"

#define ARENA 0x20000000ull
#define ARENA_SIZE 0x2000u
#define ARENA_RO (ARENA + ARENA_SIZE)
#define ALIAS 0x123456780000ull
#define CODE 0x30000000ull
#define CODE_SIZE 0x2000u
#define CODE_MAX 64u   /* bytes of code in a case, ... */
#define CODE_ROOM 768u /* ... or, if it is a program */

enum isa_mode { ISA_64, ISA_32, ISA_16, ISA_MODE_COUNT };

enum isa_seg { ISA_ES, ISA_CS, ISA_SS, ISA_DS, ISA_FS, ISA_GS, ISA_SEG_COUNT };

/* Linux' selectors. */
#define SEL_USER32_CS 0x23
#define SEL_USER_DS 0x2b
#define SEL_USER_CS 0x33

/* The LDT: X(index, name, base, limit in bytes, struct user_desc contents, 32-bit, read only or execute only) */
#define ISA_LDT(X)                                                                                                     \
    X(0, LDT_DATA32, ARENA, 0x1fff, 0, 1, 0)                                                                           \
    X(1, LDT_DATA16, ARENA, 0x1fff, 0, 0, 0)                                                                           \
    X(2, LDT_DOWN, ARENA, 0x0fff, 1, 1, 0)                                                                             \
    X(3, LDT_READ, ARENA, 0x1fff, 0, 1, 1)                                                                             \
    X(4, LDT_CODE16, CODE, 0xffff, 2, 0, 0)                                                                            \
    X(5, LDT_CODE32, CODE, 0xffff, 2, 1, 0)
enum isa_ldt {
#define X(index, name, base, limit, contents, big, readonly) name = (index) * 8 + 7,
    ISA_LDT(X)
#undef X
};
#define ISA_LDT_COUNT 6

struct isa_state {
    uint64_t gpr[16]; /* in encoding order */
    uint64_t rip;     /* offset within CS */
    uint64_t rflags;
    uint64_t fs_base, gs_base; /* meaningful in 64-bit mode only */
    uint16_t seg[ISA_SEG_COUNT];
    uint32_t mxcsr;
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged, as in FXSAVE */
    uint8_t st[8][16];
    uint8_t ymm[16][32];
};

/* `vector` of a case that ended at an INT3, that did not end, or that took its runner along. */
#define ISA_END 0x100u
#define ISA_HANG 0x101u
#define ISA_CRASH 0x102u

struct isa_result {
    uint32_t vector;
    uint32_t error;
    uint64_t cr2;
    struct isa_state state;
    uint8_t arena[ARENA_SIZE];
};

#define ISA_PATCHES 6
struct isa_case {
    uint64_t seed;
    uint64_t number;
    uint16_t row;
    uint8_t mode;
    uint16_t length;     /* of the code */
    uint8_t count;       /* instructions */
    uint8_t patch_count;
    uint16_t code_offset;
    uint8_t code[CODE_ROOM];
    struct isa_state state;
    struct {
        uint16_t offset; /* in the arena; may reach over its end: then it is cut */
        uint8_t size;
        uint8_t bytes[64];
    } patch[ISA_PATCHES]; /* on top of isa_noise() */
};

/* ---- rows: those of insn.def, then three of the test's own ---- */
enum isa_row {
#define INSN(mnemonic, how, meaning, lowering) ROW_##mnemonic,
#include "cpu/insn.def"
#undef INSN
    ROW_SEQUENCE, /* a few instructions without jumps */
    ROW_BYTES,    /* valid instructions damaged, and random bytes */
    ROW_PROGRAM,  /* up to 40 instructions with loops, branches and calls */
    ISA_ROW_COUNT
};
const char *isa_row_name(unsigned row);
/* -1 if there is no such row. */
int isa_row_find(const char *name);
ZydisMnemonic isa_row_mnemonic(unsigned row);
int isa_row_of(ZydisMnemonic mnemonic);
/* Where the row is tested instead of here, or NULL. */
const char *isa_row_elsewhere(unsigned row);

/* ---- random numbers: splitmix64 ---- */
struct rng {
    uint64_t s;
};

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static inline unsigned rng_below(struct rng *rng, unsigned n)
{
    return (unsigned)((rng_next(rng) >> 32) * n >> 32);
}

/* True once in `n` times. */
static inline bool rng_one_in(struct rng *rng, unsigned n)
{
    return rng_below(rng, n) == 0;
}

/* What the arena (ARENA_SIZE + PAGE_SIZE bytes) holds before the patches; the same in every run. */
const uint8_t *isa_noise(void);
/* Puts the patches of `c` over `arena` (ARENA_SIZE bytes). */
void isa_patch(const struct isa_case *c, uint8_t *arena);

/* Linear base that the selector has in the test's tables. */
uint64_t isa_seg_base(const struct isa_state *state, enum isa_mode mode, enum isa_seg seg);
const ZydisDecoder *isa_decoder(enum isa_mode mode);

/* ---- encodings.c ---- */
struct encoding {
    uint16_t row;
    uint8_t vex;    /* else legacy */
    uint8_t map;    /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
    uint8_t opcode;
    uint8_t prefix; /* 0, 66, F2, F3 */
    uint8_t w, l;
    bool has_modrm;
    uint64_t modrm[4]; /* set of ModRM bytes */
};

struct native_features {
    bool ldt;      /* modify_ldt() works: 16-bit code and segments */
    bool fsgsbase; /* FS and GS bases can be set: they are, in 64-bit mode */
};

struct encodings {
    struct native_features features; /* of the host that the cases are for */
    struct encoding *list[ISA_MODE_COUNT]; /* sorted by row */
    unsigned count[ISA_MODE_COUNT];
    unsigned first[ISA_MODE_COUNT][ISA_ROW_COUNT + 1];
};
/* Does not touch `features`. */
void encodings_find(struct encodings *e);
void encodings_free(struct encodings *e);

/* ---- generate.c ---- */
/* The case of that seed, row and number, in a mode of its own choice. False when there is no encoding of the row. */
bool isa_generate(const struct encodings *e, uint64_t seed, unsigned row, uint64_t number, struct isa_case *c);

/* ---- program.c ---- */
#define PROGRAM_ITEMS 128u
/* A set of a program's items. */
struct item_set {
    uint64_t bits[PROGRAM_ITEMS / 64];
};
/* The same case, if it is a program, without the items in `dropped`. Returns how many items there are to drop; 0 if nothing
 * is left. */
unsigned isa_program_without(const struct encodings *e, const struct isa_case *whole, const struct item_set *dropped,
                             struct isa_case *c);
/* The CPU flags that are undefined where the program comes to `rip`. */
unsigned isa_program_undefined(const struct isa_case *c, uint64_t rip);

/* ---- native.c ---- */
#define BATCH 128u
struct native;
/* NULL with a message on stderr when this host cannot run the test. */
struct native *native_create(void);
void native_destroy(struct native *n);
struct native_features native_features(const struct native *n);
/* Cases go into this array; native_start() makes the child run the first `count`, native_wait() waits for the results. */
struct isa_case *native_cases(struct native *n);
void native_start(struct native *n, unsigned count);
const struct isa_result *native_wait(struct native *n);

/* ---- vcpu.c ---- */
struct isa_vcpu;
struct engine;
/* `engine` NULL: stepped by the interpreter. */
struct isa_vcpu *isa_vcpu_create(struct native_features features, const struct engine *engine);
void isa_vcpu_destroy(struct isa_vcpu *t);
void isa_vcpu_run(struct isa_vcpu *t, const struct isa_case *c, struct isa_result *result);

/* ---- compare.c ---- */
enum isa_verdict { ISA_SAME, ISA_EXCUSED /* a known difference between processors */, ISA_DIFFERENT };
/* With a count of zero it changes no flag: shifts, rotates, repeated comparisons. */
bool isa_may_keep_flags(const ZydisDecodedInstruction *in);
enum isa_verdict isa_compare(const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3);
/* Which difference between two correct processors this is, if it is one; or NULL. */
const char *isa_excuse(const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3);
void isa_report(FILE *out, const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3);
/* On one line; values are host:ring3. */
void isa_report_brief(FILE *out, const struct isa_case *c, const struct isa_result *native,
                      const struct isa_result *ring3);

#endif
