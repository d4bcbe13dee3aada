/* Pieces of code, the blocks translated from them, and the links between blocks.
 *
 * Everything here is forgotten at once when something is full (blocks_flush()), which is simpler than choosing and hardly
 * slower; single blocks die when their code is written or when they are to be emitted in another form. A dead block's
 * memory stays as it is until the next flush: a return may still be on its way to the landing behind one of its calls, which
 * then leaves translated code like any exit that is not linked.
 *
 * Identities of pieces are not used again after a flush, so that what the shadow has kept in an address space's log can
 * never name a new piece.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "engine/translate/internal.h"
#include "memory/memory.h"
#include "mmu/shadow.h"

#define TABLE_BYTES (JUMPS * sizeof(uint64_t))

static void *reserve(size_t size, struct error *err)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        error_set(err, "no memory for the translator's tables: %m");
    return p == MAP_FAILED ? NULL : p;
}

/* What translated code reaches by a 32-bit displacement from the state register. */
static bool near_create(struct translate *t, struct error *err)
{
    size_t returns = RETURN_STACK_SIZE + 2 * PAGE_SIZE;
    t->near_size = 8 * TABLE_BYTES + 2 * returns + LOOP_CREDITS * sizeof *t->credits;
    uintptr_t v = (uintptr_t)t->v & ~PAGE_OFFSET_MASK;
    t->near = NULL;
    for (unsigned n = 1; n < 64 && t->near == NULL; n++) {
        uintptr_t at = n & 1 ? v + (uintptr_t)(n + 1) / 2 * 48 * MiB : v - (uintptr_t)n / 2 * 48 * MiB;
        void *p = mmap((void *)at, t->near_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (p != MAP_FAILED && (uintptr_t)p == at)
            t->near = p;
        else if (p != MAP_FAILED)
            munmap(p, t->near_size);
    }
    if (t->near == NULL)
        return error_set(err, "no room for the translator's tables near the processor's state");
    for (unsigned i = 0; i < 4; i++) {
        t->jumps[i].tags = (uint64_t *)(void *)(t->near + 2 * i * TABLE_BYTES);
        t->jumps[i].hosts = (uint64_t *)(void *)(t->near + (2 * i + 1) * TABLE_BYTES);
        jumps_reset(t, i);
    }
    t->credits = (int64_t *)(void *)(t->near + 8 * TABLE_BYTES + 2 * returns);
    t->probe = t->near + 8 * TABLE_BYTES - 8; /* before the first return stack's guard page */
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *low = t->near + 8 * TABLE_BYTES + i * returns;
        if (mprotect(low, PAGE_SIZE, PROT_NONE) != 0)
            return error_set(err, "cannot protect the end of a return stack: %m");
        t->returns[i].low = low + PAGE_SIZE;
        t->returns[i].empty = (uintptr_t)t->returns[i].low + RETURN_STACK_SIZE;
    }
    return true;
}

bool blocks_create(struct translate *t, struct error *err)
{
    t->blocks = reserve(BLOCKS_MAX * sizeof *t->blocks, err);
    t->maps = reserve(MAPS_MAX * sizeof *t->maps, err);
    t->exits = reserve(EXITS_MAX * sizeof *t->exits, err);
    t->sites = reserve(SITES_MAX * sizeof *t->sites, err);
    t->pieces = reserve(PIECES_MAX * sizeof *t->pieces, err);
    t->by_gpfn = reserve(HASH_SIZE * sizeof *t->by_gpfn, err);
    t->hash = reserve(BLOCK_HASH_SIZE * sizeof *t->hash, err);
    t->heat = reserve(HASH_SIZE, err);
    t->forms = reserve(FORMS_SIZE * sizeof *t->forms, err);
    t->signal_stack = reserve(SIGNAL_STACK_SIZE, err);
    if (!t->signal_stack || !t->blocks || !t->maps || !t->exits || !t->sites || !t->pieces || !t->by_gpfn || !t->hash || !t->heat || !t->forms)
        return false;
    t->first_id = 1;
    if (getrandom(&t->never, sizeof t->never, 0) != (ssize_t)sizeof t->never)
        return error_set(err, "no random numbers: %m");
    t->never |= 1ull << 63 | 1;
    t->never &= ~(1ull << 62); /* not canonical */
    return near_create(t, err);
}

static void pieces_free(struct translate *t)
{
    for (uint32_t i = 0; i < t->piece_count; i++)
        free(t->pieces[i]);
    t->first_id += t->piece_count;
    t->piece_count = 0;
}

static void release(void *p, size_t size)
{
    if (p != NULL)
        munmap(p, size);
}

void blocks_destroy(struct translate *t)
{
    if (t->pieces != NULL)
        pieces_free(t);
    release(t->blocks, BLOCKS_MAX * sizeof *t->blocks);
    release(t->maps, MAPS_MAX * sizeof *t->maps);
    release(t->exits, EXITS_MAX * sizeof *t->exits);
    release(t->sites, SITES_MAX * sizeof *t->sites);
    release(t->pieces, PIECES_MAX * sizeof *t->pieces);
    release(t->by_gpfn, HASH_SIZE * sizeof *t->by_gpfn);
    release(t->hash, BLOCK_HASH_SIZE * sizeof *t->hash);
    release(t->heat, HASH_SIZE);
    release(t->forms, FORMS_SIZE * sizeof *t->forms);
    release(t->signal_stack, SIGNAL_STACK_SIZE);
    release(t->near, t->near_size);
}

void blocks_flush(struct translate *t)
{
    if (t->block_count != 0)
        t->counters.flushes++;
    pieces_free(t);
    memset(t->by_gpfn, 0, HASH_SIZE * sizeof *t->by_gpfn);
    madvise(t->hash, BLOCK_HASH_SIZE * sizeof *t->hash, MADV_DONTNEED);
    memset(t->heat, 0, HASH_SIZE);
    t->block_count = t->map_count = t->exit_count = t->site_count = 0;
    t->used = t->used_base;
    t->from_exit = 0;
    for (unsigned i = 0; i < 4; i++)
        jumps_reset(t, i);
    returns_reset(t);
    t->code_generation = t->v->code_generation;
}

/* ---- jump caches and return stacks ---- */

void jumps_reset(struct translate *t, unsigned table)
{
    madvise(t->jumps[table].tags, 2 * TABLE_BYTES, MADV_DONTNEED);
    t->jumps[table].tags[0] = (uint64_t)-1; /* all other places cannot hold address 0 */
}

void jumps_enter(struct translate *t, uint64_t rip, const struct block *block)
{
    unsigned table = piece_get(t, block->piece)->key & KEY_TABLE, n = rip & (JUMPS - 1);
    t->jumps[table].tags[n] = -rip;
    t->jumps[table].hosts[n] = (uintptr_t)(t->execute + block->code);
}

static void jumps_remove(struct translate *t, const struct block *block)
{
    uint64_t rip = block_rip(t, block), host = (uintptr_t)(t->execute + block->code);
    unsigned table = piece_get(t, block->piece)->key & KEY_TABLE, n = rip & (JUMPS - 1);
    if (t->jumps[table].hosts[n] == host)
        t->jumps[table].tags[n] = -(rip ^ 1); /* never looked for here */
}

static void return_stack_reset(struct translate *t, unsigned i)
{
    uint64_t empty = t->returns[i].empty, host = (uintptr_t)(t->execute + t->at.underflow[t->returns[i].narrow ? 1 : 0]);
    memcpy((void *)(uintptr_t)empty, &host, sizeof host);
    memcpy((void *)(uintptr_t)(empty - 8), &t->never, sizeof t->never);
    t->returns[i].rsp = empty;
    if (t->entered == (int)i)
        t->v->translated.return_rsp = empty;
}

void returns_reset(struct translate *t)
{
    for (unsigned i = 0; i < ARRAY_LEN(t->returns); i++)
        return_stack_reset(t, i);
}

void returns_for_key(struct translate *t)
{
    unsigned i = t->key & KEY_USER;
    bool narrow = t->key & KEY_NARROW;
    if (t->returns[i].narrow == narrow)
        return;
    t->returns[i].narrow = narrow;
    return_stack_reset(t, i);
}

/* ---- pieces ---- */

struct piece *piece_get(const struct translate *t, uint32_t id)
{
    return id - t->first_id < t->piece_count ? t->pieces[id - t->first_id] : NULL;
}

static uint32_t *gpfn_bucket(const struct translate *t, uint64_t gpfn)
{
    return &t->by_gpfn[(gpfn ^ gpfn >> 16) & (HASH_SIZE - 1)];
}

static struct piece *piece_find(struct translate *t, uint64_t gpfn, uint64_t vpage, uint8_t key, bool large)
{
    for (uint32_t id = *gpfn_bucket(t, gpfn); id != 0;) {
        struct piece *piece = piece_get(t, id);
        if (piece->gpfn == gpfn && piece->vpage == vpage && piece->key == key && piece->large == large)
            return piece;
        id = piece->next;
    }
    struct piece *piece = calloc(1, sizeof *piece);
    check(piece != NULL);
    *piece = (struct piece){.gpfn = gpfn, .vpage = vpage, .key = key, .large = large};
    piece->id = t->first_id + t->piece_count;
    t->pieces[t->piece_count++] = piece;
    piece->next = *gpfn_bucket(t, gpfn);
    *gpfn_bucket(t, gpfn) = piece->id;
    return piece;
}

uint8_t translate_key(const struct vcpu *v)
{
    uint8_t key = v->cpl == 3 ? KEY_USER : v->cr4 & CR4_SMAP ? KEY_SMAP : 0;
    if (v->code_mode != CODE_64)
        key |= v->code_mode == CODE_32 ? KEY_NARROW | KEY_SEGMENTS : KEY_NARROW;
    return key;
}

bool piece_implies(const struct piece *from, const struct piece *to)
{
    if (from == to)
        return true;
    return from->large && to->large && from->vpage >> 9 == to->vpage >> 9 && from->gpfn >> 9 == to->gpfn >> 9;
}

/* Code in ROM is interpreted, from branch to branch; finding out each time that it is ROM would cost more than that. What is
 * noted here may be old, as nobody takes it back: then RAM is interpreted a while longer, which does no harm. */
static bool is_unpieced(struct translate *t, uint64_t vpage)
{
    unsigned i = vpage % UNPIECED_SLOTS;
    if (t->unpieced[i].vpage != vpage || t->unpieced[i].key != t->key || t->unpieced[i].trust == 0)
        return false;
    t->unpieced[i].trust--;
    return true;
}

static void note_unpieced(struct translate *t, uint64_t vpage)
{
    unsigned i = vpage % UNPIECED_SLOTS;
    t->unpieced[i].vpage = vpage;
    t->unpieced[i].key = t->key;
    t->unpieced[i].trust = UINT8_MAX;
}

static struct piece *piece_at(struct translate *t, uint64_t rip)
{
    struct vcpu *v = t->v;
    uint64_t vpage = rip >> PAGE_SHIFT;
    struct piece *piece = piece_get(t, (uint32_t)t->fetch[vpage % SHADOW_FETCH_SLOTS]);
    if (likely(piece != NULL && piece->vpage == vpage && piece->key == t->key))
        return piece;
    if (v->code_mode == CODE_64 && !gva_canonical(rip))
        return NULL;
    if (is_unpieced(t, vpage))
        return NULL;
    struct walk walk;
    uint32_t error;
    if (!walk_page_tables(v, rip, ACCESS_FETCH | access_current(v), false, &walk, &error))
        return NULL;
    struct page_backing page = memory_page(v->memory, walk.gpa);
    if (page.kind != PAGE_RAM || (*page.flags & PAGE_DEVICE)) {
        note_unpieced(t, vpage);
        return NULL;
    }
    piece = piece_find(t, walk.gpa >> PAGE_SHIFT, vpage, t->key, walk.size > PAGE_SIZE);
    shadow_fetch_set(v, rip, piece->id, &walk);
    return piece;
}

struct piece *piece_current(struct translate *t)
{
    return piece_at(t, t->v->rip);
}

struct piece *piece_following(struct translate *t, const struct piece *piece)
{
    uint64_t rip = (piece->vpage + 1) << PAGE_SHIFT;
    if (t->piece_count > PIECES_MAX - 2 || (t->key & KEY_NARROW && rip >> 32 != 0))
        return NULL;
    return piece_at(t, rip);
}

/* ---- blocks ---- */

static uint32_t hash_of(uint32_t piece, unsigned off)
{
    return (piece * 0x9e3779b1u ^ off * 0x85ebca6bu) >> 14; /* below BLOCK_HASH_SIZE */
}

struct block *block_find(const struct translate *t, const struct piece *piece, unsigned off)
{
    for (uint32_t n = t->hash[hash_of(piece->id, off)]; n != 0;) {
        struct block *block = &t->blocks[n - 1];
        if (block->piece == piece->id && block->off == off)
            return block;
        n = block->next_in_hash;
    }
    return NULL;
}

/* Bytes `from` to `to` (exclusive) of the page are code. */
static void piece_cover(struct piece *piece, unsigned from, unsigned to)
{
    for (unsigned n = from / 16; n < PAGE_SIZE / 16 && n * 16 < to; n++)
        piece->code[n / 64] |= 1ull << n % 64;
}

void block_enter(struct translate *t, struct piece *piece, struct block *block)
{
    uint32_t *bucket = &t->hash[hash_of(piece->id, block->off)];
    block->next_in_hash = *bucket;
    *bucket = block_number(t, block) + 1;
    block->next_in_piece = piece->blocks;
    piece->blocks = block_number(t, block) + 1;
    piece_cover(piece, block->off, block->off + block->guest_bytes);
    if (block->second != 0) {
        struct piece *second = piece_get(t, block->second);
        block->next_spanning = second->spanning;
        second->spanning = block_number(t, block) + 1;
        piece_cover(second, 0, block->off + block->guest_bytes - PAGE_SIZE);
    }
}

/* Everything that a block, or the pieces it may need, can use up. */
static bool is_full(const struct translate *t)
{
    return CACHE_SIZE - t->used < BLOCK_BYTES_MAX || t->block_count == BLOCKS_MAX || t->piece_count > PIECES_MAX - 2 ||
           MAPS_MAX - t->map_count < 2 * BLOCK_INSNS_MAX || EXITS_MAX - t->exit_count < 4 * BLOCK_INSNS_MAX + 8 ||
           SITES_MAX - t->site_count < 3 * BLOCK_INSNS_MAX;
}

struct block *block_current(struct translate *t)
{
    if (is_full(t) || t->code_generation != t->v->code_generation)
        blocks_flush(t);
    struct piece *piece = piece_current(t);
    if (piece == NULL)
        return NULL;
    unsigned off = (unsigned)(t->v->rip & PAGE_OFFSET_MASK);
    struct block *block = block_find(t, piece, off);
    if (block != NULL)
        return block;
    uint8_t *heat = &t->heat[hash_of(piece->id, off) / (BLOCK_HASH_SIZE / HASH_SIZE)];
    unsigned wanted = t->v->translate_heat + piece->rewrites * 4u;
    if (*heat < (wanted < 255 ? wanted : 255)) {
        ++*heat;
        return NULL;
    }
    return block_translate(t, piece, off);
}

struct block *block_of_host(const struct translate *t, uint64_t host_rip)
{
    uint64_t at = host_rip - (uintptr_t)t->execute;
    uint32_t low = 0, high = t->block_count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (t->blocks[middle].code <= at)
            low = middle;
        else
            high = middle;
    }
    struct block *block = &t->blocks[low];
    return low < t->block_count && at >= block->code && at - block->code < block->size ? block : NULL;
}

/* ---- links ---- */

static void exit_point(struct translate *t, const struct exit_site *exit, uint32_t at)
{
    uint32_t distance = at - (exit->jump + 4);
    /* The 4 bytes may lie across a line, but only this thread ever executes them. */
    memcpy(t->write + exit->jump, &distance, 4);
}

static void exit_unlink(struct translate *t, struct exit_site *exit)
{
    if (exit->to == 0)
        return;
    uint32_t number = (uint32_t)(exit - t->exits) + 1;
    struct block *to = &t->blocks[exit->to - 1];
    if (exit->prev_incoming != 0)
        t->exits[exit->prev_incoming - 1].next_incoming = exit->next_incoming;
    else if (to->incoming == number)
        to->incoming = exit->next_incoming;
    if (exit->next_incoming != 0)
        t->exits[exit->next_incoming - 1].prev_incoming = exit->prev_incoming;
    exit->to = exit->next_incoming = exit->prev_incoming = 0;
    exit_point(t, exit, exit->stub);
}

/* Where a branch from `from` may enter `to`, which needs no look at the fetch slots. */
static uint32_t near_entry(const struct exit_site *exit, const struct block *from, const struct block *to)
{
    bool loaded = !exit->landing && from->vector >= to->vector && from->avx >= to->avx && from->x87 >= to->x87;
    bool checks = to->near != to->body;
    if (checks && !loaded)
        return to->near; /* and polls */
    return exit->backward ? to->poll : to->body;
}

void exit_link(struct translate *t, struct exit_site *exit, struct block *to)
{
    if (exit->to != 0 || to->dead)
        return;
    const struct block *from = &t->blocks[exit->block];
    const struct piece *from_piece = piece_get(t, from->piece), *to_piece = piece_get(t, to->piece);
    if (from_piece->key != to_piece->key)
        return;
    uint32_t at = to->code;
    if (piece_implies(from_piece, to_piece))
        at += near_entry(exit, from, to);
    exit_point(t, exit, at);
    uint32_t number = (uint32_t)(exit - t->exits) + 1;
    exit->to = block_number(t, to) + 1;
    exit->prev_incoming = 0;
    exit->next_incoming = to->incoming;
    if (to->incoming != 0)
        t->exits[to->incoming - 1].prev_incoming = number;
    to->incoming = number;
    t->counters.links++;
}

/* Takes the block out of a list; `next` is the offset of the list's link in struct block. */
static void remove_from(struct translate *t, uint32_t *list, uint32_t number, size_t next)
{
    while (*list != 0 && *list != number)
        list = (uint32_t *)(void *)((char *)&t->blocks[*list - 1] + next);
    check(*list == number);
    memcpy(list, (const char *)&t->blocks[number - 1] + next, sizeof *list);
}

void block_kill(struct translate *t, struct block *block)
{
    if (block->dead)
        return;
    block->dead = true;
    while (block->incoming != 0)
        exit_unlink(t, &t->exits[block->incoming - 1]);
    for (uint32_t i = 0; i < block->exit_count; i++)
        exit_unlink(t, &t->exits[block->exits + i]);
    jumps_remove(t, block);
    uint32_t number = block_number(t, block) + 1;
    remove_from(t, &t->hash[hash_of(block->piece, block->off)], number, offsetof(struct block, next_in_hash));
    remove_from(t, &piece_get(t, block->piece)->blocks, number, offsetof(struct block, next_in_piece));
    if (block->second != 0)
        remove_from(t, &piece_get(t, block->second)->spanning, number, offsetof(struct block, next_spanning));
}

/* ---- code that is written ---- */

static bool piece_covers(const struct piece *piece, unsigned off, unsigned size)
{
    for (unsigned n = off / 16; n <= (off + size - 1) / 16; n++)
        if (piece->code[n / 64] >> n % 64 & 1)
            return true;
    return false;
}

static void piece_written(struct translate *t, struct piece *piece, unsigned off, unsigned size)
{
    if (!piece_covers(piece, off, size))
        return;
    bool any = false;
    for (uint32_t n = piece->blocks; n != 0;) {
        struct block *block = &t->blocks[n - 1];
        n = block->next_in_piece;
        if (off < block->off + block->guest_bytes && block->off < off + size) {
            block_kill(t, block);
            any = true;
        }
    }
    for (uint32_t n = piece->spanning; n != 0;) {
        struct block *block = &t->blocks[n - 1];
        n = block->next_spanning;
        if (off < block->off + block->guest_bytes - PAGE_SIZE) {
            block_kill(t, block);
            any = true;
        }
    }
    if (!any)
        return;
    t->counters.invalidations++;
    piece->rewrites += piece->rewrites < 60;
    memset(piece->code, 0, sizeof piece->code);
    for (uint32_t n = piece->blocks; n != 0; n = t->blocks[n - 1].next_in_piece)
        piece_cover(piece, t->blocks[n - 1].off, t->blocks[n - 1].off + t->blocks[n - 1].guest_bytes);
    for (uint32_t n = piece->spanning; n != 0; n = t->blocks[n - 1].next_spanning)
        piece_cover(piece, 0, t->blocks[n - 1].off + t->blocks[n - 1].guest_bytes - PAGE_SIZE);
}

bool blocks_written(struct vcpu *v, gpa_t gpa, unsigned size)
{
    struct translate *t = translate_of(v);
    unsigned off = (unsigned)(gpa & PAGE_OFFSET_MASK);
    bool interested = false;
    if (size > PAGE_SIZE - off)
        size = PAGE_SIZE - off;
    for (uint32_t id = *gpfn_bucket(t, gpa >> PAGE_SHIFT); id != 0;) {
        struct piece *piece = piece_get(t, id);
        if (piece->gpfn == gpa >> PAGE_SHIFT) {
            if (size != 0)
                piece_written(t, piece, off, size);
            interested |= piece->blocks != 0 || piece->spanning != 0;
        }
        id = piece->next;
    }
    return interested;
}

/* ---- forms ---- */

struct form *form_of(struct translate *t, uint32_t piece, unsigned off, bool create)
{
    uint64_t where = (uint64_t)piece << 12 | off;
    struct form *form = &t->forms[(where ^ where >> 14) % FORMS_SIZE];
    if (form->where == where)
        return form;
    if (!create)
        return NULL;
    *form = (struct form){.where = where};
    return form;
}
