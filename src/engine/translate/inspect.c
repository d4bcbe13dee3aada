/* Translated code shown to people who look on: which host code a piece of guest code has become.
 *
 * Found by physical page, so that code of an address space that is not in force any more is found, too. Of several
 * blocks that hold the instruction the one that begins with it is taken, else the newest. Only while the engine does
 * not run.
 */
#include "engine/translate/internal.h"

/* The greatest piece id with code in this physical page, at this virtual one. */
static const struct block *best_in_piece(const struct translate *t, const struct piece *piece, unsigned off)
{
    const struct block *best = NULL;
    for (uint32_t n = piece->blocks; n != 0; n = t->blocks[n - 1].next_in_piece) {
        const struct block *block = &t->blocks[n - 1];
        if (block->dead || off < block->off || off >= (unsigned)block->off + block->guest_bytes)
            continue;
        if (block->off == off)
            return block;
        if (best == NULL)
            best = block;
    }
    return best;
}

static const struct block *find(const struct translate *t, gpa_t gpa, gva_t gva, bool user)
{
    const struct block *best = NULL;
    unsigned off = (unsigned)(gva & PAGE_OFFSET_MASK);
    for (uint32_t i = 0; i < t->piece_count; i++) {
        const struct piece *piece = t->pieces[i];
        if (piece->gpfn != gpa >> PAGE_SHIFT || piece->vpage != gva >> PAGE_SHIFT || !(piece->key & KEY_USER) == user)
            continue;
        const struct block *block = best_in_piece(t, piece, off);
        if (block != NULL && (best == NULL || block->off == off))
            best = block;
    }
    return best;
}

bool translate_code(const struct vcpu *v, gpa_t gpa, gva_t gva, bool user, struct engine_code *code)
{
    const struct translate *t = translate_of(v);
    const struct block *block = find(t, gpa, gva, user);
    if (block == NULL)
        return false;
    *code = (struct engine_code){.host = t->write + block->code,
                                 .host_rip = (uintptr_t)t->execute + block->code,
                                 .host_size = block->size,
                                 .gva = block_rip(t, block)};
    const struct map *maps = &t->maps[block->map];
    for (unsigned i = 0; i < block->insns && i < ENGINE_CODE_INSNS; i++) {
        code->insns[i].host = maps[i].host;
        code->insns[i].gva = (code->gva & ~PAGE_OFFSET_MASK) | maps[i].off;
        code->insns[i].length = maps[i].len;
        code->insn_count++;
    }
    return true;
}
