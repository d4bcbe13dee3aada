/* Shadow page tables whose table is the host's own: a guest page is mapped in a sandbox at the guest's address.
 *
 * The processor looks at the host's page table, not at the guest's. So what the guest's tables say has to be there
 * already, or the access faults, the monitor walks the guest's tables and maps what they permit ("fill"), or finds that
 * they do not permit it and lets the guest have its fault. A fill maps the neighbours too: those that the same guest
 * tables map, whose A bit says that the guest has used them, and that lie side by side in RAM are one mapping of the
 * host's ("run").
 *
 * A space is such a table: one process. What differs between policies is how many there are and when they are emptied.
 *
 *   single     one, emptied at each change of CR3 or of pretended privilege
 *   ondemand   one for each privilege, emptied when CR3 is loaded
 *   tagged     those of the last address spaces are kept, by CR3; when CR3 is loaded what they hold is compared with
 * the guest's tables, unless bit 63 says that it need not be proactive  the same, but the guest's tables are watched: a
 * write to one takes what was mapped through it out of all spaces, so that loading CR3 costs nothing
 *
 * All but ondemand and single rely on more than the architecture demands to be forgotten: a processor may enter any
 * translation that the tables hold at any time, so what agrees with the tables is always right (SDM vol. 3, 4.10.4).
 *
 * Recycled tables. A guest does not say when a page stops being a page table. One that is written IDLE_MAX times
 * without a walk through it in between is taken for one that has; it is a table again as soon as it is walked.
 *
 * Bounds: SPACES_MAX processes, PAGES_MAX pages, the host's number of mappings in each. Whatever is full is emptied.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "engine/trap/internal.h"
#include "memory/memory.h"
#include "mmu/walk.h"

#define RUN_LARGE 256 /* pages on either side, of one large page, or without paging */
#define RUN_SMALL 16
#define IDLE_MAX 64u
#define NARROW_MASK 0xfffffull  /* pages of 32-bit code */
#define WINDOW_DEFAULT 0x50000u /* where few guests have anything: between programs and libraries */
#define WINDOW_TRIES 64u

/* ---- pages ---- */

static uint32_t *page_bucket(struct trap *t, const struct space *s, uint64_t vpage)
{
    uint64_t hash = (vpage ^ vpage >> 16 ^ (uint64_t)(s - t->spaces) << 11) * 0x9e3779b97f4a7c15ull;
    return &t->buckets[hash >> 48 & (PAGE_BUCKETS - 1)];
}

struct page *page_find(struct trap *t, const struct space *s, uint64_t vpage)
{
    uint8_t space = (uint8_t)(s - t->spaces);
    for (uint32_t i = *page_bucket(t, s, vpage); i != NONE; i = t->pages[i].next_in_bucket)
        if (t->pages[i].vpage == vpage && t->pages[i].space == space)
            return &t->pages[i];
    return NULL;
}

/* The first page of a frame. Stored plus 1, so that what was never used is no page. */
static uint32_t frame_first(const struct trap *t, uint32_t frame)
{
    return t->frames[frame] - 1;
}

static struct page *page_add(struct trap *t, struct space *s, uint64_t vpage, uint32_t frame, unsigned rights,
                             unsigned large)
{
    uint32_t number = t->free_page;
    if (number != NONE)
        t->free_page = t->pages[number].next_in_bucket;
    else if (t->pages_used < PAGES_MAX)
        number = t->pages_used++;
    else
        return NULL;
    uint32_t *bucket = page_bucket(t, s, vpage);
    struct page *page = &t->pages[number];
    *page = (struct page){.vpage = vpage,
                          .frame = frame,
                          .next_in_bucket = *bucket,
                          .next_of_frame = frame_first(t, frame),
                          .next_of_space = s->pages,
                          .previous_of_space = NONE,
                          .rights = (uint8_t)rights,
                          .space = (uint8_t)(s - t->spaces),
                          .large = (uint8_t)large};
    *bucket = number;
    t->frames[frame] = number + 1;
    if (s->pages != NONE)
        t->pages[s->pages].previous_of_space = number;
    s->pages = number;
    s->count++;
    s->large |= large != 0;
    return page;
}

/* Takes it out of the lists, not out of the sandbox. */
static void page_forget(struct trap *t, struct page *page)
{
    struct space *s = &t->spaces[page->space];
    uint32_t number = (uint32_t)(page - t->pages);
    uint32_t *at = page_bucket(t, s, page->vpage);
    while (*at != number)
        at = &t->pages[*at].next_in_bucket;
    *at = page->next_in_bucket;
    if (frame_first(t, page->frame) == number) {
        t->frames[page->frame] = page->next_of_frame + 1;
    } else {
        at = &t->pages[frame_first(t, page->frame)].next_of_frame;
        while (*at != number)
            at = &t->pages[*at].next_of_frame;
        *at = page->next_of_frame;
    }
    if (page->previous_of_space != NONE)
        t->pages[page->previous_of_space].next_of_space = page->next_of_space;
    else
        s->pages = page->next_of_space;
    if (page->next_of_space != NONE)
        t->pages[page->next_of_space].previous_of_space = page->previous_of_space;
    s->count--;
    page->space = SPACES_MAX;
    page->next_in_bucket = t->free_page;
    t->free_page = number;
}

uint64_t space_code_page(const struct space *s, gva_t gva)
{
    uint64_t vpage = gva >> PAGE_SHIFT;
    return s->split ? (vpage + s->window) & NARROW_MASK : vpage;
}

struct page *page_find_code(struct trap *t, const struct space *s, gva_t gva)
{
    struct page *page = page_find(t, s, space_code_page(s, gva));
    return page != NULL && (page->rights & RIGHT_X) ? page : NULL;
}

/* The guest's page that is mapped there. */
static uint64_t page_guest(const struct space *s, const struct page *page)
{
    return s->split && (page->rights & RIGHT_X) ? (page->vpage - s->window) & NARROW_MASK : page->vpage;
}

static void page_drop(struct trap *t, struct page *page)
{
    sandbox_unmap(t->spaces[page->space].box, page->vpage << PAGE_SHIFT, PAGE_SIZE);
    page_forget(t, page);
}

/* ---- page tables that are kept in step with ---- */

static uint32_t *table_bucket(struct trap *t, uint32_t frame)
{
    return &t->table_buckets[(frame ^ frame >> 12) & (TABLE_BUCKETS - 1)];
}

static bool frame_has_table(struct trap *t, uint32_t frame)
{
    for (uint32_t i = *table_bucket(t, frame); i != NONE; i = t->tables[i].next_in_bucket)
        if (t->tables[i].frame == frame)
            return true;
    return false;
}

static void table_free(struct trap *t, struct table *table)
{
    uint32_t number = (uint32_t)(table - t->tables), frame = table->frame;
    uint32_t *at = table_bucket(t, frame);
    while (*at != number)
        at = &t->tables[*at].next_in_bucket;
    *at = table->next_in_bucket;
    table->space = SPACES_MAX;
    table->next_in_bucket = t->free_table;
    t->free_table = number;
    if (!frame_has_table(t, frame))
        memory_unwatch(t->v->memory, frame_gpa(t, frame) >> PAGE_SHIFT, PAGE_TABLE);
}

static unsigned entry_bits(const struct table *table)
{
    return table->entry_size == 8 ? 9 : 10;
}

/* Both views of a guest page. `large`: only if it is a piece of a page of this size; 0: whatever it is. */
static void drop_guest_page(struct trap *t, struct space *s, uint64_t vpage, unsigned large)
{
    struct page *page = page_find(t, s, vpage);
    if (page != NULL && page_guest(s, page) == vpage && (large == 0 || page->large == large))
        page_drop(t, page);
    page = page_find_code(t, s, vpage << PAGE_SHIFT);
    if (page != NULL && (large == 0 || page->large == large))
        page_drop(t, page);
}

static void drop_range(struct trap *t, struct space *s, uint64_t vpage, uint64_t count)
{
    if (count <= s->count) {
        for (uint64_t i = 0; i < count; i++)
            drop_guest_page(t, s, vpage + i, 0);
        return;
    }
    for (uint32_t i = s->pages, next; i != NONE; i = next) {
        next = t->pages[i].next_of_space;
        if (page_guest(s, &t->pages[i]) - vpage < count)
            page_drop(t, &t->pages[i]);
    }
}

/* False: there is no room for it, so the space cannot be kept in step. */
static bool table_note(struct trap *t, struct space *s, struct table table)
{
    for (uint32_t i = *table_bucket(t, table.frame); i != NONE; i = t->tables[i].next_in_bucket) {
        struct table *known = &t->tables[i];
        if (known->frame == table.frame && known->base == table.base && known->space == table.space &&
            known->entry_shift == table.entry_shift) {
            known->idle = 0;
            return true;
        }
    }
    uint32_t number = t->free_table;
    if (number == NONE)
        return false;
    t->free_table = t->tables[number].next_in_bucket;
    bool first = !frame_has_table(t, table.frame);
    uint32_t *bucket = table_bucket(t, table.frame);
    table.next_in_bucket = *bucket;
    t->tables[number] = table;
    *bucket = number;
    t->count.tables++;
    if (first) {
        memory_watch(t->v->memory, frame_gpa(t, table.frame) >> PAGE_SHIFT, PAGE_TABLE);
        mmu_stop_plain_writes(t->v, frame_gpa(t, table.frame));
    }
    (void)s;
    return true;
}

static unsigned log2_of(uint64_t power)
{
    return (unsigned)__builtin_ctzll(power);
}

static bool tables_note(struct trap *t, struct space *s, gva_t gva, const struct walk *walk)
{
    if (t->policy != SHADOW_PROACTIVE)
        return true;
    unsigned shift = log2_of(walk->size);
    for (unsigned i = walk->entry_count; i-- > 0;) {
        struct page_backing backing = memory_page(t->v->memory, walk->entry_gpa[i]);
        struct table table = {
            .entry_shift = (uint8_t)shift, .entry_size = (uint8_t)walk->entry_size, .space = (uint8_t)(s - t->spaces)};
        shift += entry_bits(&table);
        table.base = shift < 64 ? gva >> shift << shift : 0;
        if (backing.kind != PAGE_RAM)
            continue; /* in ROM: never written */
        table.frame = frame_of(t, &backing);
        if (!table_note(t, s, table))
            return false;
    }
    return true;
}

static void table_written(struct trap *t, struct table *table, unsigned offset, unsigned size)
{
    struct space *s = &t->spaces[table->space];
    uint64_t first = offset / table->entry_size, last = (offset + size - 1) / table->entry_size;
    bool recycled = ++table->idle > IDLE_MAX;
    if (recycled) {
        first = 0;
        last = (1u << entry_bits(table)) - 1;
        t->count.tables_recycled++;
    }
    unsigned shift = table->entry_shift - PAGE_SHIFT;
    drop_range(t, s, (table->base >> PAGE_SHIFT) + (first << shift), (last - first + 1) << shift);
    if (recycled)
        table_free(t, table);
}

static void tables_written(struct trap *t, uint32_t frame, unsigned offset, unsigned size)
{
    t->count.table_writes++;
    for (uint32_t i = *table_bucket(t, frame), next; i != NONE; i = next) {
        next = t->tables[i].next_in_bucket;
        if (t->tables[i].frame == frame)
            table_written(t, &t->tables[i], offset, size);
    }
}

static void space_free_tables(struct trap *t, const struct space *s)
{
    if (t->policy != SHADOW_PROACTIVE)
        return;
    for (uint32_t i = 0; i < TABLES_MAX; i++)
        if (t->tables[i].space == s - t->spaces)
            table_free(t, &t->tables[i]);
}

/* ---- spaces ---- */

static void space_forget(struct trap *t, struct space *s)
{
    while (s->pages != NONE)
        page_forget(t, &t->pages[s->pages]);
    s->large = false;
    space_free_tables(t, s);
}

void space_empty(struct trap *t, struct space *s)
{
    if (!s->used || s->count == 0)
        return;
    space_forget(t, s);
    sandbox_unmap_all(s->box);
    t->count.clears++;
}

void spaces_empty(struct trap *t)
{
    for (unsigned i = 0; i < SPACES_MAX; i++)
        space_empty(t, &t->spaces[i]);
}

void space_lost(struct trap *t, struct space *s)
{
    space_forget(t, s);
    if (t->vector_owner == s)
        t->vector_owner = NULL;
    if (t->last_run == s)
        t->last_run = NULL;
    sandbox_destroy(s->box);
    s->box = NULL;
    s->used = false;
    t->space = NULL;
}

static bool frames_create(struct trap *t)
{
    uint64_t bytes = (t->ram_size >> PAGE_SHIFT) * sizeof *t->frames;
    t->frames = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->frames == MAP_FAILED) {
        t->frames = NULL;
        return false;
    }
    return true;
}

bool spaces_create(struct trap *t, struct error *err)
{
    t->pages = calloc(PAGES_MAX, sizeof *t->pages);
    t->buckets = malloc(PAGE_BUCKETS * sizeof *t->buckets);
    t->tables = calloc(TABLES_MAX, sizeof *t->tables);
    t->table_buckets = malloc(TABLE_BUCKETS * sizeof *t->table_buckets);
    if (t->pages == NULL || t->buckets == NULL || t->tables == NULL || t->table_buckets == NULL || !frames_create(t))
        return error_set(err, "out of memory");
    memset(t->buckets, 0xff, PAGE_BUCKETS * sizeof *t->buckets);
    memset(t->table_buckets, 0xff, TABLE_BUCKETS * sizeof *t->table_buckets);
    t->free_page = NONE;
    for (uint32_t i = 0; i < TABLES_MAX; i++)
        t->tables[i] = (struct table){.space = SPACES_MAX, .next_in_bucket = i + 1 < TABLES_MAX ? i + 1 : NONE};
    for (unsigned i = 0; i < SPACES_MAX; i++)
        t->spaces[i].pages = NONE;
    return true;
}

void spaces_destroy(struct trap *t)
{
    for (unsigned i = 0; i < SPACES_MAX && t->pages != NULL && t->tables != NULL; i++) {
        if (t->spaces[i].used)
            space_forget(t, &t->spaces[i]);
        sandbox_destroy(t->spaces[i].box);
        t->spaces[i] = (struct space){.pages = NONE};
    }
    free(t->pages);
    free(t->buckets);
    free(t->tables);
    free(t->table_buckets);
    if (t->frames != NULL)
        munmap(t->frames, (t->ram_size >> PAGE_SHIFT) * sizeof *t->frames);
}

/* ---- finding the space of the current mode ---- */

static enum vectors vectors_of(const struct trap *t)
{
    const struct vcpu *v = t->v;
    if (v->cpl != 3 || (v->cr0 & (CR0_EM | CR0_TS)) || !(v->cr4 & CR4_OSFXSR))
        return VECTORS_NONE;
    bool avx =
        (v->cr4 & CR4_OSXSAVE) && (v->xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX) && t->ymm_offset != 0;
    return avx ? VECTORS_AVX : VECTORS_SSE;
}

static struct space_key key_of(const struct trap *t)
{
    const struct vcpu *v = t->v;
    struct space_key key = {.kind = (uint8_t)(v->tlb - v->tlbs),
                            .paging = v->cr0 & CR0_PG,
                            .wide = v->code_mode == CODE_64,
                            .vectors = (uint8_t)vectors_of(t)};
    if (key.paging && (t->policy == SHADOW_TAGGED || t->policy == SHADOW_PROACTIVE))
        key.cr3 = v->cr3;
    return key;
}

static bool key_equal(const struct space_key *a, const struct space_key *b)
{
    return a->cr3 == b->cr3 && a->kind == b->kind && a->paging == b->paging && a->wide == b->wide &&
           a->vectors == b->vectors;
}

static struct space *space_with(struct trap *t, const struct space_key *key)
{
    for (unsigned i = 0; i < SPACES_MAX; i++)
        if (t->spaces[i].used && key_equal(&t->spaces[i].key, key))
            return &t->spaces[i];
    return NULL;
}

/* One that is free, or the one that was not used for the longest time; empty. */
static struct space *space_recycle(struct trap *t)
{
    unsigned count = t->policy == SHADOW_SINGLE ? 1 : SPACES_MAX;
    struct space *oldest = &t->spaces[0];
    for (unsigned i = 0; i < count; i++) {
        struct space *s = &t->spaces[i];
        if (!s->used)
            return s;
        if (s->last_used < oldest->last_used)
            oldest = s;
    }
    if (t->vector_owner == oldest)
        vector_fetch(t);
    space_empty(t, oldest);
    return oldest;
}

static struct space *space_create(struct trap *t, const struct space_key *key)
{
    struct space *s = space_recycle(t);
    struct error err = {""};
    if (s->box == NULL)
        s->box = sandbox_create(t->family, &err);
    if (s->box == NULL) {
        s->used = false;
        log_warn(t->v->log, "trap: %s", err.message);
        return NULL;
    }
    s->used = true;
    s->key = *key;
    s->window = WINDOW_DEFAULT;
    s->split = !key->wide && t->patch && sandbox_set_code_base(s->box, s->window << PAGE_SHIFT);
    s->stale = false;
    t->count.spaces++;
    return s;
}

/* What a space may do with a page of RAM. X: may be executed, after code.c has looked at it. */
static unsigned rights_of(const struct trap *t, const struct space *s, const struct walk *walk, uint32_t frame)
{
    const struct vcpu *v = t->v;
    bool user_space = s->key.kind == TLB_USER, user = walk->user || !s->key.paging;
    if (user_space ? !user : s->key.kind == TLB_KERNEL && s->key.paging && walk->user)
        return 0;
    unsigned rights = RIGHT_R;
    if (walk->dirty && !frame_is_watched(t, frame) && (walk->all_writable || (!user_space && !(v->cr0 & CR0_WP))))
        rights |= RIGHT_W;
    if (!walk->nx && !(!user_space && walk->user && s->key.paging && (v->cr4 & CR4_SMEP)))
        rights |= RIGHT_X;
    return rights;
}

/* Whether the guest's tables still permit what the page does. */
static bool page_agrees(struct trap *t, const struct space *s, const struct page *page)
{
    struct walk walk;
    uint32_t error;
    if (!walk_page_tables(t->v, page_guest(s, page) << PAGE_SHIFT, access_current(t->v), true, &walk, &error) ||
        !walk.accessed)
        return false;
    struct page_backing backing = memory_page(t->v->memory, walk.gpa);
    if (backing.kind != PAGE_RAM || frame_of(t, &backing) != page->frame)
        return false;
    return (page->rights & ~rights_of(t, s, &walk, page->frame)) == 0;
}

static void space_compare(struct trap *t, struct space *s)
{
    s->stale = false;
    for (uint32_t i = s->pages, next; i != NONE; i = next) {
        next = t->pages[i].next_of_space;
        t->count.compared++;
        if (!page_agrees(t, s, &t->pages[i]))
            page_drop(t, &t->pages[i]);
    }
}

struct space *space_current(struct trap *t)
{
    struct vcpu *v = t->v;
    struct space_key key = key_of(t);
    struct space *s = t->space;
    if (s == NULL || !key_equal(&s->key, &key)) {
        s = space_with(t, &key);
        if (s == NULL)
            s = space_create(t, &key);
        t->space = s;
        if (s == NULL)
            return NULL;
        s->last_used = ++t->clock;
    }
    bool pae = key.paging && (v->cr4 & CR4_PAE) && !vcpu_long_mode(v);
    if (pae && memcmp(s->pdpte, v->pdpte, sizeof s->pdpte) != 0) {
        space_empty(t, s);
        memcpy(s->pdpte, v->pdpte, sizeof s->pdpte);
    }
    if (s->stale)
        space_compare(t, s);
    if (sandbox_is_full(s->box))
        space_empty(t, s);
    return s;
}

/* ---- filling ---- */

static int prot_of(unsigned rights)
{
    return PROT_READ | (rights & RIGHT_W ? PROT_WRITE : 0) | (rights & RIGHT_X ? PROT_EXEC : 0);
}

/* Pages side by side, in both senses, to be mapped at once. */
struct run {
    uint64_t vpage;
    uint32_t frame;
    uint32_t count;
    unsigned rights, large;
};

static bool run_enter(struct trap *t, struct space *s, const struct run *run)
{
    for (uint32_t i = 0; i < run->count; i++) {
        struct page *page = page_find(t, s, run->vpage + i);
        if (page != NULL)
            page_forget(t, page);
        if (page_add(t, s, run->vpage + i, run->frame + i, run->rights, run->large) == NULL) {
            spaces_empty(t); /* full */
            return false;
        }
    }
    sandbox_map(s->box, run->vpage << PAGE_SHIFT, (uint64_t)run->count << PAGE_SHIFT, SANDBOX_RAM,
                (uint64_t)run->frame << PAGE_SHIFT, prot_of(run->rights));
    t->count.pages += run->count;
    return true;
}

/* The page `distance` pages away, if the guest has used it and it is not mapped. */
static bool sibling_find(struct trap *t, struct space *s, gva_t gva, const struct walk *walk, int distance,
                         struct run *found)
{
    const struct vcpu *v = t->v;
    gva_t to = gva + (int64_t)distance * PAGE_SIZE;
    struct walk sibling;
    if (!sandboxes_can_map(t->family, to) || page_find(t, s, to >> PAGE_SHIFT) != NULL || points_watch_page(v->points, to) ||
        !walk_sibling(t->v, gva, walk, distance, &sibling))
        return false;
    struct page_backing backing = memory_page(t->v->memory, sibling.gpa);
    if (backing.kind != PAGE_RAM)
        return false;
    uint32_t frame = frame_of(t, &backing);
    unsigned rights = rights_of(t, s, &sibling, frame) & (RIGHT_R | RIGHT_W);
    *found = (struct run){.vpage = to >> PAGE_SHIFT, .frame = frame, .count = 1, .rights = rights};
    return rights != 0;
}

/* Extends the run to one side while neighbours go on where it ends; those that do not are mapped by themselves. */
static bool side_enter(struct trap *t, struct space *s, gva_t gva, const struct walk *walk, int side, struct run *run)
{
    bool wide = walk->entry_count == 0 || walk->size > PAGE_SIZE, in_run = true;
    for (int i = 1; i <= (wide ? RUN_LARGE : RUN_SMALL); i++) {
        struct run found;
        bool ok = sibling_find(t, s, gva, walk, side * i, &found);
        in_run = in_run && ok && found.rights == run->rights &&
                 found.frame == (side < 0 ? run->frame - 1 : run->frame + run->count);
        if (in_run) {
            run->vpage -= side < 0;
            run->frame -= side < 0;
            run->count++;
        } else if (wide) {
            return true;
        } else if (ok && !run_enter(t, s, &found)) {
            return false;
        }
    }
    return true;
}

/* Data is wanted where code is mapped: code moves, and has to come anew. */
static void window_move(struct trap *t, struct space *s, uint64_t wanted)
{
    for (uint32_t i = s->pages, next; i != NONE; i = next) {
        next = t->pages[i].next_of_space;
        if (t->pages[i].rights & RIGHT_X)
            page_drop(t, &t->pages[i]);
    }
    for (unsigned i = 0; i < WINDOW_TRIES; i++) {
        t->random = t->random * 6364136223846793005ull + 1442695040888963407ull;
        s->window = (uint32_t)(t->random >> 44);
        uint64_t code = space_code_page(s, t->v->rip);
        if (s->window != 0 && code != wanted && sandboxes_can_map(t->family, code << PAGE_SHIFT) &&
            page_find(t, s, code) == NULL)
            break;
    }
    t->count.windows++;
    if (!sandbox_set_code_base(s->box, s->window << PAGE_SHIFT))
        space_empty(t, s); /* it is gone; the next run finds that */
}

bool space_fill(struct trap *t, struct space *s, gva_t gva)
{
    struct vcpu *v = t->v;
    struct walk walk;
    uint32_t error;
    if (!sandboxes_can_map(t->family, gva) || points_watch_page(v->points, gva) ||
        !walk_page_tables(v, gva, access_current(v), false, &walk, &error))
        return false;
    struct page_backing backing = memory_page(v->memory, walk.gpa);
    if (backing.kind != PAGE_RAM)
        return false;
    if (!tables_note(t, s, gva, &walk)) {
        spaces_empty(t);
        return true; /* it faults again */
    }
    uint32_t frame = frame_of(t, &backing);
    unsigned rights = rights_of(t, s, &walk, frame) & (RIGHT_R | RIGHT_W);
    const struct page *known = page_find(t, s, gva >> PAGE_SHIFT);
    if (rights != 0 && s->split && known != NULL && (known->rights & RIGHT_X)) {
        window_move(t, s, gva >> PAGE_SHIFT);
        known = NULL;
    }
    if (rights == 0 || (known != NULL && known->frame == frame && (known->rights & rights) == rights))
        return false;
    struct run run = {.vpage = gva >> PAGE_SHIFT,
                      .frame = frame,
                      .count = 1,
                      .rights = rights,
                      .large = walk.size > PAGE_SIZE ? log2_of(walk.size) - PAGE_SHIFT : 0};
    if (side_enter(t, s, gva, &walk, -1, &run) && side_enter(t, s, gva, &walk, 1, &run))
        run_enter(t, s, &run);
    return true; /* if there was no room, there is now, and it faults again */
}

bool space_fill_code(struct trap *t, struct space *s, gva_t gva, bool entry)
{
    struct vcpu *v = t->v;
    struct walk walk;
    uint32_t error;
    uint64_t at = space_code_page(s, gva);
    if (!sandboxes_can_map(t->family, at << PAGE_SHIFT) || points_in_code_page(v->points, gva) ||
        points_watch_page(v->points, gva) || !walk_page_tables(v, gva, ACCESS_FETCH | access_current(v), false, &walk, &error))
        return false;
    struct page_backing backing = memory_page(v->memory, walk.gpa);
    if (backing.kind != PAGE_RAM || (*backing.flags & PAGE_DEVICE))
        return false;
    uint32_t frame = frame_of(t, &backing);
    if (!(rights_of(t, s, &walk, frame) & RIGHT_X))
        return false; /* may be fetched, but not read: SMAP */
    if (!tables_note(t, s, gva, &walk)) {
        spaces_empty(t);
        tables_note(t, s, gva, &walk);
    }
    enum sandbox_file file;
    uint64_t offset;
    code_prepare(t, s, gva, entry, frame, &file, &offset);
    struct page *page = page_find(t, s, at);
    if (page != NULL && page->frame == frame && (page->rights & RIGHT_X))
        return true;
    if (page != NULL)
        page_forget(t, page);
    unsigned large = walk.size > PAGE_SIZE ? log2_of(walk.size) - PAGE_SHIFT : 0;
    if (page_add(t, s, at, frame, RIGHT_R | RIGHT_X, large) == NULL) {
        spaces_empty(t);
        page_add(t, s, at, frame, RIGHT_R | RIGHT_X, large);
    }
    sandbox_map(s->box, at << PAGE_SHIFT, PAGE_SIZE, file, offset, PROT_READ | PROT_EXEC);
    t->count.pages++;
    return true;
}

void frame_drop_code(struct trap *t, uint32_t frame)
{
    for (uint32_t i = frame_first(t, frame), next; i != NONE; i = next) {
        next = t->pages[i].next_of_frame;
        if (t->pages[i].rights & RIGHT_X)
            page_drop(t, &t->pages[i]);
    }
}

/* ---- what the guest invalidates ---- */

static void on_flush(struct vcpu *v)
{
    spaces_empty(trap_of(v));
}

static void space_flush_page(struct trap *t, struct space *s, gva_t gva)
{
    static const uint8_t sizes[] = {9, 10}; /* log2, in pages, of 2 and 4 MiB */
    uint64_t vpage = gva >> PAGE_SHIFT;
    struct page *page = page_find(t, s, vpage);
    if (page != NULL && page->large > 10) { /* 1 GiB */
        space_empty(t, s);
        return;
    }
    drop_guest_page(t, s, vpage, 0);
    /* It may be a piece of a large page, others of which are mapped. */
    for (unsigned i = 0; i < ARRAY_LEN(sizes) && s->large; i++) {
        uint64_t count = 1ull << sizes[i], first = vpage & ~(count - 1);
        for (uint64_t n = 0; n < count; n++)
            drop_guest_page(t, s, first + n, sizes[i]);
    }
}

static void on_flush_page(struct vcpu *v, gva_t gva)
{
    struct trap *t = trap_of(v);
    for (unsigned i = 0; i < SPACES_MAX; i++)
        if (t->spaces[i].used && t->spaces[i].count != 0)
            space_flush_page(t, &t->spaces[i], gva);
}

static void on_switch(struct vcpu *v, uint64_t cr3, bool keep)
{
    struct trap *t = trap_of(v);
    t->count.cr3_loads++;
    t->space = NULL;
    for (unsigned i = 0; i < SPACES_MAX; i++) {
        struct space *s = &t->spaces[i];
        if (!s->used || !s->key.paging)
            continue;
        if (t->policy == SHADOW_TAGGED && s->key.cr3 == cr3 && !keep)
            s->stale = true;
        else if ((t->policy == SHADOW_ONDEMAND || t->policy == SHADOW_SINGLE) && !(keep && cr3 == v->cr3))
            space_empty(t, s);
    }
}

static void on_stop_writes(struct vcpu *v, gpa_t gpa)
{
    struct trap *t = trap_of(v);
    struct page_backing backing = memory_page(v->memory, gpa);
    if (backing.kind != PAGE_RAM)
        return;
    for (uint32_t i = frame_first(t, frame_of(t, &backing)); i != NONE; i = t->pages[i].next_of_frame) {
        struct page *page = &t->pages[i];
        if (!(page->rights & RIGHT_W))
            continue;
        page->rights &= (uint8_t)~RIGHT_W;
        sandbox_protect(t->spaces[page->space].box, page->vpage << PAGE_SHIFT, PAGE_SIZE, PROT_READ);
    }
}

static void on_written(struct vcpu *v, gpa_t gpa, unsigned size)
{
    struct trap *t = trap_of(v);
    struct page_backing backing = memory_page(v->memory, gpa);
    if (backing.kind != PAGE_RAM)
        return;
    uint32_t frame = frame_of(t, &backing);
    unsigned flags = __atomic_load_n(backing.flags, __ATOMIC_RELAXED), offset = (unsigned)(gpa & PAGE_OFFSET_MASK);
    if (flags & PAGE_DIRECT)
        code_written(t, frame, offset, size);
    if (flags & PAGE_TABLE)
        tables_written(t, frame, offset, size);
}

const struct mmu_observer trap_observer = {
    .flush = on_flush,
    .flush_page = on_flush_page,
    .cr3_load = on_switch,
    .stop_writes = on_stop_writes,
    .written = on_written,
};
