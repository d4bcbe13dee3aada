/* The classical monitor's shadow shown to people who look on: which pages the sandboxes have mapped now.
 *
 * There is a space for each privilege and, where the policy keeps them, for each address space; a page is there if any
 * space for this privilege that belongs to the current CR3 has it. Only while the engine does not run.
 */
#include "engine/trap/internal.h"

static bool space_is_for(const struct vcpu *v, const struct space *s, bool user)
{
    bool current = s->key.cr3 == 0 || s->key.cr3 == v->cr3;
    return s->used && current && !s->stale && (s->key.kind == TLB_USER) == user;
}

bool trap_shadow_has(const struct vcpu *v, gva_t gva, bool user, bool write)
{
    struct trap *t = trap_of(v);
    for (unsigned i = 0; i < SPACES_MAX; i++) {
        if (!space_is_for(v, &t->spaces[i], user))
            continue;
        const struct page *page = page_find(t, &t->spaces[i], gva >> PAGE_SHIFT);
        if (page != NULL && (!write || (page->rights & RIGHT_W)))
            return true;
    }
    return false;
}
