/* What happened between two marks, in order: each trap of a classical monitor, and each change of page table.
 *
 * The story is told by an observer (engine/door.h) that listens to a machine of one processor. An *act* is one thing
 * the guest did that such a monitor hears of: a privileged instruction, a gate, an access to a device's memory, an
 * exception, an interrupt. Instructions that are sensitive but silent are acts, too, but no traps. The same holds
 * under any engine that runs in this process; the story is then about what a classical monitor would be told, and what
 * this monitor did.
 *
 * The marks are bytes that the guest writes to port 402h: '[' begins, ']' ends (docs/hypercalls.md). Only what lies
 * strictly between the first of each is told. Bounded: ACTS_MAX acts, STEPS_MAX steps; beyond, only counters go on.
 *
 * All on the vCPU's thread, until the run has ended; then story_print() and the others may be called.
 */
#ifndef RING3_CLI_STORY_H
#define RING3_CLI_STORY_H

#include <jansson.h>
#include <stdio.h>

#include "base/symbols.h"
#include "engine/disasm.h"
#include "engine/door.h"

#define ACTS_MAX 4096u
#define STEPS_MAX 4096u
#define SPACES_MAX 64u
#define WHO_SIZE 17u

enum act_kind { ACT_INSTRUCTION, ACT_DEVICE, ACT_EXCEPTION, ACT_INTERRUPT, ACT_KIND_COUNT };

struct act {
    enum act_kind kind;
    enum insn_sensitivity sensitivity; /* of ACT_INSTRUCTION */
    uint64_t guest_ns;
    char who[WHO_SIZE];                /* the process; "" unknown */
    unsigned cpl, cpl_after;
    uint64_t rip, rip_after, cr3;
    unsigned row;                      /* enum insn_row */
    char text[DISASM_TEXT];            /* the instruction; for an interrupt, the one that it preceded */
    bool has_exit;
    struct exit exit;                  /* the last one within */
    unsigned exits;
    char device[32];
};

/* The page table in force: which address space, and whether pretend user or pretend kernel mode. */
struct step {
    uint64_t cr3, guest_ns;
    bool user, by_cr3; /* reached by MOV CR3, else by a change of mode */
};

struct story {
    struct observer observer; /* for struct machine_config; set by story_init() */
    const struct symbols *symbols;
    gva_t current;            /* of the guest's pointer to its process, 0: unknown */
    unsigned word;            /* size of a pointer there */
    /* Called once, when a program that is not the one of the first mark begins to run in user mode. May be NULL. */
    void (*other_runs)(void *opaque, struct vcpu *v);
    void *opaque;
    bool recording, began, ended, told_other;
    struct act *acts;
    unsigned act_count;
    struct step *steps;
    unsigned step_count;
    uint64_t traps[ACT_KIND_COUNT], silent, dropped;
    uint64_t mode_changes, cr3_loads, tlb_fills; /* tlb_fills: page-table walks that entered a translation */
    uint64_t begin_cr3, begin_fills;
    struct act open;          /* the instruction under way */
    bool is_open;
    char open_mark;           /* it was a mark: '[' or ']' */
    bool after_pending;       /* the last act's `after` is not known yet */
    struct {
        uint64_t cr3;
        char who[WHO_SIZE];
    } spaces[SPACES_MAX];
    unsigned space_count;
};

/* False with a message if there is no memory. `symbols` may be NULL. */
bool story_init(struct story *story, const struct symbols *symbols, struct error *err);
void story_fini(struct story *story);

uint64_t story_traps(const struct story *story);

/* The acts one by one, and the page tables. `colour` uses the terminal's. */
void story_print(const struct story *story, bool colour, FILE *out);
/* The same as {"traps": n, ..., "acts": [...], "tables": [...]}; the caller's. */
json_t *story_json(const struct story *story);

/* story_tell.c: what the monitor did in this act, and what the guest saw of it, in a sentence each. */
#define TELL_SIZE 320u
void story_tell(const struct story *story, const struct act *act, char did[TELL_SIZE], char saw[TELL_SIZE]);
/* Whose address space it is; the number if nobody's name is known. */
void story_space_name(const struct story *story, uint64_t cr3, char name[32]);

#endif
