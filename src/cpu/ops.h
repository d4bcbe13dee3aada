/* The insn_op functions that insn.def's SLOW rows name, and those that FAST pickers hand over to. */
#ifndef RING3_CPU_OPS_H
#define RING3_CPU_OPS_H

#include "cpu/insn.h"

#define FAST(meaning)
#define SLOW(meaning) insn_op op_##meaning;
#define HOST(meaning)
#define INSN(mnemonic, how, meaning, lowering) how(meaning)
#include "cpu/insn.def"
#undef INSN
#undef FAST
#undef SLOW
#undef HOST

/* Forms of mnemonics whose common forms are FAST. */
insn_op op_jmp_far, op_call_far, op_ret_far; /* JMP, CALL, RET */
insn_op op_mov_to_seg, op_pop_seg;           /* MOV Sreg, r/m; POP Sreg */
insn_op op_mov_from_cr, op_mov_to_cr, op_mov_from_dr, op_mov_to_dr;
insn_op op_ud; /* raises #UD */

#endif
