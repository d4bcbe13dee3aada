/* The host's side of the differential test: runs a case on the processor itself.
 *
 * A child process lives in one signal handler. To run a case it edits the frame of the signal it is handling -- general
 * registers, flags, CS, SS, the XSAVE image -- and returns from it: the kernel loads all of that and goes to the case's
 * code. Everything the case can do ends in a signal: the INT3 behind it (SIGTRAP), or its own fault. That frame is the
 * result, with the vector, the error code and CR2 as the kernel saw them; and it is reused for the next case. So a
 * case costs one signal, and needs no assembly for the state but for what the frame has no place for: DS, ES, FS, GS
 * and the bases of FS and GS, which the entry stub takes care of. 32-bit and 16-bit code is entered by way of CS in
 * the frame.
 *
 * A batch of cases and its results lie in shared memory; two futexes hand it over. A timer signal ends cases that do
 * not end by themselves. A seccomp filter lets the child only return from signals and wait, so that a stray system
 * call by a case has no effect. If a case kills the child all the same, it is named ISA_CRASH and a new child goes on
 * with the next one.
 *
 * Sources: Linux arch/x86/kernel/signal_64.c (frame layout, which flags are restored), SDM vol. 1, 13.4 (XSAVE area).
 */
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "isa.h"

#define NO_SANITIZE __attribute__((no_sanitize("address", "undefined")))
#define FRAME_STACK_SIZE 65536u
#define TICK_US 250000
#define TICKS_TO_HANG 3u

struct native_shared {
    _Atomic uint32_t started;  /* batches that the parent has asked for */
    _Atomic uint32_t finished; /* batches that the child has done */
    _Atomic uint32_t current;  /* case being run; the next child starts here */
    uint32_t count;
    struct isa_case cases[BATCH];
    struct isa_result results[BATCH];
};

struct native {
    struct native_shared *shared;
    struct native_features features;
    pid_t child;
    uint8_t *code;  /* CODE, writable */
    uint8_t *arena; /* ARENA, writable */
    uint8_t *frame_stack;
};

/* What the entry stub and the handler share. Only the child uses it, and there is one child at a time. */
struct native_stub {
    uint64_t host_fs_base;
    uint64_t fs_base, gs_base; /* to load, or found */
    uint16_t ds, es, fs, gs;
    uint8_t fsgsbase;   /* the instructions may be used */
    uint8_t load_bases; /* 64-bit mode: the bases, instead of the selectors' */
};
__attribute__((used)) static struct native_stub native_stub;

static struct {
    struct native *native;
    uint32_t done; /* batches */
    uint32_t dirty_offset, dirty_length; /* of the code memory, to become INT3 again */
    uint32_t ticks, ticks_case;
    bool running;
    bool ymm; /* the frame has upper halves */
    const uint8_t *noise;
} child;

/* Signals come here. rsp is the frame: [return address][ucontext][siginfo]; rdi, rsi, rdx are the arguments. */
__asm__(".text\n"
        ".p2align 4\n"
        "native_entry:\n"
        "    pushfq\n"
        "    andl $0xffdbbaff, (%rsp)\n" /* ID, AC, NT, DF, TF: returning from a signal does not clear ID and NT */
        "    popfq\n"
        "    mov %ds, native_stub+24(%rip)\n"
        "    mov %es, native_stub+26(%rip)\n"
        "    mov %fs, native_stub+28(%rip)\n"
        "    mov %gs, native_stub+30(%rip)\n"
        "    cmpb $0, native_stub+32(%rip)\n"
        "    je 1f\n"
        "    rdfsbase %rax\n"
        "    mov %rax, native_stub+8(%rip)\n"
        "    rdgsbase %rax\n"
        "    mov %rax, native_stub+16(%rip)\n"
        "    xor %eax, %eax\n"
        "    mov %eax, %fs\n"
        "    mov native_stub+0(%rip), %rax\n"
        "    wrfsbase %rax\n"
        "1:  call native_handler\n"
        "    add $8, %rsp\n"
        "    mov native_stub+24(%rip), %ds\n"
        "    mov native_stub+26(%rip), %es\n"
        "    cmpb $0, native_stub+32(%rip)\n"
        "    je 2f\n"
        "    mov native_stub+28(%rip), %fs\n"
        "    mov native_stub+30(%rip), %gs\n"
        "    cmpb $0, native_stub+33(%rip)\n"
        "    je 2f\n"
        "    mov native_stub+8(%rip), %rax\n"
        "    wrfsbase %rax\n"
        "    mov native_stub+16(%rip), %rax\n"
        "    wrgsbase %rax\n"
        "2:  mov $15, %eax\n" /* rt_sigreturn */
        "    syscall\n"
        "    ud2\n");
_Static_assert(offsetof(struct native_stub, fs_base) == 8 && offsetof(struct native_stub, gs_base) == 16 &&
                   offsetof(struct native_stub, ds) == 24 && offsetof(struct native_stub, es) == 26 &&
                   offsetof(struct native_stub, fs) == 28 && offsetof(struct native_stub, gs) == 30 &&
                   offsetof(struct native_stub, fsgsbase) == 32 && offsetof(struct native_stub, load_bases) == 33,
               "the stub above uses these offsets");
void native_entry(void);
void native_handler(int signal, siginfo_t *info, ucontext_t *uc);

/* REG_* of <ucontext.h>, in encoding order. */
static const uint8_t greg_order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                       REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

#define XSAVE_BV 512u   /* offset of XSTATE_BV */
#define XSAVE_YMM 576u  /* offset of the upper halves, in the standard format */

static void NO_SANITIZE futex_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
    syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

static void NO_SANITIZE futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Without libc's, which the sanitizers replace: the child has given up their shadow memory. */
static void NO_SANITIZE bytes_copy(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void NO_SANITIZE bytes_fill(void *to, uint8_t value, size_t size)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
}

static void NO_SANITIZE arena_fill(const struct isa_case *c)
{
    uint8_t *arena = child.native->arena;

    bytes_copy(arena, child.noise, ARENA_SIZE);
    for (unsigned i = 0; i < c->patch_count; i++) {
        unsigned offset = c->patch[i].offset;
        if (offset < ARENA_SIZE)
            bytes_copy(arena + offset, c->patch[i].bytes,
                       c->patch[i].size < ARENA_SIZE - offset ? c->patch[i].size : ARENA_SIZE - offset);
    }
}

static void NO_SANITIZE case_load(const struct isa_case *c, ucontext_t *uc)
{
    const struct isa_state *s = &c->state;
    uint8_t *x = (uint8_t *)uc->uc_mcontext.fpregs;

    for (unsigned i = 0; i < 16; i++)
        uc->uc_mcontext.gregs[greg_order[i]] = (greg_t)s->gpr[i];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)s->rip;
    uc->uc_mcontext.gregs[REG_EFL] = (greg_t)s->rflags;
    uc->uc_mcontext.gregs[REG_CSGSFS] = (greg_t)((uint64_t)s->seg[ISA_CS] | (uint64_t)s->seg[ISA_SS] << 48);
    /* 4: UC_STRICT_RESTORE_SS, so that the kernel takes SS as it is. */
    uc->uc_flags |= 4;

    bytes_copy(x + 0, &s->fcw, 2);
    bytes_copy(x + 2, &s->fsw, 2);
    x[4] = s->ftw;
    bytes_fill(x + 5, 0, 19); /* FOP, FIP, FDP */
    bytes_copy(x + 24, &s->mxcsr, 4);
    bytes_copy(x + 32, s->st, 128);
    for (unsigned i = 0; i < 16; i++) {
        bytes_copy(x + 160 + 16 * i, s->ymm[i], 16);
        if (child.ymm)
            bytes_copy(x + XSAVE_YMM + 16 * i, s->ymm[i] + 16, 16);
    }
    x[XSAVE_BV] |= child.ymm ? 7 : 3;

    native_stub.ds = s->seg[ISA_DS];
    native_stub.es = s->seg[ISA_ES];
    native_stub.fs = s->seg[ISA_FS];
    native_stub.gs = s->seg[ISA_GS];
    native_stub.fs_base = s->fs_base;
    native_stub.gs_base = s->gs_base;
    native_stub.load_bases = c->mode == ISA_64;

    bytes_fill(child.native->code + child.dirty_offset, 0xcc, child.dirty_length);
    bytes_copy(child.native->code + c->code_offset, c->code, c->length);
    child.dirty_offset = c->code_offset;
    child.dirty_length = c->length;
    arena_fill(c);
}

static void NO_SANITIZE case_store(struct isa_result *r, const ucontext_t *uc)
{
    struct isa_state *s = &r->state;
    const uint8_t *x = (const uint8_t *)uc->uc_mcontext.fpregs;
    uint64_t selectors = (uint64_t)uc->uc_mcontext.gregs[REG_CSGSFS];
    uint8_t in_use = x[XSAVE_BV];

    r->vector = (uint32_t)uc->uc_mcontext.gregs[REG_TRAPNO];
    r->error = (uint32_t)uc->uc_mcontext.gregs[REG_ERR];
    r->cr2 = r->vector == 14 ? (uint64_t)uc->uc_mcontext.gregs[REG_CR2] : 0;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = (uint64_t)uc->uc_mcontext.gregs[greg_order[i]];
    s->rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    s->rflags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
    s->seg[ISA_CS] = (uint16_t)selectors;
    s->seg[ISA_SS] = (uint16_t)(selectors >> 48);
    /* Outside 64-bit mode there is no upper half; Linux' espfix leaves something of its own there. */
    if (s->seg[ISA_CS] != SEL_USER_CS)
        s->gpr[4] = (uint32_t)s->gpr[4];
    s->seg[ISA_DS] = native_stub.ds;
    s->seg[ISA_ES] = native_stub.es;
    s->seg[ISA_FS] = native_stub.fs;
    s->seg[ISA_GS] = native_stub.gs;
    s->fs_base = native_stub.fs_base;
    s->gs_base = native_stub.gs_base;
    bytes_copy(&s->mxcsr, x + 24, 4);
    if (in_use & 1) {
        bytes_copy(&s->fcw, x + 0, 2);
        bytes_copy(&s->fsw, x + 2, 2);
        s->ftw = x[4];
        bytes_copy(s->st, x + 32, 128);
    } else {
        s->fcw = 0x37f;
        s->fsw = 0;
        s->ftw = 0;
        bytes_fill(s->st, 0, 128);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (in_use & 2)
            bytes_copy(s->ymm[i], x + 160 + 16 * i, 16);
        else
            bytes_fill(s->ymm[i], 0, 16);
        if (child.ymm && (in_use & 4))
            bytes_copy(s->ymm[i] + 16, x + XSAVE_YMM + 16 * i, 16);
        else
            bytes_fill(s->ymm[i] + 16, 0, 16);
    }
    bytes_copy(r->arena, child.native->arena, ARENA_SIZE);
    if (r->vector == 3) {
        r->vector = ISA_END;
        r->error = 0;
        s->rip--;
    }
}

/* The next case to run; waits for a batch when there is none. */
static const struct isa_case *NO_SANITIZE case_next(struct native_shared *shared)
{
    for (;;) {
        uint32_t started = atomic_load(&shared->started);
        if (started != child.done) {
            uint32_t current = atomic_load(&shared->current);
            if (current < shared->count)
                return &shared->cases[current];
            child.done = started;
            atomic_store(&shared->finished, started);
            futex_wake(&shared->finished);
        }
        futex_wait(&shared->started, child.done, NULL);
    }
}

__attribute__((used)) void NO_SANITIZE native_handler(int signal, siginfo_t *info, ucontext_t *uc)
{
    struct native_shared *shared = child.native->shared;
    uint32_t current = atomic_load(&shared->current);

    if (child.running && signal == SIGALRM) {
        if (child.ticks_case != current) {
            child.ticks_case = current;
            child.ticks = 0;
        }
        if (++child.ticks < TICKS_TO_HANG)
            return; /* on with it, in the state it was in */
    }
    if (child.running) {
        case_store(&shared->results[current], uc);
        if (signal == SIGALRM)
            shared->results[current].vector = ISA_HANG;
        atomic_store(&shared->current, current + 1);
        child.ticks = 0;
    }
    child.running = true;
    case_load(case_next(shared), uc);
    (void)info;
}

/* Nothing but returning from a signal and waiting on a futex. A case's own system calls come from CODE. */
static bool NO_SANITIZE child_confine(void)
{
    static const struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    static const struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = (struct sock_filter *)code};
    return syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

static bool ldt_install(void)
{
    static const struct user_desc table[] = {
#define X(index, name, base, byte_limit, kind, big, readonly)                                                          \
    {.entry_number = (index), .base_addr = (unsigned)(base), .limit = (byte_limit), .seg_32bit = (big),                \
     .contents = (kind), .read_exec_only = (readonly), .useable = 0},
        ISA_LDT(X)
#undef X
    };
    for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
        if (syscall(SYS_modify_ldt, 0x11, &table[i], sizeof(table[i])) != 0)
            return false;
    }
    return true;
}

static _Noreturn void NO_SANITIZE child_main(struct native *n)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGALRM, SIGUSR1};
    stack_t stack = {.ss_sp = n->frame_stack, .ss_size = FRAME_STACK_SIZE};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct itimerval timer = {{0, TICK_US}, {0, TICK_US}};
    uint64_t fs_base = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (n->features.ldt && !ldt_install())
        _exit(3);
    memset(&child, 0, sizeof(child));
    child.native = n;
    child.ymm = __builtin_cpu_supports("avx") != 0;
    child.done = atomic_load(&n->shared->finished);
    child.dirty_length = CODE_SIZE;
    child.ticks_case = UINT32_MAX;
    memset(&native_stub, 0, sizeof(native_stub));
    native_stub.fsgsbase = n->features.fsgsbase;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base);
    native_stub.host_fs_base = fs_base;

    /* Touch everything, so that the first access by a case is not special. */
    for (uint64_t page = 0; page < ARENA_SIZE + PAGE_SIZE; page += PAGE_SIZE) {
        (void)*(volatile uint8_t *)(ARENA + page);
        (void)*(volatile uint8_t *)(ALIAS + page);
    }
    for (uint64_t page = 0; page < CODE_SIZE; page += PAGE_SIZE)
        (void)*(volatile uint8_t *)(CODE + page);
    child.noise = isa_noise();

    sigaltstack(&stack, NULL);
    sigfillset(&action.sa_mask);
    action.sa_sigaction = (void (*)(int, siginfo_t *, void *))native_entry;
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
#ifdef __SANITIZE_ADDRESS__
    /* The sanitizer's shadow memory, so that a case's stray address does not find it. From here on nothing may use it. */
    syscall(SYS_munmap, 0x7fff8000ul, 0x10007fff8000ul - 0x7fff8000ul);
#endif
    if (!child_confine())
        syscall(SYS_exit_group, 4);
    /* No raise(): that is a system call with a mask around it. This comes back from the handler as the first case. */
    __asm__ volatile("ud2");
    __builtin_unreachable();
}

static void child_start(struct native *n)
{
    n->child = fork();
    if (n->child == 0)
        child_main(n);
    if (n->child < 0) {
        perror("isa_test: fork");
        exit(2);
    }
}

/* One memfd holds arena, read-only page and code; they are mapped where cases see them, and writable elsewhere. */
static bool memory_prepare(struct native *n)
{
    int fd = memfd_create("isa_test", MFD_CLOEXEC);
    uint8_t *all;

    if (fd < 0 || ftruncate(fd, ARENA_SIZE + PAGE_SIZE + CODE_SIZE) != 0)
        return false;
    all = mmap(NULL, ARENA_SIZE + PAGE_SIZE + CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (all == MAP_FAILED)
        return false;
    memcpy(all, isa_noise(), ARENA_SIZE + PAGE_SIZE);
    memset(all + ARENA_SIZE + PAGE_SIZE, 0xcc, CODE_SIZE);
    n->arena = all;
    n->code = all + ARENA_SIZE + PAGE_SIZE;

    const struct {
        uint64_t address;
        size_t size;
        int protection;
        off_t offset;
    } views[] = {
        {ARENA, ARENA_SIZE, PROT_READ | PROT_WRITE, 0},
        {ARENA_RO, PAGE_SIZE, PROT_READ, ARENA_SIZE},
        {ALIAS, ARENA_SIZE, PROT_READ | PROT_WRITE, 0},
        {ALIAS + ARENA_SIZE, PAGE_SIZE, PROT_READ, ARENA_SIZE},
        {CODE, CODE_SIZE, PROT_READ | PROT_EXEC, ARENA_SIZE + PAGE_SIZE},
    };
    for (unsigned i = 0; i < ARRAY_LEN(views); i++) {
        void *want = (void *)views[i].address;
        if (mmap(want, views[i].size, views[i].protection, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd,
                 views[i].offset) != want)
            return false;
    }
    close(fd);
    return true;
}

struct native *native_create(void)
{
    struct native *n = calloc(1, sizeof(*n));

    if (n == NULL)
        return NULL;
    n->shared = mmap(NULL, sizeof(*n->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* Far away from where a case's addresses are likely to point. */
    n->frame_stack = mmap(NULL, FRAME_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (n->shared == MAP_FAILED || n->frame_stack == MAP_FAILED || !memory_prepare(n)) {
        fprintf(stderr, "isa_test: the memory for the cases cannot be mapped: %s\n", strerror(errno));
        free(n);
        return NULL;
    }
    n->features.fsgsbase = getauxval(AT_HWCAP2) >> 1 & 1;
    struct user_desc probe = {.entry_number = 0, .base_addr = (unsigned)ARENA, .limit = 0xfff};
    n->features.ldt = syscall(SYS_modify_ldt, 0x11, &probe, sizeof(probe)) == 0;
    child_start(n);
    return n;
}

void native_destroy(struct native *n)
{
    kill(n->child, SIGKILL);
    waitpid(n->child, NULL, 0);
    munmap((void *)ARENA, ARENA_SIZE + PAGE_SIZE);
    munmap((void *)ALIAS, ARENA_SIZE + PAGE_SIZE);
    munmap((void *)CODE, CODE_SIZE);
    munmap(n->arena, ARENA_SIZE + PAGE_SIZE + CODE_SIZE);
    munmap(n->frame_stack, FRAME_STACK_SIZE);
    munmap(n->shared, sizeof(*n->shared));
    free(n);
}

struct native_features native_features(const struct native *n)
{
    return n->features;
}

struct isa_case *native_cases(struct native *n)
{
    return n->shared->cases;
}

void native_start(struct native *n, unsigned count)
{
    n->shared->count = count;
    atomic_store(&n->shared->current, 0);
    atomic_fetch_add(&n->shared->started, 1);
    futex_wake(&n->shared->started);
}

const struct isa_result *native_wait(struct native *n)
{
    struct native_shared *shared = n->shared;
    const struct timespec patience = {.tv_nsec = 100000000};
    uint32_t finished;

    while ((finished = atomic_load(&shared->finished)) != atomic_load(&shared->started)) {
        int status;
        if (waitpid(n->child, &status, WNOHANG) == n->child) {
            uint32_t current = atomic_load(&shared->current);
            if (WIFEXITED(status)) {
                fprintf(stderr, "isa_test: the native child gave up with status %d\n", WEXITSTATUS(status));
                exit(2);
            }
            if (current < shared->count) {
                memset(&shared->results[current], 0, sizeof(shared->results[current]));
                shared->results[current].vector = ISA_CRASH;
                shared->results[current].error = (uint32_t)WTERMSIG(status);
                atomic_store(&shared->current, current + 1);
            }
            child_start(n);
            continue;
        }
        futex_wait(&shared->finished, finished, &patience);
    }
    return shared->results;
}
