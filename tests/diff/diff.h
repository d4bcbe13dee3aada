/* Engine against engine: the same machine twice, run by two engines, must end in the same state.
 *
 * The interpreter is the judge here, so this test needs no host processor that could run the case: any mode, any privilege,
 * page tables, segments, system instructions, interrupts, device memory and ROM. A *case* is a small machine: memory,
 * registers and a few dozen instructions, made from (seed, number) alone. Both engines run it until it halts, shuts
 * down, or has run for long enough; then everything is compared: registers, hidden parts, system registers, all of RAM, the
 * device's memory, what went through the door (as a hash), and how many instructions were executed.
 *
 *   world.c      the machine around the vCPU: memory map, door, time; and the comparison
 *   make.c       the tables and the code of a case
 *   diff_test.c  the command: runs, makes failing cases small, reports
 *
 * Memory (guest physical; without paging or with the identity map of the first 2 MiB also linear):
 *
 *   0x00000  IVT           0x04000  handlers          0x0a000  data (3 pages)
 *   0x01000  GDT           0x06000  stacks            0x10000  page tables
 *   0x02000  IDT           0x08000  code (2 pages)    0x30000  ROM
 *   0x03000  TSS                                      0x31000  device
 *
 * With paging, linear pages 64 to 127, 128 to 191 and 192 to 255 are the RAM again: for everybody, for the supervisor, and
 * read only. Behind that nothing is mapped.
 *
 * The TLB of a processor may show what page tables said before. So where a case has changed its tables in any other way than
 * by the entries that it invalidates, or has stopped in the middle, it is not judged.
 */
#ifndef RING3_TESTS_DIFF_H
#define RING3_TESTS_DIFF_H

#include "engine/engine.h"
#include "isa/isa.h"

#define RAM_SIZE 0x40000u
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS 0x3000u
#define COUNTER 0x3f00u /* faults until the handlers halt */
#define HANDLERS 0x4000u
#define HANDLER_SIZE 32u
#define STACKS 0x6000u
#define STACK_USER 0xcff0u /* in the last page of data */
#define CODE_AT 0x8000u
#define DATA_AT 0xa000u
#define DATA_SIZE 0x3000u
#define TABLES 0x10000u
#define TABLES_SIZE 0x5000u
#define ROM_AT 0x30000u
#define DEVICE_AT 0x31000u
#define ALIAS_PAGES 64u

#define START_NAMES "real", "16-bit", "32-bit", "32-bit paging", "PAE", "v86", "64-bit", "compatibility"
enum start { START_REAL, START_16, START_32, START_32_PAGING, START_PAE, START_V86, START_64, START_COMPAT, START_COUNT };

#define PIECES 48u
#define PIECE_MAX 32u

/* A case: how the machine stands, and code in pieces, each of which can be left out by NOPs in its place. */
struct diff_case {
    uint64_t seed, number;
    enum start start;
    bool user;
    bool pending_interrupt;
    bool rom_too; /* the first page of code is in ROM, too */
    uint16_t code_offset; /* of the first piece, in the code pages */
    struct {
        uint16_t offset; /* from the first */
        uint8_t length;
        uint8_t bytes[PIECE_MAX];
    } piece[PIECES];
    unsigned pieces;
    uint64_t cr0, cr3, cr4, efer, dr[8];
    uint32_t rflags;
    uint64_t regs[16];
    uint64_t fs_base, gs_base;
    uint8_t image[RAM_SIZE]; /* without code */
};

enum isa_mode diff_mode(enum start start);
bool diff_is_wide(enum start start);
bool diff_has_paging(enum start start);

/* ---- make.c ---- */
void diff_make(const struct encodings *e, uint64_t seed, uint64_t number, struct diff_case *c);
/* The code into `image`, without the pieces in `dropped`. */
void diff_place_code(const struct diff_case *c, uint64_t dropped, uint8_t *image);

/* ---- world.c ---- */
struct world;
struct world *world_create(const struct engine *engine, bool loose);
void world_destroy(struct world *w);
enum diff_end { DIFF_HALTED, DIFF_SHUTDOWN, DIFF_ENDLESS };
enum diff_end world_run(struct world *w, const struct diff_case *c, uint64_t dropped);
struct vcpu *world_vcpu(struct world *w);
/* Whether page tables differ from the case's by more than what can have been invalidated. */
bool world_tables_changed(const struct world *w, const struct diff_case *c);
/* Prints each difference to `out` if not NULL; true if there is none. */
bool world_compare(const struct world *a, const struct world *b, FILE *out);

#endif
