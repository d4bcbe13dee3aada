/* Which instructions a classical monitor has to hear of.
 *
 * The lists are those of sensitive.c, which has the sources, seen from the other side: there the question is what may
 * not be copied into translated code, here what a guest's kernel would be trapped for if it ran on the processor
 * without privilege, and what it would get wrong without a trap.
 *
 * Not here: memory-mapped devices and page faults, which any instruction can meet; they pass the door.
 */
#include "cpu/watch.h"

#include "cpu/decode.h"

#define PRIVILEGED(X)                                                                                                  \
    X(CLI) X(STI) X(HLT) X(IN) X(OUT) X(INSB) X(INSW) X(INSD) X(OUTSB) X(OUTSW) X(OUTSD) X(LGDT) X(LIDT) X(LLDT)       \
    X(LTR) X(LMSW) X(CLTS) X(INVLPG) X(INVPCID) X(INVD) X(WBINVD) X(RDMSR) X(WRMSR) X(SWAPGS) X(CLAC) X(STAC)          \
    X(XSETBV) X(MONITOR) X(MWAIT) X(RSM) X(IRET) X(IRETD) X(IRETQ) X(SYSRET) X(SYSEXIT)

#define GATE(X) X(INT) X(INT3) X(INTO) X(INT1) X(SYSCALL) X(SYSENTER) X(VMCALL) X(VMMCALL)

#define SILENT(X)                                                                                                      \
    X(SGDT) X(SIDT) X(SLDT) X(SMSW) X(STR) X(PUSHF) X(PUSHFD) X(PUSHFQ) X(POPF) X(POPFD) X(POPFQ) X(LAR) X(LSL)        \
    X(VERR) X(VERW) X(ARPL) X(LDS) X(LES) X(LFS) X(LGS) X(LSS) X(CPUID) X(RDTSC) X(RDTSCP) X(RDPMC) X(RDPID) X(XGETBV) \
    X(RDFSBASE) X(RDGSBASE) X(WRFSBASE) X(WRGSBASE)

static const uint8_t by_row[ROW_COUNT] = {
#define X(mnemonic) [ROW_##mnemonic] = INSN_PRIVILEGED,
    PRIVILEGED(X)
#undef X
#define X(mnemonic) [ROW_##mnemonic] = INSN_GATE,
    GATE(X)
#undef X
#define X(mnemonic) [ROW_##mnemonic] = INSN_SILENT,
    SILENT(X)
#undef X
};

static bool has_operand(const struct insn *in, enum operand_kind kind)
{
    return in->op_kind[0] == kind || in->op_kind[1] == kind;
}

/* Through a selector: it is checked against the guest's descriptor tables. */
static bool is_far(const struct insn *in)
{
    unsigned form = in->modrm >> 3 & 7;
    switch (in->row) {
    case ROW_JMP: return in->op_kind[0] == OPERAND_FAR || (in->opcode == 0xff && form == 5);
    case ROW_CALL: return in->op_kind[0] == OPERAND_FAR || (in->opcode == 0xff && form == 3);
    case ROW_RET: return in->opcode == 0xca || in->opcode == 0xcb;
    default: return false;
    }
}

enum insn_sensitivity insn_sensitivity(const struct insn *in)
{
    switch (in->row) {
    case ROW_NONE: return INSN_INNOCENT; /* #UD passes the door */
    case ROW_MOV:
        if (has_operand(in, OPERAND_CR) || has_operand(in, OPERAND_DR))
            return INSN_PRIVILEGED;
        return has_operand(in, OPERAND_SEG) ? INSN_SILENT : INSN_INNOCENT;
    case ROW_PUSH:
    case ROW_POP: return has_operand(in, OPERAND_SEG) ? INSN_SILENT : INSN_INNOCENT;
    case ROW_JMP:
    case ROW_CALL:
    case ROW_RET: return is_far(in) ? INSN_SILENT : INSN_INNOCENT;
    default: return by_row[in->row];
    }
}
