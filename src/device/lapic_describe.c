/* The local APIC in words, for the monitor. Looking changes nothing: not the ESR, not what is latched. */
#include <inttypes.h>

#include "device/lapic_internal.h"

static void print_vectors(FILE *out, const char *name, const uint32_t words[VECTOR_WORDS])
{
    fprintf(out, "%-8s", name);
    bool any = false;
    for (unsigned vector = 0; vector < VECTOR_WORDS * VECTORS_PER_WORD; vector++) {
        if (words[vector / VECTORS_PER_WORD] >> vector % VECTORS_PER_WORD & 1) {
            fprintf(out, " %02x", vector);
            any = true;
        }
    }
    fputs(any ? "\n" : " (none)\n", out);
}

static void print_lvt(FILE *out, const struct lapic_state *s)
{
    static const char *const names[LVT_COUNT] = {
        [LVT_TIMER] = "timer", [LVT_THERMAL] = "thermal", [LVT_PERFORMANCE] = "pmc",
        [LVT_LINT0] = "lint0", [LVT_LINT1] = "lint1", [LVT_ERROR] = "error",
    };
    static const char *const delivery[8] = {"fixed", "reserved", "smi", "reserved", "nmi", "init", "reserved", "extint"};
    for (unsigned i = 0; i < LVT_COUNT; i++) {
        uint32_t lvt = s->lvt[i];
        uint32_t mode = lvt & LVT_TIMER_MODE;
        fprintf(out, "%-8s 0x%08x vector=%02x", names[i], lvt, lvt & LVT_VECTOR);
        if (i == LVT_TIMER)
            fputs(mode == LVT_TIMER_ONE_SHOT ? " one-shot" : mode == LVT_TIMER_PERIODIC ? " periodic" : " tsc-deadline", out);
        else if (i != LVT_ERROR)
            fprintf(out, " %s", delivery[(lvt & LVT_DELIVERY) >> LVT_DELIVERY_SHIFT]);
        if (i == LVT_LINT0 || i == LVT_LINT1)
            fprintf(out, " %s%s", lvt & LVT_LEVEL ? "level" : "edge", s->lint[i - LVT_LINT0] ? " asserted" : "");
        fprintf(out, "%s\n", lvt & LVT_MASKED ? " masked" : "");
    }
}

void lapic_describe(const struct lapic *lapic, FILE *out)
{
    static const char *const modes[] = {"disabled", "invalid", "xapic", "x2apic"};
    const struct lapic_state *s = &lapic->state;
    fprintf(out, "base     0x%" PRIx64 " %s%s, initial id %u\n", s->base, modes[lapic_mode(lapic)],
            s->base & APIC_BASE_BSP ? ", boot processor" : "", lapic->config.id);
    fprintf(out, "id 0x%08x  ldr 0x%08x  dfr 0x%08x  tpr 0x%02x  ppr 0x%02x\n", s->xapic_id, s->ldr, s->dfr, s->tpr,
            lapic_processor_priority(lapic));
    fprintf(out, "svr 0x%08x (%s)  esr 0x%02x  icr 0x%08x%08x\n", s->svr, s->svr & SVR_ENABLE ? "enabled" : "disabled by software",
            s->esr, s->icr_high, s->icr_low);
    print_lvt(out, s);
    fprintf(out, "count    initial 0x%08x current 0x%08x divide 0x%x", s->timer_initial, lapic_timer_count(lapic),
            s->timer_divide);
    if (s->tsc_deadline != 0)
        fprintf(out, " tsc deadline 0x%" PRIx64, s->tsc_deadline);
    fputc('\n', out);
    print_vectors(out, "isr", s->isr);
    print_vectors(out, "irr", s->irr);
    print_vectors(out, "tmr", s->tmr);
    if (s->pv_eoi_enabled)
        fprintf(out, "pv eoi   at 0x%" PRIx64 "%s\n", s->pv_eoi_gpa, s->pv_eoi_offered ? ", offered" : "");
}
