/* A processor's last words.
 *
 * All guest memory is read as a debugger does: through mmu_peek(), which neither faults nor sets accessed bits, so a
 * broken guest cannot make the printing of its state fail. What cannot be read is said to be unreadable.
 *
 * Why a fault became a triple fault is found out by going the processor's way again: the IDT entry of the vector that
 * could not be delivered, then its code segment, then the stack it would have used.
 *
 * Source: SDM vol. 3, 3.4.5 (descriptors), 6.11-6.14 (gates, error codes, 64-bit delivery), 7.2 (TSS). */
#include "engine/postmortem.h"

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <string.h>

#include "memory/memory.h"
#include "mmu/access.h"

/* Any amount, across pages. False if any byte is not in RAM or ROM. */
static bool peek(const struct vcpu *v, gva_t gva, void *buffer, unsigned size)
{
    uint8_t *to = buffer;
    while (size > 0) {
        unsigned piece = PAGE_SIZE - (unsigned)(gva & PAGE_OFFSET_MASK);
        if (piece > size)
            piece = size;
        gpa_t gpa;
        /* mmu_peek() changes nothing, but walks with the functions that also serve accesses that do. */
        if (!mmu_peek((struct vcpu *)v, gva, &gpa) || !memory_read(v->memory, gpa, to, piece))
            return false;
        to += piece;
        gva += piece;
        size -= piece;
    }
    return true;
}

/* --- registers --- */

struct bit_name {
    uint64_t bit;
    const char *name;
};

static void print_bits(FILE *out, uint64_t value, const struct bit_name *names, size_t n)
{
    const char *separator = "";
    fputs(" [", out);
    for (size_t i = 0; i < n; i++) {
        if (value & names[i].bit) {
            fprintf(out, "%s%s", separator, names[i].name);
            separator = " ";
        }
    }
    fputs("]\n", out);
}

static void print_rflags(const struct vcpu *v, FILE *out)
{
    static const struct bit_name names[] = {
        {FLAG_ID, "ID"}, {FLAG_VIP, "VIP"}, {FLAG_VIF, "VIF"}, {FLAG_AC, "AC"}, {FLAG_VM, "VM"}, {FLAG_RF, "RF"},
        {FLAG_NT, "NT"}, {FLAG_OF, "OF"},   {FLAG_DF, "DF"},   {FLAG_IF, "IF"}, {FLAG_TF, "TF"}, {FLAG_SF, "SF"},
        {FLAG_ZF, "ZF"}, {FLAG_AF, "AF"},   {FLAG_PF, "PF"},   {FLAG_CF, "CF"},
    };
    uint32_t flags = rflags_get(v);
    fprintf(out, "rflags %08x iopl %u", flags, vcpu_iopl(v));
    print_bits(out, flags, names, ARRAY_LEN(names));
}

static void print_control(const struct vcpu *v, FILE *out)
{
    static const struct bit_name cr0[] = {
        {CR0_PG, "PG"}, {CR0_CD, "CD"}, {CR0_NW, "NW"}, {CR0_AM, "AM"}, {CR0_WP, "WP"}, {CR0_NE, "NE"},
        {CR0_ET, "ET"}, {CR0_TS, "TS"}, {CR0_EM, "EM"}, {CR0_MP, "MP"}, {CR0_PE, "PE"},
    };
    static const struct bit_name cr4[] = {
        {CR4_SMAP, "SMAP"},
        {CR4_SMEP, "SMEP"},
        {CR4_OSXSAVE, "OSXSAVE"},
        {CR4_PCIDE, "PCIDE"},
        {CR4_FSGSBASE, "FSGSBASE"},
        {CR4_UMIP, "UMIP"},
        {CR4_OSXMMEXCPT, "OSXMMEXCPT"},
        {CR4_OSFXSR, "OSFXSR"},
        {CR4_PCE, "PCE"},
        {CR4_PGE, "PGE"},
        {CR4_MCE, "MCE"},
        {CR4_PAE, "PAE"},
        {CR4_PSE, "PSE"},
        {CR4_DE, "DE"},
        {CR4_TSD, "TSD"},
        {CR4_PVI, "PVI"},
        {CR4_VME, "VME"},
    };
    static const struct bit_name efer[] = {
        {EFER_FFXSR, "FFXSR"}, {EFER_NXE, "NXE"}, {EFER_LMA, "LMA"}, {EFER_LME, "LME"}, {EFER_SCE, "SCE"},
    };
    fprintf(out, "cr0  %016" PRIx64, v->cr0);
    print_bits(out, v->cr0, cr0, ARRAY_LEN(cr0));
    fprintf(out, "cr2  %016" PRIx64 "  cr3 %016" PRIx64 "\n", v->cr2, v->cr3);
    fprintf(out, "cr4  %016" PRIx64, v->cr4);
    print_bits(out, v->cr4, cr4, ARRAY_LEN(cr4));
    fprintf(out, "efer %016" PRIx64, v->efer);
    print_bits(out, v->efer, efer, ARRAY_LEN(efer));
}

static void print_segments(const struct vcpu *v, FILE *out)
{
    static const char *const names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"};
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct segment *s = &v->seg[i];
        fprintf(out, "%-4s %04x base %016" PRIx64 " limit %08x attr %05x", names[i], s->selector, s->base, s->limit,
                s->attr);
        unsigned dpl = (s->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
        if (s->attr & SEG_ATTR_NULL)
            fputs(" null", out);
        else if (!(s->attr & SEG_ATTR_P))
            fputs(" not present", out);
        else if (!(s->attr & SEG_ATTR_S))
            fprintf(out, " system type %u", s->attr & SEG_ATTR_TYPE);
        else if (s->attr & SEG_ATTR_CODE)
            fprintf(out, " code%s dpl %u%s%s",
                    s->attr & SEG_ATTR_L    ? "64"
                    : s->attr & SEG_ATTR_DB ? "32"
                                            : "16",
                    dpl, s->attr & SEG_ATTR_RW ? " readable" : "", s->attr & SEG_ATTR_EC ? " conforming" : "");
        else
            fprintf(out, " data dpl %u%s%s", dpl, s->attr & SEG_ATTR_RW ? " writable" : "",
                    s->attr & SEG_ATTR_EC ? " expand-down" : "");
        fputc('\n', out);
    }
    fprintf(out, "gdt  base %016" PRIx64 " limit %04x\n", v->gdtr.base, v->gdtr.limit);
    fprintf(out, "idt  base %016" PRIx64 " limit %04x\n", v->idtr.base, v->idtr.limit);
}

void postmortem_registers(const struct vcpu *v, FILE *out)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const uint8_t order[16] = {RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15};
    for (unsigned i = 0; i < 16; i++)
        fprintf(out, "%-4s %016" PRIx64 "%s", names[order[i]], v->regs[order[i]], i % 4 == 3 ? "\n" : "  ");
    fprintf(out, "rip  %016" PRIx64 "  cpl %u  ", v->rip, v->cpl);
    print_rflags(v, out);
    print_segments(v, out);
    print_control(v, out);
    for (unsigned i = 0; i < 8; i++) {
        if (i != 4 && i != 5)
            fprintf(out, "dr%u  %016" PRIx64 "%s", i, v->dr[i], i == 3 || i == 7 ? "\n" : "  ");
    }
}

/* --- code --- */

static ZydisMachineMode machine_mode(const struct vcpu *v)
{
    const struct segment *cs = &v->seg[SEG_CS];
    if (vcpu_long_mode(v) && (cs->attr & SEG_ATTR_L))
        return ZYDIS_MACHINE_MODE_LONG_64;
    if (vcpu_protected(v) && (cs->attr & SEG_ATTR_DB))
        return ZYDIS_MACHINE_MODE_LEGACY_32;
    return vcpu_protected(v) ? ZYDIS_MACHINE_MODE_LEGACY_16 : ZYDIS_MACHINE_MODE_REAL_16;
}

void postmortem_code(const struct vcpu *v, uint64_t rip, FILE *out)
{
    ZydisMachineMode mode = machine_mode(v);
    for (unsigned i = 0; i < 3; i++) {
        gva_t gva = mode == ZYDIS_MACHINE_MODE_LONG_64 ? rip : (uint32_t)(v->seg[SEG_CS].base + rip);
        uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
        unsigned n = sizeof bytes;
        while (n > 0 && !peek(v, gva, bytes, n))
            n--;
        fprintf(out, "%s %04x:%016" PRIx64 "  ", i == 0 ? "=>" : "  ", v->seg[SEG_CS].selector, rip);
        if (n == 0) {
            fputs("(no memory there)\n", out);
            return;
        }
        ZydisDisassembledInstruction insn;
        bool valid = ZYAN_SUCCESS(ZydisDisassembleIntel(mode, rip, bytes, n, &insn));
        unsigned length = valid ? insn.info.length : n < 8 ? n : 8;
        for (unsigned b = 0; b < length; b++)
            fprintf(out, "%02x ", bytes[b]);
        if (!valid) {
            fputs(" (not an instruction)\n", out);
            return;
        }
        fprintf(out, "%*s%s\n", length < 10 ? (int)(10 - length) * 3 : 1, "", insn.text);
        rip += length;
    }
}

/* --- gates --- */

struct gate {
    uint16_t selector;
    uint64_t offset;
    uint8_t access; /* P, DPL, type */
    uint8_t ist;
};

static struct gate gate_parse(const uint32_t raw[4], bool long_mode)
{
    return (struct gate){
        .selector = (uint16_t)(raw[0] >> 16),
        .offset = (raw[0] & 0xffff) | (raw[1] & 0xffff0000u) | (long_mode ? (uint64_t)raw[2] << 32 : 0),
        .access = (uint8_t)(raw[1] >> 8),
        .ist = long_mode ? raw[1] & 7 : 0,
    };
}

/* The stack an entry to `cpl` would use; 0 in `*known` when it cannot be told. */
static uint64_t entry_stack(const struct vcpu *v, const struct gate *gate, unsigned cpl, bool *known)
{
    const struct segment *tr = &v->seg[SEG_TR];
    *known = true;
    uint64_t rsp = 0;
    if (vcpu_long_mode(v)) {
        if (gate->ist == 0 && cpl == v->cpl)
            return v->regs[RSP];
        unsigned offset = gate->ist != 0 ? 0x24u + (gate->ist - 1u) * 8 : 4 + cpl * 8;
        *known = offset + 7 <= tr->limit && peek(v, tr->base + offset, &rsp, 8);
        return rsp;
    }
    if (cpl == v->cpl && !vcpu_v86(v))
        return (uint32_t)(v->seg[SEG_SS].base + v->regs[RSP]);
    *known = false; /* SS:ESP from the TSS, whose segment would have to be loaded first */
    return 0;
}

static void explain_stack(const struct vcpu *v, const struct gate *gate, unsigned cpl, FILE *out)
{
    bool known;
    uint64_t rsp = entry_stack(v, gate, cpl, &known);
    gpa_t gpa;
    if (!known)
        fprintf(out, "    its stack comes from the TSS (base %#" PRIx64 ", limit %#x)\n", v->seg[SEG_TR].base,
                v->seg[SEG_TR].limit);
    else if (vcpu_long_mode(v) && !gva_canonical(rsp - 8))
        fprintf(out, "    its stack pointer %#" PRIx64 " is not canonical\n", rsp);
    else
        fprintf(out, "    its stack is at %#" PRIx64 ": %s\n", rsp,
                mmu_peek((struct vcpu *)v, (rsp & ~7ull) - 8, &gpa) ? "mapped" : "not mapped");
}

/* Why the code segment of the gate cannot be entered, or that it can. */
static void explain_code_segment(const struct vcpu *v, const struct gate *gate, FILE *out)
{
    bool ldt = gate->selector & 4;
    uint64_t base = ldt ? v->seg[SEG_LDTR].base : v->gdtr.base;
    uint32_t limit = ldt ? v->seg[SEG_LDTR].limit : v->gdtr.limit;
    unsigned offset = gate->selector & ~7u;
    uint32_t raw[2];
    if (offset == 0 && !ldt) {
        fputs("    its code segment is null\n", out);
    } else if (offset + 7 > limit) {
        fprintf(out, "    its code segment %#x is beyond the %s's limit %#x\n", gate->selector, ldt ? "LDT" : "GDT",
                limit);
    } else if (!peek(v, base + offset, raw, sizeof raw)) {
        fprintf(out, "    its code segment's descriptor, at %#" PRIx64 ", is not in mapped memory\n", base + offset);
    } else {
        uint32_t access = raw[1] >> 8;
        unsigned dpl = access >> 5 & 3, cpl = access & SEG_ATTR_EC ? v->cpl : dpl;
        fprintf(out, "    its code segment %#x: descriptor %08x%08x\n", gate->selector, raw[1], raw[0]);
        if (!(access & SEG_ATTR_S) || !(access & SEG_ATTR_CODE))
            fputs("    that is not a code segment\n", out);
        else if (!(access & SEG_ATTR_P))
            fputs("    that is not present\n", out);
        else if (dpl > v->cpl)
            fprintf(out, "    that has DPL %u, less privileged than CPL %u\n", dpl, v->cpl);
        else if (vcpu_long_mode(v) && (!(raw[1] & 1u << 21) || (raw[1] & 1u << 22)))
            fputs("    that is not a 64-bit segment, as long mode demands\n", out);
        else
            explain_stack(v, gate, cpl, out);
    }
}

/* Each vector once: `explained` holds those that were. */
static void explain_gate(const struct vcpu *v, unsigned vector, uint64_t explained[4], FILE *out)
{
    uint64_t bit = 1ull << (vector % 64);
    if (explained[vector / 64] & bit)
        return;
    explained[vector / 64] |= bit;
    bool protected_mode = v->cr0 & CR0_PE, long_mode = vcpu_long_mode(v);
    unsigned size = long_mode ? 16 : protected_mode ? 8 : 4;
    gva_t gva = v->idtr.base + vector * size;
    uint32_t raw[4] = {0};
    fprintf(out, "  IDT entry of %s, at %#" PRIx64 ": ", vector_name(vector), gva);
    if (vector * size + size - 1 > v->idtr.limit) {
        fprintf(out, "beyond the limit %#x\n", v->idtr.limit);
        return;
    }
    if (!peek(v, gva, raw, size)) {
        fputs("not in mapped memory\n", out);
        return;
    }
    if (!protected_mode) {
        fprintf(out, "%04x:%04x\n", raw[0] >> 16, raw[0] & 0xffff);
        return;
    }
    struct gate gate = gate_parse(raw, long_mode);
    unsigned type = gate.access & 0x1f;
    bool is_gate = type == 0xe || type == 0xf || (!long_mode && (type == 5 || type == 6 || type == 7));
    fprintf(out, "type %#x, DPL %u, %spresent, %04x:%#" PRIx64 "\n", type, gate.access >> 5 & 3u,
            gate.access & 0x80 ? "" : "not ", gate.selector, gate.offset);
    if (!is_gate)
        fputs("    that is not a gate that can be used here\n", out);
    else if (!(gate.access & 0x80))
        fputs("    the gate is not present\n", out);
    else if (type == 5)
        fprintf(out, "    a task gate: its TSS is %#x\n", gate.selector);
    else
        explain_code_segment(v, &gate, out);
}

/* --- faults --- */

static void print_error_code(const struct fault *fault, FILE *out)
{
    uint32_t error = fault->error;
    if (fault->vector == VECTOR_PF) {
        fprintf(out, " error %#x: %s of %s memory by %s code%s, at %#" PRIx64, error,
                error & PF_I   ? "fetch"
                : error & PF_W ? "write"
                               : "read",
                error & PF_P ? "protected" : "unmapped", error & PF_U ? "user" : "kernel",
                error & PF_RSVD ? " (a reserved bit is set in a table)" : "", fault->address);
    } else if (error == 0) {
        fputs(" error 0", out);
    } else if (error & ERROR_IDT) {
        fprintf(out, " error %#x: IDT entry %u (%s)%s", error, error >> 3 & 0xff, vector_name(error >> 3 & 0xff),
                error & ERROR_EXT ? ", external event" : "");
    } else {
        fprintf(out, " error %#x: selector %#x in the %s%s", error, error & 0xfff8, error & ERROR_TI ? "LDT" : "GDT",
                error & ERROR_EXT ? ", external event" : "");
    }
}

void postmortem_triple_fault(const struct vcpu *v, FILE *out)
{
    fprintf(out, "vCPU %u: triple fault at %04x:%#" PRIx64, v->index, v->seg[SEG_CS].selector, v->shutdown_rip);
    if (!v->instructions_partial)
        fprintf(out, " after %" PRIu64 " instructions", v->instructions);
    fputc('\n', out);
    uint64_t explained[4] = {0};
    for (unsigned i = 0; i < v->fault_chain_length && i < ARRAY_LEN(v->fault_chain); i++) {
        const struct fault *fault = &v->fault_chain[i];
        fprintf(out, "%u. %s", i + 1, vector_name(fault->vector));
        if (fault->has_error)
            print_error_code(fault, out);
        fputc('\n', out);
        if (fault->has_error && fault->vector != VECTOR_PF && (fault->error & ERROR_IDT))
            explain_gate(v, fault->error >> 3 & 0xff, explained, out);
        /* The last of a full chain was raised while the one before was delivered; it was not to be delivered any more.
         */
        if (i + 1 < ARRAY_LEN(v->fault_chain))
            explain_gate(v, fault->vector, explained, out);
    }
    explain_gate(v, VECTOR_DF, explained, out);
    fputs("code\n", out);
    postmortem_code(v, v->shutdown_rip, out);
    fputs("registers\n", out);
    postmortem_registers(v, out);
}

void postmortem_context(void *vcpu)
{
    const struct vcpu *v = vcpu;
    fprintf(stderr, "vCPU %u after about %" PRIu64 " instructions%s\n", v->index, v->instructions,
            v->instructions_partial ? " and those of translated code" : "");
    postmortem_registers(v, stderr);
    postmortem_code(v, v->rip, stderr);
    fflush(stderr);
}
