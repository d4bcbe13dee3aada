/* See code_cache.h for the model. */
#include "cpu/code_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "cpu/crew.h"
#include "cpu/decode.h"
#include "cpu/fast.h"
#include "cpu/host_exec.h"
#include "memory/memory.h"
#include "mmu/access.h"
#include "mmu/walk.h"

#define ARENA_RECORDS (1u << 20)
#define RUN_MAX 64u          /* instructions decoded at once */
#define ARENA_SLACK 256u     /* reset before this few are left */
#define BUCKETS 4096u
#define PAGES_MAX 8192u      /* a guest that executes more pages than that starts over */
#define SPANNING_SLOTS 64u
#define NOTES 256u

/* The record numbers of one page by offset, in blocks of 64 offsets: 256 bytes where there is code, one block of zeros for
 * all where there is none. Most pages of a running system hold code in a few places only. */
#define BLOCK_OFFSETS 64u
#define BLOCKS (PAGE_SIZE / BLOCK_OFFSETS)
struct index_block {
    uint32_t record[BLOCK_OFFSETS]; /* number in the arena, 0 for none */
};
static const struct index_block block_empty;

struct code_page {
    uint64_t gpfn;
    uint8_t mode;
    bool watched;
    bool has_code;          /* some index is set */
    const uint8_t *hva;
    struct code_page *next; /* in its bucket */
    const struct index_block *blocks[BLOCKS];
    uint64_t covered[PAGE_SIZE / 64]; /* a bit for each byte that something was decoded from */
};

struct spanning {
    gva_t gva;
    uint8_t mode;
    uint8_t len;              /* 0: empty */
    uint8_t bytes[INSN_MAX_BYTES];
    struct insn records[2];
};

struct code_cache {
    struct insn *arena;       /* record 0 is not used */
    uint32_t used;
    uint32_t page_count;
    struct code_page *buckets[BUCKETS];
    struct spanning spanning[SPANNING_SLOTS];
    struct insn single[2];
    struct {
        pthread_mutex_t lock;
        unsigned count; /* NOTES + 1: too many to tell */
        uint64_t gpfn[NOTES];
    } notes; /* pages written by other threads */
};

struct code_cache *code_cache_create(struct error *err)
{
    struct code_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    cache->arena = mmap(NULL, ARENA_RECORDS * sizeof(struct insn), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->arena == MAP_FAILED) {
        error_set(err, "no memory for decoded instructions: %m");
        free(cache);
        return NULL;
    }
    cache->used = 1;
    pthread_mutex_init(&cache->notes.lock, NULL);
    return cache;
}

static void page_free_blocks(struct code_page *page)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (page->blocks[i] != &block_empty)
            free((struct index_block *)page->blocks[i]);
        page->blocks[i] = &block_empty;
    }
}

static void free_pages(struct code_cache *cache)
{
    for (unsigned i = 0; i < BUCKETS; i++) {
        for (struct code_page *page = cache->buckets[i], *next; page != NULL; page = next) {
            next = page->next;
            page_free_blocks(page);
            free(page);
        }
        cache->buckets[i] = NULL;
    }
    cache->page_count = 0;
}

void code_cache_destroy(struct code_cache *cache)
{
    if (cache == NULL)
        return;
    free_pages(cache);
    pthread_mutex_destroy(&cache->notes.lock);
    munmap(cache->arena, ARENA_RECORDS * sizeof(struct insn));
    free(cache);
}

void code_cache_reset(struct vcpu *v)
{
    struct code_cache *cache = v->code;
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct code_page *page = cache->buckets[i]; page != NULL; page = page->next)
            if (page->watched)
                crew_unwatch(v, page->gpfn);
    free_pages(cache);
    v->code_generation++;
    cache->used = 1;
    memset(cache->spanning, 0, sizeof cache->spanning);
    memset(v->itlb, 0xff, sizeof v->itlb);
    v->link = NULL;
    host_exec_reset(v->host_exec);
}

/* ---- pages ---- */

/* No room for another page, or another run. Then everything goes, which is simpler than choosing and hardly slower. */
static bool is_full(const struct vcpu *v)
{
    const struct code_cache *cache = v->code;
    return ARENA_RECORDS - cache->used < ARENA_SLACK || cache->page_count >= PAGES_MAX || host_exec_full(v->host_exec);
}

static struct code_page **bucket(struct code_cache *cache, uint64_t gpfn)
{
    return &cache->buckets[(gpfn ^ gpfn >> 12) & (BUCKETS - 1)];
}

static struct code_page *page_find(struct vcpu *v, gpa_t gpa, enum code_mode mode)
{
    uint64_t gpfn = gpa >> PAGE_SHIFT;
    struct code_page **list = bucket(v->code, gpfn);
    for (struct code_page *page = *list; page != NULL; page = page->next)
        if (page->gpfn == gpfn && page->mode == mode)
            return page;
    struct page_backing backing = memory_page(v->memory, gpa);
    if ((backing.kind != PAGE_RAM && backing.kind != PAGE_ROM) || (backing.flags != NULL && (*backing.flags & PAGE_DEVICE)))
        return NULL;
    struct code_page *page = calloc(1, sizeof *page);
    check(page != NULL);
    for (unsigned i = 0; i < BLOCKS; i++)
        page->blocks[i] = &block_empty;
    page->gpfn = gpfn;
    page->mode = (uint8_t)mode;
    page->hva = backing.hva;
    page->next = *list;
    *list = page;
    v->code->page_count++;
    v->count.code_pages++;
    return page;
}

static void page_watch(struct vcpu *v, struct code_page *page)
{
    if (page->watched)
        return;
    page->watched = true;
    crew_watch(v, page->gpfn);
}

bool code_cache_watch(struct vcpu *v, gpa_t gpa)
{
    struct code_page *page = page_find(v, gpa, v->code_mode);
    if (page != NULL)
        page_watch(v, page);
    return page != NULL;
}

static inline uint32_t index_get(const struct code_page *page, unsigned off)
{
    return page->blocks[off / BLOCK_OFFSETS]->record[off % BLOCK_OFFSETS];
}

static void index_set(struct code_page *page, unsigned off, uint32_t number)
{
    const struct index_block **block = &page->blocks[off / BLOCK_OFFSETS];
    if (*block == &block_empty) {
        *block = calloc(1, sizeof **block);
        check(*block != NULL);
    }
    ((struct index_block *)*block)->record[off % BLOCK_OFFSETS] = number;
}

static void cover(struct code_page *page, unsigned off, unsigned len)
{
    for (unsigned i = off; i < off + len; i++)
        page->covered[i / 64] |= 1ull << i % 64;
}

static bool is_covered(const struct code_page *page, unsigned off, unsigned len)
{
    uint64_t any = 0;
    for (unsigned i = off; i < off + len;) {
        unsigned bit = i % 64, n = 64 - bit < off + len - i ? 64 - bit : off + len - i;
        any |= page->covered[i / 64] & UINT64_MAX >> (64 - n) << bit;
        i += n;
    }
    return any != 0;
}

/* Makes every record of the page look itself up again, and forgets where they are. */
static void page_discard(struct vcpu *v, struct code_page *page)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        const struct index_block *block = page->blocks[i];
        for (unsigned n = 0; block != &block_empty && n < BLOCK_OFFSETS; n++) {
            uint32_t at = block->record[n];
            if (at == 0)
                continue;
            v->code->arena[at].fn = run_again;
            struct insn *after = &v->code->arena[at + 1];
            if (after->fn == run_end)
                after->fn = run_again;
        }
    }
    page_free_blocks(page);
    memset(page->covered, 0, sizeof page->covered);
    page->has_code = false;
}

void code_cache_written(struct vcpu *v, gpa_t gpa, unsigned size)
{
    uint64_t gpfn = gpa >> PAGE_SHIFT;
    unsigned off = (unsigned)(gpa & PAGE_OFFSET_MASK);
    check(off + size <= PAGE_SIZE);
    bool keep = v->code_written != NULL && v->code_written(v, gpa, size), any = false;
    for (struct code_page *page = *bucket(v->code, gpfn); page != NULL; page = page->next) {
        if (page->gpfn != gpfn)
            continue;
        if (page->has_code && is_covered(page, off, size)) {
            any = true;
            page_discard(v, page);
        }
        keep |= page->has_code;
    }
    if (!keep) {
        for (struct code_page *page = *bucket(v->code, gpfn); page != NULL; page = page->next)
            if (page->gpfn == gpfn)
                page->watched = false;
        crew_unwatch(v, gpfn);
    }
    if (!any)
        return;
    v->count.code_invalidations++;
    struct exit exit = {.reason = EXIT_CODE_WRITE, .address = gpfn << PAGE_SHIFT};
    vcpu_exit(v, &exit);
}

void code_cache_release(struct vcpu *v, uint64_t gpfn)
{
    for (const struct code_page *page = *bucket(v->code, gpfn); page != NULL; page = page->next)
        if (page->gpfn == gpfn && page->watched)
            return;
    crew_unwatch(v, gpfn);
}

void code_cache_note_written(struct vcpu *v, uint64_t gpfn)
{
    struct code_cache *cache = v->code;
    if (cache == NULL)
        return;
    pthread_mutex_lock(&cache->notes.lock);
    unsigned count = cache->notes.count, n = count;
    while (n > 0 && n <= NOTES && cache->notes.gpfn[n - 1] != gpfn) /* the last one is written to again and again */
        n--;
    if (n == 0 && count < NOTES)
        cache->notes.gpfn[count] = gpfn;
    if (n == 0)
        cache->notes.count++;
    pthread_mutex_unlock(&cache->notes.lock);
    vcpu_raise(v, PENDING_CODE);
}

/* Whoever keeps code or tables outside of this process looks at every page that it watches. */
static void observer_doubts_all(struct vcpu *v)
{
    const uint8_t *flags = memory_page_flags(v->memory);
    uint64_t pages = memory_ram_size(v->memory) >> PAGE_SHIFT, low = MEMORY_LOW_MAX >> PAGE_SHIFT;
    for (uint64_t i = 0; i < pages; i++) {
        if (!(__atomic_load_n(&flags[i], __ATOMIC_RELAXED) & (PAGE_TABLE | PAGE_DIRECT)))
            continue;
        uint64_t gpfn = i < low ? i : i - low + (MEMORY_HIGH_BASE >> PAGE_SHIFT);
        v->mmu_observer->written(v, gpfn << PAGE_SHIFT, PAGE_SIZE);
    }
}

void code_cache_take_written(struct vcpu *v)
{
    struct code_cache *cache = v->code;
    uint64_t gpfn[NOTES];
    pthread_mutex_lock(&cache->notes.lock);
    unsigned count = cache->notes.count;
    memcpy(gpfn, cache->notes.gpfn, sizeof gpfn);
    cache->notes.count = 0;
    pthread_mutex_unlock(&cache->notes.lock);
    if (count > NOTES) {
        code_cache_reset(v);
        mmu_flush(v);
        if (v->mmu_observer != NULL)
            observer_doubts_all(v);
        return;
    }
    for (unsigned n = 0; n < count; n++) { /* the page's flag tells nothing any more: who wrote has ended the watch */
        code_cache_written(v, gpfn[n] << PAGE_SHIFT, PAGE_SIZE);
        if (v->mmu_observer != NULL)
            v->mmu_observer->written(v, gpfn[n] << PAGE_SHIFT, PAGE_SIZE);
    }
}

/* ---- decoding ---- */

/* How many of the bytes that were looked at made the instruction. What is undefined is so because of all of them. */
static unsigned bytes_decoded(const struct insn *in, unsigned available)
{
    return in->row == ROW_NONE || in->len > available ? available : in->len;
}

/* Decodes straight-line code from `off` until it ends, leaves the page, meets what is decoded already or where a debugger
 * may want to stop. Returns the record number, or 0 if the first instruction belongs to no run: it spans into the next page,
 * or is such a place. */
static uint32_t decode_run(struct vcpu *v, struct code_page *page, unsigned off)
{
    struct code_cache *cache = v->code;
    uint32_t start = cache->used;
    page_watch(v, page); /* before its bytes are read */
    for (unsigned n = 0;; n++) {
        struct insn *in = &cache->arena[cache->used];
        unsigned available = 0;
        bool stop = n == RUN_MAX || off >= PAGE_SIZE || index_get(page, off) != 0 || points_at_offset(v->points, off);
        if (!stop) {
            /* A copy: another thread's device may be writing there, and what is decoded is looked at more than once. */
            uint8_t bytes[INSN_MAX_BYTES];
            available = PAGE_SIZE - off < INSN_MAX_BYTES ? PAGE_SIZE - off : INSN_MAX_BYTES;
            crew_cover(v, page->gpfn, off, available);
            memcpy(bytes, page->hva + off, available);
            stop = decode_insn(v, page->mode, bytes, available, off, in) != DECODE_OK;
        }
        if (stop) {
            if (n == 0)
                return 0;
            *in = (struct insn){.fn = run_end, .off = (uint16_t)off, .mode = page->mode};
            cache->used++;
            break;
        }
        index_set(page, off, cache->used++);
        cover(page, off, bytes_decoded(in, available));
        page->has_code = true;
        if (insn_ends_run(in)) {
            cache->arena[cache->used++] = (struct insn){.fn = run_end, .off = (uint16_t)(off + in->len), .mode = page->mode};
            break;
        }
        off += in->len;
    }
    return start;
}

/* ---- instructions apart from runs ---- */

static const struct insn *finish_single(struct insn *records, enum code_mode mode)
{
    records[1] = (struct insn){.fn = run_end, .off = (uint16_t)(records[0].off + records[0].len), .mode = (uint8_t)mode};
    return records;
}

static void check_code_limit(struct vcpu *v, unsigned len)
{
    if (v->code_mode != CODE_64 && v->rip + len - 1 > v->seg[SEG_CS].limit)
        fault_gp(v, 0);
}

/* Fetches the instruction at `gva` bytewise as far as needed, each page with its own permission check. */
static unsigned fetch_bytes(struct vcpu *v, gva_t gva, uint8_t *bytes, unsigned from, unsigned to)
{
    for (unsigned done = from; done < to;) {
        gva_t at = gva + done;
        if (v->code_mode != CODE_64)
            at = (uint32_t)at;
        unsigned in_page = PAGE_SIZE - (unsigned)(at & PAGE_OFFSET_MASK);
        unsigned n = to - done < in_page ? to - done : in_page;
        gpa_t gpa = mmu_translate(v, at, ACCESS_FETCH | access_current(v));
        struct page_backing page = memory_page(v->memory, gpa);
        if (page.kind == PAGE_RAM || page.kind == PAGE_ROM)
            memcpy(bytes + done, page.hva + (gpa & PAGE_OFFSET_MASK), n);
        else
            memset(bytes + done, 0xff, n); /* nobody runs code from a device */
        done += n;
    }
    return to;
}

static bool can_fetch(struct vcpu *v, gva_t gva)
{
    struct walk walk;
    uint32_t error;
    if (v->code_mode != CODE_64)
        gva = (uint32_t)gva;
    return gva_canonical(gva) && walk_page_tables(v, gva, ACCESS_FETCH | access_current(v), false, &walk, &error);
}

/* An instruction that no run holds: it spans pages, lies in device space, ends near the limit of CS, or has a debugger's
 * attention. */
static const struct insn *lookup_apart(struct vcpu *v, gva_t gva)
{
    if (is_full(v))
        code_cache_reset(v);
    unsigned off = (unsigned)(gva & PAGE_OFFSET_MASK);
    unsigned available = PAGE_SIZE - off < INSN_MAX_BYTES ? PAGE_SIZE - off : INSN_MAX_BYTES;
    uint8_t bytes[INSN_MAX_BYTES];
    if (v->code_mode != CODE_64) {
        check_code_limit(v, 1);
        uint64_t left = (uint64_t)v->seg[SEG_CS].limit - v->rip + 1;
        available = left < available ? (unsigned)left : available;
    }
    fetch_bytes(v, gva, bytes, 0, available);
    struct spanning *slot = &v->code->spanning[(gva ^ gva >> 12) & (SPANNING_SLOTS - 1)];
    bool same = slot->len != 0 && slot->gva == gva && slot->mode == v->code_mode;
    if (same && slot->len > available && memcmp(slot->bytes, bytes, available) == 0) {
        check_code_limit(v, slot->len);
        available = fetch_bytes(v, gva, bytes, available, slot->len);
    }
    if (same && slot->len <= available && memcmp(slot->bytes, bytes, slot->len) == 0)
        return slot->records;
    struct insn in;
    for (;;) {
        enum decode_result result = decode_insn(v, v->code_mode, bytes, available, off, &in);
        if (result == DECODE_OK)
            break;
        if (result == DECODE_UNDEFINED_SO_FAR && !can_fetch(v, gva + available))
            fault_ud(v);
        check_code_limit(v, available + 1);
        available = fetch_bytes(v, gva, bytes, available, available + 1);
    }
    check_code_limit(v, in.len);
    slot->gva = gva;
    slot->mode = v->code_mode;
    slot->len = (uint8_t)bytes_decoded(&in, available);
    memcpy(slot->bytes, bytes, slot->len);
    slot->records[0] = in;
    return finish_single(slot->records, v->code_mode);
}

/* ---- lookup ---- */

static uint64_t itlb_tag(const struct vcpu *v, gva_t gva)
{
    return (gva & ~PAGE_OFFSET_MASK) | (unsigned)v->code_mode << 1 | (v->cpl == 3);
}

static struct code_page *page_translate(struct vcpu *v, gva_t gva, struct itlb_entry *entry)
{
    if (is_full(v))
        code_cache_reset(v);
    check_code_limit(v, 1); /* before the page tables are looked at */
    gpa_t gpa = mmu_translate(v, gva, ACCESS_FETCH | access_current(v));
    struct code_page *page = page_find(v, gpa, v->code_mode);
    if (page != NULL)
        *entry = (struct itlb_entry){.tag = itlb_tag(v, gva), .page = page};
    return page;
}

/* Linear address of the next instruction; #GP(0) beyond the limit of CS comes with the fetch. */
static gva_t code_gva(const struct vcpu *v)
{
    if (v->code_mode == CODE_64)
        return v->rip;
    return (uint32_t)(v->rip + v->seg[SEG_CS].base);
}

/* Whether the page does not lie wholly within CS. What 16-bit code has beyond 64 KiB (its limit may be larger) counts as
 * outside: its branches are cut there, so they must not be linked. */
static bool near_code_limit(const struct vcpu *v, unsigned off)
{
    if (v->code_mode == CODE_64 || v->code_mode == CODE_32_FLAT)
        return false;
    uint64_t last = v->rip - off + PAGE_OFFSET_MASK;
    return last > v->seg[SEG_CS].limit || v->rip < off || (v->code_mode == CODE_16 && last > 0xffff);
}

static uint32_t run_number(struct vcpu *v, struct code_page *page, unsigned off)
{
    uint32_t at = index_get(page, off);
    if (likely(at != 0))
        return at;
    return is_full(v) ? UINT32_MAX : decode_run(v, page, off);
}

const struct insn *code_lookup(struct vcpu *v)
{
    for (;;) {
        gva_t gva = code_gva(v);
        unsigned off = (unsigned)(gva & PAGE_OFFSET_MASK);
        v->regs[GPR_PAGE] = v->rip - off;
        struct itlb_entry *entry = &v->itlb[gva >> PAGE_SHIFT & (ITLB_SIZE - 1)];
        struct code_page *page = entry->page;
        if (unlikely(entry->tag != itlb_tag(v, gva)))
            page = page_translate(v, gva, entry);
        if (unlikely(page == NULL || near_code_limit(v, off)))
            return lookup_apart(v, gva);
        uint32_t at = run_number(v, page, off);
        if (likely(at != UINT32_MAX))
            return at != 0 ? &v->code->arena[at] : lookup_apart(v, gva);
        code_cache_reset(v); /* full */
    }
}

static bool in_arena(const struct code_cache *cache, const struct insn *in)
{
    return in >= cache->arena && in < cache->arena + cache->used;
}

void code_link(struct vcpu *v, const struct insn *branch, const struct insn *target)
{
    /* An instruction apart from runs belongs to no page: it is looked up by its linear address, behind which there may be
     * another page the next time. */
    if (in_arena(v->code, branch) && in_arena(v->code, target))
        v->code->arena[branch - v->code->arena].target = target;
}

void code_cache_interrupt(struct vcpu *v)
{
    if (v->run_start == NULL || !in_arena(v->code, v->in))
        return; /* it is left anyhow */
    gva_t gva = v->regs[GPR_PAGE] + v->in->off;
    if (v->code_mode != CODE_64)
        gva = (uint32_t)(gva + v->seg[SEG_CS].base);
    const struct itlb_entry *entry = &v->itlb[gva >> PAGE_SHIFT & (ITLB_SIZE - 1)];
    check(entry->tag == itlb_tag(v, gva)); /* code runs from there */
    page_discard(v, entry->page);
}

static bool keeps_target(const struct insn *in)
{
    return in->row < ROW_COUNT && insn_rows[in->row].lowering == LOWER_BRANCH && in->fn != run_slow;
}

const struct insn *code_lookup_single(struct vcpu *v)
{
    struct insn *records = v->code->single;
    records[0] = *code_lookup(v);
    if (keeps_target(&records[0]))
        records[0].target = NULL;
    v->link = NULL;
    return finish_single(records, records[0].mode);
}
