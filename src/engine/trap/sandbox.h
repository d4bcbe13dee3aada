/* A sandbox: a process that has nothing, in which guest code runs directly on the processor.
 *
 * It is traced (ptrace) by the vCPU's thread. Its address space holds whatever guest memory has been mapped into it, a
 * page with a loop of system calls, and the read-only pages with the list that this loop works through; no C library,
 * no stack, no vDSO. Guest code is resumed with PTRACE_SYSEMU only: whatever it does to enter the host's kernel (INT
 * 80h, SYSENTER, SYSCALL, from 32- or 64-bit code, jumped to or not) stops it before the kernel has looked at the
 * number. System calls are carried out only while the monitor has put the loop's address into RIP; and then the filter
 * (seccomp) still permits nothing but mmap() of the two files, munmap() and mprotect().
 *
 * One thing the host's kernel does for user code without an instruction that stops: code that goes to the vsyscall page
 * (ffffffffff600000h) is as if it had made the system call and returned. The filter makes this SIGSYS; `address` is
 * where the code went, and the return is done: RSP is 8 beyond.
 *
 * Changes of mappings are put in a list, and done together before the sandbox runs again.
 *
 * Threads: all by the thread that created the family, but sandboxes_kick() (any thread, signal handlers) and
 * sandboxes_destroy() (any, while that one is not in here or is gone).
 * Errors: a host that refuses is an error at creation; later, a mapping that it refuses empties the sandbox
 * (sandbox_commit), and a sandbox that was killed says so (SANDBOX_DEAD).
 *
 * Source: ptrace(2), seccomp(2), Linux Documentation/arch/x86/entry_64.rst.
 */
#ifndef RING3_ENGINE_TRAP_SANDBOX_H
#define RING3_ENGINE_TRAP_SANDBOX_H

#include "base/error.h"
#include "base/types.h"

struct sandboxes;
struct sandbox;

enum sandbox_file { SANDBOX_RAM, SANDBOX_COPIES };

enum sandbox_stop_kind {
    SANDBOX_SIGNAL,  /* `signal`, `code`, `address` as in siginfo_t */
    SANDBOX_SYSCALL, /* an instruction that enters the host's kernel; RIP is behind it */
    SANDBOX_KICK,    /* sandbox_kick(), or a signal that was not for us */
    SANDBOX_DEAD,
};

struct sandbox_stop {
    enum sandbox_stop_kind kind;
    int signal, code;
    uint64_t address;
};

/* The registers, as PTRACE_GETREGS has them (struct user_regs_struct, whose header wants names that are ours). */
struct sandbox_regs {
    uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp,
        ss;
    uint64_t fs_base, gs_base, ds, es, fs, gs;
};

struct sandbox_counters {
    uint64_t processes, resumes, commits, maps, unmaps, protects;
};

/* Whether this host permits it at all: makes one and runs an instruction in it. */
bool sandbox_usable(struct error *why_not);

/* `files`: by enum sandbox_file; stay the caller's. */
struct sandboxes *sandboxes_create(const int files[2], struct error *err);
void sandboxes_destroy(struct sandboxes *family);
/* The calling thread made it. */
bool sandboxes_is_mine(const struct sandboxes *family);
const struct sandbox_counters *sandboxes_counters(const struct sandboxes *family);
/* Whether a guest page could be mapped at this address: not below the host's lowest, not over the sandbox's own pages,
 * not beyond user space. */
bool sandboxes_can_map(const struct sandboxes *family, uint64_t gva);

struct sandbox *sandbox_create(struct sandboxes *family, struct error *err);
void sandbox_destroy(struct sandbox *box); /* NULL is fine */

/* Where SANDBOX_CS32 makes code begin, in 32-bit code: it executes at the linear address `base` + EIP, so that what is
 * executed and what is read at one guest address can be two mappings. False: the host does not have it (modify_ldt). At
 * once, not in the list. */
#define SANDBOX_CS32 0x07u /* in the local descriptor table */
bool sandbox_set_code_base(struct sandbox *box, uint32_t base);

/* Put in the list. */
void sandbox_map(struct sandbox *box, uint64_t gva, uint64_t size, enum sandbox_file file, uint64_t offset, int prot);
void sandbox_unmap(struct sandbox *box, uint64_t gva, uint64_t size);
void sandbox_protect(struct sandbox *box, uint64_t gva, uint64_t size, int prot);
void sandbox_unmap_all(struct sandbox *box);
bool sandbox_is_full(const struct sandbox *box); /* of mappings: better empty it */
/* Does what is in the list. False: the host refused something, or it is dead. Then nothing that was ever asked for
 * counts as mapped, and the next commit makes that true. */
bool sandbox_commit(struct sandbox *box);

/* Runs guest code from `regs` on until it stops; `regs` are then those it had. The list must be empty. */
struct sandbox_stop sandbox_run(struct sandbox *box, struct sandbox_regs *regs);
/* Between these two a kick is for this sandbox: it stops at once when it runs, or is about to. */
void sandboxes_run_begin(struct sandboxes *family, const struct sandbox *box);
void sandboxes_run_end(struct sandboxes *family);
void sandboxes_kick(struct sandboxes *family);

/* The processor's extended state, as an XSAVE area in standard format; `*size` is what there is room for, then what is
 * used. False: it is dead. */
bool sandbox_xstate_get(struct sandbox *box, void *area, size_t *size);
bool sandbox_xstate_set(struct sandbox *box, const void *area, size_t size);

#endif
