/* From bytes to struct insn: Zydis decodes, insn.def says what it means. */
#ifndef RING3_CPU_DECODE_H
#define RING3_CPU_DECODE_H

#include <Zydis/Zydis.h>

#include "cpu/insn.h"

#define INSN_MAX_BYTES 15

enum insn_row {
#define INSN(mnemonic, how, meaning, lowering) ROW_##mnemonic,
#include "cpu/insn.def"
#undef INSN
    ROW_COUNT,
    ROW_NONE = ROW_COUNT /* not an instruction: #UD */
};

enum insn_how { HOW_FAST, HOW_SLOW, HOW_HOST };
enum insn_lowering { LOWER_COPY, LOWER_BRANCH, LOWER_CALL, LOWER_STOP };

struct insn_row_info {
    ZydisMnemonic mnemonic;
    const char *name;
    enum insn_how how;
    enum insn_lowering lowering;
};
extern const struct insn_row_info insn_rows[ROW_COUNT];

/* The row of a mnemonic, or ROW_NONE. */
enum insn_row insn_row_of(ZydisMnemonic mnemonic);

enum decode_result {
    DECODE_OK,     /* *out is complete (an undefined instruction is one that raises #UD, too long one #GP) */
    DECODE_SHORT,  /* `available` bytes are not enough */
    DECODE_UNDEFINED_SO_FAR, /* no instruction begins with these bytes, or Zydis cannot tell from so few */
};

/* What Zydis has found: of an instruction, so not where the row is ROW_NONE. */
struct decoded {
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* Decodes at most `available` (1 to 15) bytes that lie at offset `off` of their page. */
enum decode_result decode_insn(struct vcpu *v, enum code_mode mode, const uint8_t *bytes, unsigned available,
                               unsigned off, struct insn *out);
/* The same, for whoever wants to know more. */
enum decode_result decode_insn_whole(struct vcpu *v, enum code_mode mode, const uint8_t *bytes, unsigned available,
                                     unsigned off, struct insn *out, struct decoded *decoded);

/* True for instructions after which straight-line code cannot go on. */
bool insn_ends_run(const struct insn *in);

/* The record behind a run's last instruction: leaves straight-line code, counts nothing. */
insn_fn run_end;
/* What the records of a discarded page become: look the instruction up again. */
insn_fn run_again;

/* The vCPU's Zydis decoder for `mode`; for its own thread. They are made at the first call. */
const ZydisDecoder *decoder_of(struct vcpu *v, enum code_mode mode);
void decoders_destroy(struct vcpu *v);

#endif
