/* See disasm.h. Zydis decodes and formats; hexadecimal numbers are written as in C, in lower case. */
#include "engine/disasm.h"

#include <Zydis/Zydis.h>
#include <stdio.h>

#include "memory/memory.h"
#include "mmu/access.h"

unsigned disasm_bytes(const uint8_t *bytes, unsigned available, uint64_t rip, enum code_mode mode,
                      char text[DISASM_TEXT])
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[CODE_MODE_COUNT] = {
        [CODE_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [CODE_32_FLAT] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [CODE_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [CODE_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
    };
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    snprintf(text, DISASM_TEXT, "(bad)");
    if (ZYAN_FAILED(ZydisDecoderInit(&decoder, modes[mode].machine, modes[mode].stack)) ||
        ZYAN_FAILED(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
        ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder, bytes, available, &z, operands)))
        return 0;
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_RELATIVE, ZYDIS_PADDING_DISABLED);
    if (ZYAN_FAILED(ZydisFormatterFormatInstruction(&formatter, &z, operands, z.operand_count_visible, text,
                                                    DISASM_TEXT, rip, ZYAN_NULL)))
        snprintf(text, DISASM_TEXT, "(bad)");
    return z.length;
}

unsigned disasm_peek(struct vcpu *v, gva_t gva, void *buffer, unsigned size)
{
    unsigned done = 0;
    while (done < size) {
        unsigned piece = PAGE_SIZE - (unsigned)((gva + done) & PAGE_OFFSET_MASK);
        gpa_t gpa;
        piece = piece > size - done ? size - done : piece;
        if (!mmu_peek(v, gva + done, &gpa) || !memory_read(v->memory, gpa, (uint8_t *)buffer + done, piece))
            break;
        done += piece;
    }
    return done;
}

unsigned disasm_at(struct vcpu *v, uint64_t rip, char text[DISASM_TEXT])
{
    uint8_t bytes[15];
    gva_t gva = v->code_mode == CODE_64 ? rip : (uint32_t)(v->seg[SEG_CS].base + rip);
    unsigned n = disasm_peek(v, gva, bytes, sizeof bytes);
    if (n == 0) {
        snprintf(text, DISASM_TEXT, "(unreadable)");
        return 0;
    }
    return disasm_bytes(bytes, n, rip, v->code_mode, text);
}
