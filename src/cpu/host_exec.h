/* Instructions that the host's processor executes for the guest: x87, MMX, SSE to AVX2, FMA, F16C, AES, PCLMULQDQ, SHA.
 *
 * Their meaning is never rewritten in C. For each distinct one a small function, a stub, is generated: it loads the
 * guest registers that take part, runs the instruction itself with its memory operand redirected to a host pointer, and
 * stores what has changed. The decoder asks for the stub once (host_stub_make) and keeps it in insn.stub with
 * insn.fn = host_stub_fn(stub); equal instructions share a stub.
 *
 * What remains in C: which faults come before the instruction (CR0.EM, CR0.TS, CR4.OSFXSR, XCR0, pending x87 errors,
 * alignment, page faults), element-wise access (gathers, masked moves), and pure moves of control state (FLDCW, FNSTSW,
 * EMMS, VZEROALL ...), where no result is computed.
 *
 * Stubs live until host_exec_reset(). Their memory is bounded: when host_exec_full() turns true, the decoder drops all
 * decoded code of this vCPU, then calls host_exec_reset(), then goes on decoding. It must look at least once for every
 * 4096 instructions decoded.
 *
 * Threads: a struct host_exec belongs to one vCPU and is used on the vCPU's thread only.
 */
#ifndef RING3_CPU_HOST_EXEC_H
#define RING3_CPU_HOST_EXEC_H

#include <Zydis/Zydis.h>

#include "base/error.h"
#include "cpu/insn.h"

struct host_exec;
struct host_stub;

/* Memory for stubs; installs the handler of host faults. NULL with a message if the host refuses. To be put in
 * vcpu.host_exec by whoever creates the vCPU. */
struct host_exec *host_exec_create(struct error *err);
void host_exec_destroy(struct host_exec *he);

bool host_exec_full(const struct host_exec *he);
void host_exec_reset(struct host_exec *he);

/* The stub for a decoded instruction with a HOST row, whose bytes are `bytes`. NULL: no such instruction can be run (an
 * encoding that ring3 does not offer): #UD. */
struct host_stub *host_stub_make(struct vcpu *v, const ZydisDecodedInstruction *insn,
                                 const ZydisDecodedOperand *operands, const uint8_t *bytes);

/* The function that runs instructions with this stub. Of the record it uses the fields of the memory operand
 * (base, index, scale, disp, seg, addrsize, flags, mode), opcode, modrm, off, len and stub. For vector-indexed operands
 * (gathers) index must be GPR_ZERO. */
insn_fn *host_stub_fn(const struct host_stub *stub);

/* The same through one more jump, for records that are not filled in with host_stub_fn(). */
insn_fn host_execute;

/* What the memory operand, of `size` bytes, of a vector instruction must be aligned to, or 0. MXCSR.MM waives that
 * unless it is `strict`. */
unsigned host_operand_alignment(const ZydisDecodedInstruction *insn, unsigned size, bool *strict);

#endif
