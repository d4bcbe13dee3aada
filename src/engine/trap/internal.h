/* What the files of the trap engine share.
 *
 *   sandbox.c   processes in which guest code runs
 *   space.c     shadow page tables: which guest pages are mapped in which sandbox, and why not any more
 *   code.c      pages that are executed: finding the instructions that do not trap, and patching copies
 *   vector.c    x87, SSE and AVX state, which lives in one sandbox or in struct vcpu
 *   handle.c    the life of a trap
 *   trap.c      the engine: when code runs directly and when not
 *
 * Words. A *space* is a shadow page table: a sandbox, and what has been mapped in it. A *page* is one mapping in a
 * space. A *frame* is a page of guest RAM, by its offset in the memfd.
 *
 * Invariants
 *   1. A page permits no more than the guest's tables did when they were last walked for it, for the kind of access
 *      that its space is for; writing only if D is set and nobody watches the frame.
 *   2. A frame of which a page is executable is watched (PAGE_DIRECT), and so is one that has a page table through
 *      which something was mapped, if the policy keeps spaces in step with the tables (PAGE_TABLE).
 *   3. struct vcpu is the truth whenever the monitor runs, but for the vector state while `vector_owner` is not NULL.
 *   4. What a sandbox says in its registers is input from the guest.
 */
#ifndef RING3_ENGINE_TRAP_INTERNAL_H
#define RING3_ENGINE_TRAP_INTERNAL_H

#include "cpu/decode.h"
#include "cpu/vcpu.h"
#include "engine/door.h"
#include "engine/trap/sandbox.h"
#include "engine/trap/trap.h"
#include "memory/memory.h"
#include "mmu/access.h"
#include "mmu/shadow.h"

#define SPACES_MAX 24u
#define PAGES_MAX (1u << 17) /* of all spaces */
#define PAGE_BUCKETS (1u << 16)
#define TABLES_MAX 8192u /* page tables kept in step with */
#define TABLE_BUCKETS 4096u
#define NONE UINT32_MAX

#define RIGHT_R 1u
#define RIGHT_W 2u
#define RIGHT_X 4u

/* A mapping of one page. Lists go by index, NONE ends them. `vpage` is where it is mapped: in split spaces, code lies
 * elsewhere than where the guest believes it to be. */
struct page {
    uint64_t vpage;
    uint32_t frame;
    uint32_t next_in_bucket;
    uint32_t next_of_frame;
    uint32_t next_of_space, previous_of_space;
    uint8_t rights;
    uint8_t space; /* index; SPACES_MAX: not in use */
    uint8_t large; /* log2 of the guest's page, in pages */
};

/* Which instructions on x87 and vector registers may run directly: in user mode, as CR0, CR4 and XCR0 permit. */
enum vectors { VECTORS_NONE, VECTORS_SSE, VECTORS_AVX };

/* What makes two spaces different. */
struct space_key {
    uint64_t cr3; /* with paging; 0 without, and where the policy keeps nothing */
    uint8_t kind; /* enum tlb_kind */
    bool paging, wide;
    uint8_t vectors; /* enum vectors */
};

struct space {
    bool used;
    struct space_key key;
    struct sandbox *box;
    uint32_t pages; /* the first; NONE */
    uint32_t count;
    uint64_t pdpte[4]; /* as its pages were walked with */
    uint64_t last_used;
    bool large; /* has pages of large guest pages */
    bool split; /* code is mapped `window` pages behind where the guest has it; data reads do not see it */
    uint32_t window;
    bool stale; /* tagged: to be compared with the guest's tables before it is used */
};

/* A page table of the guest's that something in a space was mapped through. */
struct table {
    uint32_t frame;
    uint32_t next_in_bucket;
    uint64_t base;       /* guest address that its first entry is for */
    uint8_t entry_shift; /* log2 of the bytes that an entry is for */
    uint8_t entry_size;
    uint8_t space; /* SPACES_MAX: free */
    uint8_t idle;  /* writes since it was last walked */
};

struct code;

struct trap {
    struct vcpu *v;
    const struct engine *fallback; /* what does the rest: interprets, or translates */
    bool direct_kernel, patch;
    enum shadow_policy policy;
    struct sandboxes *family;
    int copies_fd;
    uint8_t *copies; /* memory of patched copies of code */
    uint64_t ram_size;
    const uint8_t *page_flags;

    struct space spaces[SPACES_MAX];
    struct space *space;    /* that of the current mode; NULL: to be found */
    struct space *last_run; /* for counting switches */
    uint64_t clock;
    uint64_t random; /* for places where code could lie */
    struct page *pages;
    uint32_t free_page, pages_used; /* a list, and how many there have ever been */
    uint32_t *buckets;              /* PAGE_BUCKETS */
    uint32_t *frames;               /* by frame: its first page, plus 1 */
    struct table *tables;
    uint32_t free_table;
    uint32_t *table_buckets;

    struct code *codes;
    uint32_t *code_buckets;
    uint32_t free_code, codes_used;

    struct space *vector_owner; /* whose sandbox has the guest's vector state; NULL: struct vcpu */
    uint8_t *xstate;
    size_t xstate_size;  /* of an area as the host's kernel gives it */
    unsigned ymm_offset; /* in it; 0: no AVX */

    bool emulating; /* a data access is being carried out: a fault now is the guest's own */
    unsigned lost;  /* times in a row that a sandbox was gone */
    bool (*written_before)(struct vcpu *v, gpa_t gpa, unsigned size);
    struct stats_trap count;
};

static inline struct trap *trap_of(const struct vcpu *v)
{
    return v->trap;
}

static inline bool frame_is_watched(const struct trap *t, uint32_t frame)
{
    return __atomic_load_n(&t->page_flags[frame], __ATOMIC_RELAXED) & PAGE_WATCHED;
}

static inline gpa_t frame_gpa(const struct trap *t, uint32_t frame)
{
    return memory_frame_gpa(t->v->memory, frame);
}

/* The frame of a page that is RAM. */
static inline uint32_t frame_of(const struct trap *t, const struct page_backing *page)
{
    return (uint32_t)((uint64_t)(page->hva - memory_ram_base(t->v->memory)) >> PAGE_SHIFT);
}

/* ---- space.c ---- */
bool spaces_create(struct trap *t, struct error *err);
void spaces_destroy(struct trap *t);
/* The space of the current mode, made if need be, in step with the guest's tables. NULL: the host does not permit one.
 */
struct space *space_current(struct trap *t);
/* What is mapped at a place; and the code of a guest page. NULL: nothing. */
struct page *page_find(struct trap *t, const struct space *s, uint64_t vpage);
struct page *page_find_code(struct trap *t, const struct space *s, gva_t gva);
/* Where code of a guest address is mapped. */
uint64_t space_code_page(const struct space *s, gva_t gva);
/* Data at `gva` is missing: enters what the guest's tables permit, with neighbours. False: nothing was gained. */
bool space_fill(struct trap *t, struct space *s, gva_t gva);
/* Code at `gva` is missing; `entry`: an instruction begins there. False: it cannot be executed directly; interpret. */
bool space_fill_code(struct trap *t, struct space *s, gva_t gva, bool entry);
/* Forgets all that is mapped; everywhere. */
void space_empty(struct trap *t, struct space *s);
void spaces_empty(struct trap *t);
/* Takes the executable pages of a frame out of all spaces. */
void frame_drop_code(struct trap *t, uint32_t frame);
/* A sandbox is gone. */
void space_lost(struct trap *t, struct space *s);
extern const struct mmu_observer trap_observer;

/* ---- code.c ---- */
bool codes_create(struct trap *t, struct error *err);
void codes_destroy(struct trap *t);
/* What is to be mapped so that code at `gva`, which is in `frame`, can run: the file and the offset in it. Looks at the
 * code, and patches; `entry`: an instruction begins there. */
void code_prepare(struct trap *t, const struct space *s, gva_t gva, bool entry, uint32_t frame, enum sandbox_file *file,
                  uint64_t *offset);
/* Whether code at `gva` has been looked at. */
bool code_is_known(struct trap *t, const struct space *s, gva_t gva, uint32_t frame);
/* Whether there is a patch at `gva`. */
bool code_is_patched(struct trap *t, const struct space *s, gva_t gva, uint32_t frame);
/* The frame was written. */
void code_written(struct trap *t, uint32_t frame, unsigned offset, unsigned size);
void codes_clear(struct trap *t);

/* ---- vector.c ---- */
bool vector_create(struct trap *t, struct error *err);
void vector_destroy(struct trap *t);
/* Makes struct vcpu the truth, or the space's sandbox. */
void vector_fetch(struct trap *t);
void vector_give(struct trap *t, struct space *s);
bool vector_is_used_by(const struct insn *in);

/* ---- handle.c ---- */
/* A sandbox was killed while it had some of the guest's registers: the guest cannot go on. */
void registers_lost(struct trap *t);
/* Whether code of the current mode can run directly. */
bool direct_possible(const struct trap *t);
/* Runs guest code directly until it traps once, and does what the trap asks for. False: interpret what is next. */
bool direct_run(struct trap *t);

/* ---- inspect.c ---- */
/* struct engine's shadow_has function. */
bool trap_shadow_has(const struct vcpu *v, gva_t gva, bool user, bool write);

#endif
