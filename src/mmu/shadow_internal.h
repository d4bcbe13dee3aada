/* What the files of the shadow page tables share.
 *
 * Three layers. shadow_table.c: the flat tables, of which only "islands" exist in memory. shadow_space.c: the logs,
 * which say what the tables hold and for whom. shadow.c: policies and the calls from outside.
 *
 * Invariant: an entry is in use if and only if its island names a record for the page. That record is in the log of the
 * current address space, or in the log of global pages; it says for each kind of access what the entry permits, and the
 * entry's value follows from it. Records of other address spaces ("kept") are in no table.
 */
#ifndef RING3_MMU_SHADOW_INTERNAL_H
#define RING3_MMU_SHADOW_INTERNAL_H

#include "mmu/shadow.h"

#define KINDS 3u /* TLB_KERNEL, TLB_KERNEL_AC, TLB_USER */

/* A piece of a table that exists in memory: one host page of entries, 2 MiB of guest addresses. Measured: larger ones
 * cost more to fill with poison than they save in calls, since guests scatter what they touch. */
#define ISLAND_SHIFT 9u
#define ISLAND_PAGES (1u << ISLAND_SHIFT)
#define ISLAND_BYTES (ISLAND_PAGES * 8u)
#define ISLAND_BUCKETS 1024u
#define CHUNKS_MAX 2048u /* islands times kinds: 8 MiB of entries; beyond, everything goes */

#define SPACES 64u             /* address spaces kept, the current one included */
#define RECORDS_MAX (1u << 18) /* in all logs: 3 MiB */

#define WIDE_PAGES (1ull << 36)
#define WIDE_INDICES (1ull << 39) /* with the low bits of an unaligned address on top; the others stay unmapped */
#define NARROW_PAGES (1ull << 23)
#define NARROW_USED (1ull << 20) /* the others stay unmapped for ever */

/* What an entry permits. */
enum right { RIGHT_NONE, RIGHT_READ, RIGHT_WRITE };

/* The page that a record is about, and the size of the guest's page that it is a piece of. */
enum leaf_size { LEAF_4K, LEAF_2M, LEAF_4M, LEAF_1G };

struct record {
    uint64_t key;   /* see below */
    uint32_t frame; /* page of the memfd */
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct record) == 12, "logs are long");

/* A key, from bit 0: page (gva bits 47:12), wide, enum leaf_size (2), enum right (2 bits a kind). */
#define KEY_PAGE (WIDE_PAGES - 1)
#define KEY_WIDE (1ull << 36)
#define KEY_SIZE_SHIFT 37
#define KEY_RIGHTS_SHIFT 39
#define KEY_RIGHTS_WRITE (0x2aull << KEY_RIGHTS_SHIFT) /* RIGHT_WRITE of every kind */

#define RIGHTS_ANY 0x15u /* RIGHT_READ of every kind */

static inline uint64_t key_make(uint64_t page, bool wide, enum leaf_size size, unsigned rights)
{
    return page | (wide ? KEY_WIDE : 0) | (uint64_t)size << KEY_SIZE_SHIFT | (uint64_t)rights << KEY_RIGHTS_SHIFT;
}

static inline uint64_t key_page(uint64_t key)
{
    return key & KEY_PAGE;
}

static inline bool key_wide(uint64_t key)
{
    return key & KEY_WIDE;
}

static inline enum leaf_size key_size(uint64_t key)
{
    return (enum leaf_size)(key >> KEY_SIZE_SHIFT & 3);
}

static inline enum right key_right(uint64_t key, unsigned kind)
{
    return (enum right)(key >> (KEY_RIGHTS_SHIFT + 2 * kind) & 3);
}

/* The page's address: canonical, for 64-bit code. */
static inline gva_t key_gva(uint64_t key)
{
    return key_wide(key) ? (uint64_t)((int64_t)(key << 28) >> 28) << PAGE_SHIFT : key_page(key) << PAGE_SHIFT;
}

static inline uint64_t key_without_write(uint64_t key)
{
    return (key & ~KEY_RIGHTS_WRITE) | (key & KEY_RIGHTS_WRITE) >> 1;
}

/* The number of an island: page / ISLAND_PAGES, and `wide`. */
static inline uint64_t key_island(uint64_t key)
{
    return (key & (KEY_PAGE | KEY_WIDE)) >> ISLAND_SHIFT;
}
#define ISLAND_WIDE (KEY_WIDE >> ISLAND_SHIFT)

/* In an island: number of the page's record plus 1, 0 for none; in the log of global pages or of the current space. */
#define REF_GLOBAL 0x80000000u
#define WRITERS_MANY 0xffffffffu

struct island {
    uint64_t number;
    struct island *next;    /* in its bucket */
    uint64_t *chunk[KINDS]; /* the table's piece, or the shadow's `nowhere` */
    bool large;             /* there has been a piece of a large page */
    uint32_t ref[ISLAND_PAGES];
};

/* A fetch slot's owner. */
struct fetch_key {
    uint64_t page : 36;
    uint64_t size : 2;
    uint64_t global : 1;
    uint64_t used : 1;
    uint64_t listed : 1; /* in shadow.fetch_list */
};

struct fetch_record {
    struct fetch_key key;
    uint64_t identity;
};

/* An address space and its log. `tag`: PCID, or CR3 with SPACE_BY_CR3. */
#define SPACE_BY_CR3 (1ull << 63)
#define SPACE_FREE UINT64_MAX
struct space {
    uint64_t tag;
    uint64_t last_used;
    struct record *records;
    uint32_t count, capacity;
    struct fetch_record *fetch; /* only while it is not the current one */
    uint32_t fetch_count;
};

struct shadow {
    struct vcpu *v;
    enum shadow_policy policy;
    uint8_t *reserved; /* guard pages, then the tables */
    uint64_t reserved_size;
    uint64_t *table[2][KINDS];   /* [wide] */
    uint64_t view[3];            /* by enum right: where poison leads; RAM read-only, read-write */
    uint64_t ram_size;
    const uint8_t *page_flags;

    struct island *buckets[ISLAND_BUCKETS];
    struct island *last; /* found last; may be NULL */
    unsigned chunks;
    uint64_t nowhere[ISLAND_PAGES]; /* takes the poison of chunks that do not exist */

    uint64_t clock; /* of switches, for `last_used` */
    struct space *current;
    struct space spaces[SPACES];
    struct space global;
    uint64_t capacity; /* of all logs */

    /* By frame, which entries in the tables permit writing: 0 none; a ref, at most that one; or WRITERS_MANY. */
    uint32_t *writers;
    uint64_t writers_size; /* in bytes */
    gva_t large_low, large_high; /* all large pages of which pieces were entered, here or in kept logs, lie between */
    unsigned sizes_seen;         /* bit by enum leaf_size */

    uint64_t fetch[SHADOW_FETCH_SLOTS];
    struct fetch_key fetch_keys[SHADOW_FETCH_SLOTS];
    uint16_t fetch_list[SHADOW_FETCH_SLOTS]; /* slots of the current space, perhaps empty by now */
    uint32_t fetch_listed;

    struct shadow_counters count;
};

static inline struct space *log_of(struct shadow *s, uint32_t ref)
{
    return ref & REF_GLOBAL ? &s->global : s->current;
}

static inline struct record *record_of(struct shadow *s, uint32_t ref)
{
    return &log_of(s, ref)->records[(ref & ~REF_GLOBAL) - 1];
}

/* Whether the record at this place permits writing to the frame. */
static inline bool is_writer(struct shadow *s, uint32_t ref, uint32_t frame)
{
    if ((ref & ~REF_GLOBAL) > log_of(s, ref)->count)
        return false;
    const struct record *record = record_of(s, ref);
    return record->frame == frame && (record->key & KEY_RIGHTS_WRITE);
}

/* The record at `ref` is in the tables now, and perhaps permits writing. */
static inline void frame_note_writer(struct shadow *s, uint32_t ref, const struct record *record)
{
    uint32_t *writer = &s->writers[record->frame];
    if (!(record->key & KEY_RIGHTS_WRITE) || *writer == WRITERS_MANY || *writer == ref)
        return;
    *writer = *writer != 0 && is_writer(s, *writer, record->frame) ? WRITERS_MANY : ref;
}

static inline uint64_t large_pages(enum leaf_size size)
{
    static const uint32_t pages[] = {1, 512, 1024, 512 * 512};
    return pages[size];
}

/* ---- shadow_table.c ---- */
bool table_reserve(struct shadow *s, struct error *err);
void table_release(struct shadow *s);
/* The island of a page; NULL if it is not there. */
struct island *island_find(struct shadow *s, uint64_t page, bool wide);
/* The same, made if need be; NULL if the host has no memory. Does not look at the bound. */
struct island *island_get(struct shadow *s, uint64_t page, bool wide);
/* Makes the part of a table that has this page's entry readable. Does not look at the bound either. */
bool table_touch(struct shadow *s, uint64_t page, bool wide, enum tlb_kind kind);
/* Whether the islands of one more page fit. */
bool table_has_room(const struct shadow *s);
/* Gives islands without records back to the host. */
void table_reclaim(struct shadow *s);
/* Gives all islands back. Nothing may be live. */
void table_forget(struct shadow *s);
/* Makes the entries of the record's page what the record says. Rights that the host has no memory for are taken from
 * it. */
void entries_write(struct shadow *s, struct island *island, struct record *record);
/* Poisons the entries of a page. */
void entries_clear(struct shadow *s, struct island *island, uint64_t key);

/* ---- shadow_space.c ---- */
/* Enters what a walk found: for `for_kind`, and for other kinds where their tables have an island already. Makes room
 * by evicting, or not: then false means that there is none. */
bool record_enter(struct shadow *s, const struct record *record, enum tlb_kind for_kind, bool global, bool may_evict);
/* The record of a page in the tables, or NULL. */
struct record *record_find(struct shadow *s, uint64_t page, bool wide);
/* Removes all records of `count` pages from `page` on that are pieces of pages at least as large as `size`. */
void records_remove(struct shadow *s, uint64_t page, uint64_t count, bool wide, enum leaf_size size);
/* Takes the right to write from all entries of a frame. */
void records_stop_writes(struct shadow *s, uint32_t frame);
/* Empties a log; if it is the current space's or that of global pages, the tables too. */
void space_clear(struct shadow *s, struct space *space);
/* Empties a log that is not current and gives its slot back. */
void space_drop(struct shadow *s, struct space *space);
struct space *space_find(struct shadow *s, uint64_t tag);
/* Takes the current space out of the tables; its log stays. Then there is no current space. */
void space_leave(struct shadow *s);
/* Makes the space with this tag the current one, with what its log says. `reread`: with what the guest's tables, which
 * CR3 leads to already, now say about the pages in its log. */
void space_enter(struct shadow *s, uint64_t tag, bool reread);
/* Removes one page from a log that is not current. */
void space_remove_page(struct shadow *s, struct space *space, uint64_t page);
/* Forgets everything that is in the tables and gives their memory back. */
void shadow_evict(struct shadow *s);
void fetch_remove(struct shadow *s, uint64_t page, uint64_t count, enum leaf_size size);

/* ---- shadow.c ---- */
enum leaf_size shadow_leaf_size(const struct walk *walk);
bool shadow_is_global(const struct vcpu *v, const struct walk *walk);
void shadow_note_large(struct shadow *s, gva_t gva, const struct walk *walk);
/* The key and frame for what a walk found in RAM. */
struct record shadow_record(struct vcpu *v, gva_t gva, bool wide, const struct walk *walk,
                            const struct page_backing *page);

#endif
