/* Which instructions the guest's processor has: from Zydis' ISA sets to CPUID features. */
#ifndef RING3_CPU_ISA_SET_H
#define RING3_CPU_ISA_SET_H

#include <Zydis/Zydis.h>

#include "cpu/cpuid.h"

/* Sets the decoder's modes so that encodings whose meaning depends on the processor decode as this model means them:
 * TZCNT or BSF, LZCNT or BSR, ENDBR and bound moves or NOP, AMD's or Intel's operand size of near branches. */
void isa_set_decoder_init(const struct cpu_model *model, ZydisDecoder *decoder);

/* True if the model has this instruction of ISA set `set`; #UD otherwise. What depends on the processor's state (CR4,
 * mode, privilege) is not asked here. */
bool isa_set_available(const struct cpu_model *model, ZydisISASet set, const ZydisDecodedInstruction *instruction);

#endif
