/* Where in the guest: counts by guest address, in a table of bounded size.
 *
 * Two uses, told apart by `what`: exits (how many for which reason at which rip, and how long they took), and samples
 * (how often the guest was found running there). A place is rip, mode and, for user code, the page-table base, since
 * each process has its own code at the same addresses. When the table is full, new places go into `others`.
 *
 * Owned by whoever creates it; no locks: one thread at a time.
 */
#ifndef RING3_ENGINE_HOT_H
#define RING3_ENGINE_HOT_H

#include "cpu/exit.h"
#include "cpu/vcpu.h"

#define HOT_SIZE 8192u /* a power of two */
#define HOT_SAMPLE EXIT_REASON_COUNT

struct hot_place {
    uint64_t rip;
    uint64_t cr3;      /* user code: whose; else 0 */
    gpa_t gpa;         /* of the code's first byte, as of the last time; only of samples; UINT64_MAX: unknown */
    uint64_t count, ns;
    uint8_t what;      /* enum exit_reason, or HOT_SAMPLE */
    uint8_t mode;      /* enum exit_mode */
    uint8_t code_mode; /* enum code_mode */
};

struct hot {
    struct hot_place places[HOT_SIZE]; /* count 0: free */
    unsigned used;
    uint64_t others, others_ns; /* what found no room */
    uint64_t samples[EXIT_MODE_COUNT];
};

/* NULL when there is no memory. */
struct hot *hot_create(void);
void hot_destroy(struct hot *hot);

void hot_add(struct hot *hot, const struct hot_place *place);
void hot_exit(struct hot *hot, const struct vcpu *v, const struct exit *exit, uint64_t ns);
/* The vCPU is between two instructions. */
void hot_sample(struct hot *hot, struct vcpu *v);
void hot_merge(struct hot *to, const struct hot *from);

/* The most frequent places of samples, or of exits (without samples), greatest first. Returns how many. */
size_t hot_top(const struct hot *hot, bool samples, const struct hot_place **top, size_t max);

#endif
