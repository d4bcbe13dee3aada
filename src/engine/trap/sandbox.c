/* See sandbox.h for the model.
 *
 * Making one. The first process, the "mother", is forked from the monitor and stops at once. The monitor then has it
 * execute system calls, one after the other, by putting their arguments into the list and its RIP at the loop: it lets
 * go of the monitor's memory, of all files but the two, and of the C library's notes in the kernel. It never runs guest
 * code. Each sandbox is cloned from it (a fork of a process that has next to nothing), makes the time-stamp counter
 * trap, and gives up what is left of its rights.
 *
 * The loop has to lie somewhere in the sandbox. The host chooses the place, in the monitor, where it is unused; the
 * pages there are shared memory, so that the list can be written on one side and read on the other. The guest can read
 * the loop and the list, which tell it nothing but what is mapped, and can jump into the loop, which SYSEMU makes a
 * stop like any other.
 *
 * A stop costs what the host's kernel takes for two changes of process; docs/decisions/019-sandbox.md has the numbers,
 * and those of the other design (a signal handler inside the sandbox).
 */
#include "engine/trap/sandbox.h"

#include <asm/ldt.h>
#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

#define USER_CS32 0x23u
#define USER_CS64 0x33u
#define USER_DS 0x2bu
#define USER_END 0x7ffffffff000ull /* of user space with 4-level tables */

#define LIST_PAGES 4u
#define LIST_BYTES (LIST_PAGES * PAGE_SIZE)
#define LOOP_BYTES PAGE_SIZE
#define MAPPINGS_MAX 24000u /* of the host's 65530 (vm.max_map_count); each of our changes makes at most two more */

#define RSEQ_AREA_BYTES 32u /* what the C library has registered, rseq(2) */

#define NO_CALL UINT64_MAX
struct command {
    uint64_t number, argument[6];
};
#define DATA_BYTES 1024u /* at the list's end, for what a system call points to */
#define COMMANDS_MAX ((LIST_BYTES - DATA_BYTES) / sizeof(struct command) - 1)

/* RBX: the next command. Ends in INT3 with RAX the number NO_CALL, or a system call's error. */
/* clang-format off */
static const uint8_t loop_code[] = {
    0x48, 0x8b, 0x03,             /* mov (%rbx), %rax */
    0x48, 0x83, 0xf8, 0xff,       /* cmp $-1, %rax */
    0x74, 0x26,                   /* je end */
    0x48, 0x8b, 0x7b, 0x08,       /* mov 8(%rbx), %rdi */
    0x48, 0x8b, 0x73, 0x10,       /* mov 16(%rbx), %rsi */
    0x48, 0x8b, 0x53, 0x18,       /* mov 24(%rbx), %rdx */
    0x4c, 0x8b, 0x53, 0x20,       /* mov 32(%rbx), %r10 */
    0x4c, 0x8b, 0x43, 0x28,       /* mov 40(%rbx), %r8 */
    0x4c, 0x8b, 0x4b, 0x30,       /* mov 48(%rbx), %r9 */
    0x0f, 0x05,                   /* syscall */
    0x48, 0x83, 0xc3, 0x38,       /* add $56, %rbx */
    0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, /* cmp $-4095, %rax */
    0x72, 0xd1,                   /* jb loop_code */
    0xcc,                         /* end: int3 */
};
/* clang-format on */
_Static_assert(sizeof(struct command) == 56, "the loop adds it");

struct sandboxes {
    int files[2];
    pid_t mother, tracer;
    uint8_t *loop; /* LOOP_BYTES, then the list */
    struct command *list;
    uint64_t lowest; /* address that can be mapped */
    struct sandbox_counters count;
    _Atomic pid_t running; /* sandbox_kick() is for this process; 0: none */
    _Atomic unsigned kickers;
};

struct sandbox {
    struct sandboxes *family;
    pid_t pid;
    bool dead;
    int cpu;     /* of the host, that it is to run on; -1: not said yet */
    bool failed;       /* the host has refused something, and nothing is mapped */
    unsigned mappings; /* at most so many */
    unsigned queued;
    struct command queue[COMMANDS_MAX];
};

/* ---- stopping and going ---- */

/* False: it is gone. */
static bool wait_stop(pid_t pid, int *status)
{
    pid_t got;
    do
        got = waitpid(pid, status, __WALL);
    while (got < 0 && errno == EINTR);
    return got == pid && WIFSTOPPED(*status);
}

static bool is_fatal_to(int status)
{
    int signal = WSTOPSIG(status);
    return signal == SIGSEGV || signal == SIGILL || signal == SIGBUS || signal == SIGFPE || signal == SIGSYS;
}

/* Has the process work through `count` commands that are in the list. Returns 0, or the errno of the one that failed;
 * ESRCH if it died. `*value`: the last one's result. */
static int loop_run(struct sandboxes *f, pid_t pid, unsigned count, uint64_t *value)
{
    struct sandbox_regs regs = {.rip = (uintptr_t)f->loop,
                                .rbx = (uintptr_t)f->list,
                                .cs = USER_CS64,
                                .ss = USER_DS,
                                .ds = USER_DS,
                                .es = USER_DS,
                                .eflags = 0x202,
                                .orig_rax = UINT64_MAX};
    f->list[count].number = NO_CALL;
    int status;
    if (ptrace(PTRACE_SETREGS, pid, NULL, &regs) != 0)
        return errno;
    do { /* past signals that are not ours */
        if (ptrace(PTRACE_CONT, pid, NULL, NULL) != 0 || !wait_stop(pid, &status))
            return ESRCH;
    } while (WSTOPSIG(status) != SIGTRAP && status >> 16 == 0 && !is_fatal_to(status));
    if (status >> 16 != 0) /* clone has made another one: its number is asked for with PTRACE_GETEVENTMSG */
        return 0;
    if (WSTOPSIG(status) != SIGTRAP || ptrace(PTRACE_GETREGS, pid, NULL, &regs) != 0)
        return ESRCH;
    if (value != NULL)
        *value = regs.rax;
    return regs.rax == NO_CALL ? 0 : (int)-(int64_t)regs.rax;
}

static int call_do(struct sandboxes *f, pid_t pid, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    f->list[0] = (struct command){.number = (uint64_t)number, .argument = {a, b, c, d}};
    return loop_run(f, pid, 1, NULL);
}

/* ---- the mother ---- */

/* In the child of a process that may have had other threads: system calls only. */
static _Noreturn void mother_begin(pid_t monitor)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (__rseq_size != 0) /* the kernel must not look for it where guest memory will be */
        syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, RSEQ_AREA_BYTES, RSEQ_FLAG_UNREGISTER,
                RSEQ_SIG);
    if (getppid() != monitor || ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(1);
    kill(getpid(), SIGSTOP);
    _exit(1);
}

/* Everything but `a` and `b`. */
static int files_close(struct sandboxes *f, pid_t pid)
{
    unsigned low = (unsigned)(f->files[0] < f->files[1] ? f->files[0] : f->files[1]);
    unsigned high = (unsigned)(f->files[0] < f->files[1] ? f->files[1] : f->files[0]);
    int error = 0;
    if (low > 0)
        error = call_do(f, pid, SYS_close_range, 0, low - 1, 0, 0);
    if (error == 0 && high > low + 1)
        error = call_do(f, pid, SYS_close_range, low + 1, high - 1, 0, 0);
    return error != 0 ? error : call_do(f, pid, SYS_close_range, high + 1, UINT32_MAX, 0, 0);
}

static void *list_data(const struct sandboxes *f)
{
    return (uint8_t *)f->list + LIST_BYTES - DATA_BYTES;
}

static bool mother_strip(struct sandboxes *f, struct error *err)
{
    uint64_t own = (uintptr_t)f->loop, own_end = own + LOOP_BYTES + LIST_BYTES, data = (uintptr_t)list_data(f);
    memset(list_data(f), 0, DATA_BYTES); /* no signal blocked; no core file */
    const struct {
        long number;
        uint64_t argument[4];
    } calls[] = {
        {SYS_munmap, {0, own}},
        {SYS_munmap, {own_end, USER_END - own_end}},
        {SYS_mprotect, {own + LOOP_BYTES, LIST_BYTES, PROT_READ}},
        {SYS_rt_sigprocmask, {SIG_SETMASK, data, 0, 8}},
        {SYS_set_robust_list, {0, 24}},
        {SYS_set_tid_address, {0}},
        {SYS_prlimit64, {0, RLIMIT_CORE, data, 0}},
        {SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
        const uint64_t *a = calls[i].argument;
        int error = call_do(f, f->mother, calls[i].number, a[0], a[1], a[2], a[3]);
        if (error != 0)
            return error_set(err, "the host does not let the sandbox give up what it has (system call %ld): %s",
                             calls[i].number, strerror(error));
    }
    int error = files_close(f, f->mother);
    return error == 0 || error_set(err, "the host does not let the sandbox close its files: %s", strerror(error));
}

static bool mother_create(struct sandboxes *f, struct error *err)
{
    pid_t monitor = getpid();
    f->mother = fork();
    if (f->mother == 0)
        mother_begin(monitor);
    if (f->mother < 0)
        return error_set(err, "the host permits no further process for guest code: %m");
    int status;
    if (!wait_stop(f->mother, &status)) {
        f->mother = -1; /* and waited for */
        return error_set(
            err, "the host does not permit tracing a process (ptrace), which engine trap lives by; a container may "
                 "need it permitted");
    }
    long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK;
    if (ptrace(PTRACE_SETOPTIONS, f->mother, NULL, options) != 0)
        return error_set(err, "the host does not permit tracing a process: %m");
    return mother_strip(f, err);
}

/* ---- the family ---- */

static uint64_t lowest_address(void)
{
    unsigned long long lowest = 65536;
    FILE *file = fopen("/proc/sys/vm/mmap_min_addr", "re");
    if (file != NULL && fscanf(file, "%llu", &lowest) != 1)
        lowest = 65536;
    if (file != NULL)
        fclose(file);
    return (lowest + PAGE_SIZE - 1) & ~PAGE_OFFSET_MASK;
}

static bool own_pages_create(struct sandboxes *f, struct error *err)
{
    void *own = mmap(NULL, LOOP_BYTES + LIST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (own == MAP_FAILED)
        return error_set(err, "no memory for a sandbox: %m");
    f->loop = own;
    f->list = (struct command *)(f->loop + LOOP_BYTES);
    memset(f->loop, 0xcc, LOOP_BYTES);
    memcpy(f->loop, loop_code, sizeof loop_code);
    if (mprotect(f->loop, LOOP_BYTES, PROT_READ | PROT_EXEC) != 0)
        return error_set(err, "the host does not permit executable memory for a sandbox: %m");
    return true;
}

struct sandboxes *sandboxes_create(const int files[2], struct error *err)
{
    struct sandboxes *f = calloc(1, sizeof *f);
    if (f == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    f->files[0] = files[0];
    f->files[1] = files[1];
    f->mother = -1;
    f->tracer = gettid();
    f->lowest = lowest_address();
    if (!own_pages_create(f, err) || !mother_create(f, err)) {
        sandboxes_destroy(f);
        return NULL;
    }
    return f;
}

static void process_end(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    for (;;) {
        pid_t got = waitpid(pid, &status, __WALL);
        if (got == pid && (WIFEXITED(status) || WIFSIGNALED(status)))
            return;
        if (got < 0 && errno != EINTR)
            return;
    }
}

void sandboxes_destroy(struct sandboxes *f)
{
    if (f == NULL)
        return;
    if (f->mother > 0)
        process_end(f->mother);
    if (f->loop != NULL)
        munmap(f->loop, LOOP_BYTES + LIST_BYTES);
    free(f);
}

bool sandboxes_is_mine(const struct sandboxes *f)
{
    return f->tracer == gettid();
}

const struct sandbox_counters *sandboxes_counters(const struct sandboxes *f)
{
    return &f->count;
}

bool sandboxes_can_map(const struct sandboxes *f, uint64_t gva)
{
    uint64_t page = gva & ~PAGE_OFFSET_MASK;
    return page >= f->lowest && page < USER_END && page - (uintptr_t)f->loop >= LOOP_BYTES + LIST_BYTES;
}

/* ---- one ---- */

#define FIELD(name) ((uint32_t)offsetof(struct seccomp_data, name))
#define LOW_ARGUMENT(n) (FIELD(args) + 8 * (n))
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define JUMP_IF(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), yes, no)
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)

/* mmap() of the two files, shared, fixed, never writable and executable; munmap(); mprotect() without execution;
 * modify_ldt(), whose segments have no more privilege than the code that uses them. The three that the host's kernel
 * makes by itself when code goes to its vsyscall page, which PTRACE_SYSEMU does not see, become a signal. */
static bool filter_install(struct sandboxes *f, pid_t pid)
{
    /* clang-format off */
    const struct sock_filter filter[] = {
        /* 0 */ LOAD(FIELD(arch)),
        /* 1 */ JUMP_IF(AUDIT_ARCH_X86_64, 0, 21),
        /* 2 */ LOAD(FIELD(nr)),
        /* 3 */ JUMP_IF(SYS_gettimeofday, 20, 0),
        /* 4 */ JUMP_IF(SYS_time, 19, 0),
        /* 5 */ JUMP_IF(SYS_getcpu, 18, 0),
        /* 6 */ JUMP_IF(SYS_munmap, 15, 0),
        /* 7 */ JUMP_IF(SYS_modify_ldt, 14, 0),
        /* 8 */ JUMP_IF(SYS_mprotect, 10, 0),
        /* 9 */ JUMP_IF(SYS_mmap, 0, 13),
        /* 10 */ LOAD(LOW_ARGUMENT(3)),
        /* 11 */ JUMP_IF(MAP_SHARED | MAP_FIXED, 0, 11),
        /* 12 */ LOAD(LOW_ARGUMENT(4)),
        /* 13 */ JUMP_IF(f->files[0], 1, 0),
        /* 14 */ JUMP_IF(f->files[1], 0, 8),
        /* 15 */ LOAD(LOW_ARGUMENT(2)),
        /* 16 */ JUMP_IF(PROT_READ, 5, 0),
        /* 17 */ JUMP_IF(PROT_READ | PROT_WRITE, 4, 0),
        /* 18 */ JUMP_IF(PROT_READ | PROT_EXEC, 3, 4),
        /* 19 */ LOAD(LOW_ARGUMENT(2)),
        /* 20 */ JUMP_IF(PROT_READ, 1, 0),
        /* 21 */ JUMP_IF(PROT_READ | PROT_WRITE, 0, 1),
        /* 22 */ RETURN(SECCOMP_RET_ALLOW),
        /* 23 */ RETURN(SECCOMP_RET_KILL_PROCESS),
        /* 24 */ RETURN(SECCOMP_RET_TRAP),
    };
    /* clang-format on */
    struct {
        struct sock_fprog program;
        struct sock_filter filter[ARRAY_LEN(filter)];
    } *data = list_data(f);
    _Static_assert(sizeof *data <= DATA_BYTES, "fits");
    memcpy(data->filter, filter, sizeof filter);
    data->program = (struct sock_fprog){.len = ARRAY_LEN(filter), .filter = data->filter};
    return call_do(f, pid, SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (uintptr_t)&data->program, 0) == 0;
}

static bool sandbox_close_in(struct sandboxes *f, pid_t pid, struct error *err)
{
    if (call_do(f, pid, SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0) != 0 ||
        call_do(f, pid, SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0) != 0)
        return error_set(err, "the host does not let the time-stamp counter trap (prctl PR_SET_TSC)");
    return filter_install(f, pid) || error_set(err, "the host does not permit system call filters (seccomp)");
}

struct sandbox *sandbox_create(struct sandboxes *f, struct error *err)
{
    struct sandbox *box = calloc(1, sizeof *box);
    check(box != NULL);
    box->family = f;
    box->cpu = -1;
    unsigned long pid = 0;
    int error = call_do(f, f->mother, SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0), status;
    if (error != 0 || ptrace(PTRACE_GETEVENTMSG, f->mother, NULL, &pid) != 0 || pid == 0) {
        free(box);
        error_set(err, "the host permits no further process for guest code: %s", strerror(error != 0 ? error : errno));
        return NULL;
    }
    box->pid = (pid_t)pid;
    /* The mother comes to the end of her list. */
    bool mother_stops = ptrace(PTRACE_CONT, f->mother, NULL, NULL) == 0 && wait_stop(f->mother, &status);
    if (!mother_stops || !wait_stop(box->pid, &status) || !sandbox_close_in(f, box->pid, err)) {
        sandbox_destroy(box);
        return NULL;
    }
    f->count.processes++;
    return box;
}

void sandbox_destroy(struct sandbox *box)
{
    if (box == NULL)
        return;
    struct sandboxes *f = box->family;
    atomic_store(&f->running, 0);
    while (atomic_load(&f->kickers) != 0)
        sched_yield();
    if (!box->dead)
        process_end(box->pid);
    free(box);
}

bool sandbox_set_code_base(struct sandbox *box, uint32_t base)
{
    struct sandboxes *f = box->family;
    const struct user_desc code = {.entry_number = SANDBOX_CS32 >> 3,
                                   .base_addr = base,
                                   .limit = 0xfffff,
                                   .seg_32bit = 1,
                                   .contents = MODIFY_LDT_CONTENTS_CODE,
                                   .limit_in_pages = 1,
                                   .useable = 1};
    memcpy(list_data(f), &code, sizeof code);
    return call_do(f, box->pid, SYS_modify_ldt, 0x11, (uintptr_t)list_data(f), sizeof code, 0) == 0;
}

/* ---- mappings ---- */

/* The monitor waits while the sandbox runs, and the other way round. On two CPUs each stop would wake one that has gone to
 * sleep, which costs many times more than the change of process; so it runs where the monitor is now. If the host does
 * not want that, it is slower. */
static void follow_monitor(struct sandbox *box)
{
    int cpu = sched_getcpu();
    if (cpu == box->cpu || cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(box->pid, sizeof set, &set);
    box->cpu = cpu;
}

bool sandbox_commit(struct sandbox *box)
{
    struct sandboxes *f = box->family;
    bool ok = !box->failed;
    box->failed = false;
    if (!ok)
        sandbox_unmap_all(box); /* with what was put in the list since */
    if (box->queued == 0)
        return true;
    memcpy(f->list, box->queue, box->queued * sizeof box->queue[0]);
    unsigned count = box->queued;
    box->queued = 0;
    f->count.commits++;
    follow_monitor(box);
    int error = loop_run(f, box->pid, count, NULL);
    if (error == 0)
        return ok;
    box->dead |= error == ESRCH;
    box->failed = true;
    return false;
}

static void queue_add(struct sandbox *box, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                      uint64_t g)
{
    if (box->queued == COMMANDS_MAX)
        box->failed |= !sandbox_commit(box);
    if (box->queued < COMMANDS_MAX)
        box->queue[box->queued++] = (struct command){.number = (uint64_t)number, .argument = {a, b, c, d, e, g}};
}

void sandbox_map(struct sandbox *box, uint64_t gva, uint64_t size, enum sandbox_file file, uint64_t offset, int prot)
{
    struct sandboxes *f = box->family;
    f->count.maps++;
    box->mappings += 2;
    queue_add(box, SYS_mmap, gva, size, (uint64_t)prot, MAP_SHARED | MAP_FIXED, (uint64_t)f->files[file], offset);
}

void sandbox_unmap(struct sandbox *box, uint64_t gva, uint64_t size)
{
    box->family->count.unmaps++;
    box->mappings++;
    queue_add(box, SYS_munmap, gva, size, 0, 0, 0, 0);
}

void sandbox_protect(struct sandbox *box, uint64_t gva, uint64_t size, int prot)
{
    box->family->count.protects++;
    box->mappings += 2;
    queue_add(box, SYS_mprotect, gva, size, (uint64_t)prot, 0, 0, 0);
}

void sandbox_unmap_all(struct sandbox *box)
{
    struct sandboxes *f = box->family;
    uint64_t own = (uintptr_t)f->loop, own_end = own + LOOP_BYTES + LIST_BYTES;
    f->count.unmaps++;
    box->mappings = 0;
    box->queued = 0; /* what is in the list is undone by this */
    queue_add(box, SYS_munmap, 0, own, 0, 0, 0, 0);
    queue_add(box, SYS_munmap, own_end, USER_END - own_end, 0, 0, 0, 0);
}

bool sandbox_is_full(const struct sandbox *box)
{
    return box->mappings > MAPPINGS_MAX;
}

/* ---- running ---- */

static struct sandbox_stop stop_of(struct sandbox *box, int status)
{
    struct sandbox_stop stop = {.kind = SANDBOX_SIGNAL, .signal = WSTOPSIG(status)};
    siginfo_t info = {0};
    switch (stop.signal) {
    case SIGTRAP | 0x80:
        stop.kind = SANDBOX_SYSCALL;
        break;
    case SIGSEGV:
    case SIGBUS:
    case SIGTRAP:
    case SIGILL:
    case SIGFPE:
    case SIGSYS:
        if (ptrace(PTRACE_GETSIGINFO, box->pid, NULL, &info) != 0)
            stop.kind = SANDBOX_DEAD;
        stop.code = info.si_code;
        stop.address = (uintptr_t)info.si_addr;
        if (info.si_code == SI_USER || info.si_code == SI_TKILL || info.si_code == SI_QUEUE)
            stop.kind = SANDBOX_KICK; /* somebody sent it: the guest has nothing to do with it */
        break;
    default:
        stop.kind = SANDBOX_KICK;
    }
    return stop;
}

struct sandbox_stop sandbox_run(struct sandbox *box, struct sandbox_regs *regs)
{
    const struct sandbox_stop dead = {.kind = SANDBOX_DEAD};
    struct sandboxes *f = box->family;
    int status;
    check(box->queued == 0 && !box->failed);
    regs->orig_rax = UINT64_MAX; /* no system call to start again */
    f->count.resumes++;
    follow_monitor(box);
    if (box->dead || ptrace(PTRACE_SETREGS, box->pid, NULL, regs) != 0 ||
        ptrace(PTRACE_SYSEMU, box->pid, NULL, NULL) != 0) {
        box->dead |= errno == ESRCH;
        return dead;
    }
    if (!wait_stop(box->pid, &status)) {
        box->dead = true;
        return dead;
    }
    if (ptrace(PTRACE_GETREGS, box->pid, NULL, regs) != 0)
        return dead;
    return stop_of(box, status);
}

void sandboxes_run_begin(struct sandboxes *f, const struct sandbox *box)
{
    atomic_store(&f->running, box->pid);
}

void sandboxes_run_end(struct sandboxes *f)
{
    atomic_store(&f->running, 0);
}

void sandboxes_kick(struct sandboxes *f)
{
    atomic_fetch_add(&f->kickers, 1);
    pid_t pid = atomic_load(&f->running);
    if (pid > 0)
        kill(pid, SIGUSR1);
    atomic_fetch_sub(&f->kickers, 1);
}

bool sandbox_xstate_get(struct sandbox *box, void *area, size_t *size)
{
    struct iovec vector = {.iov_base = area, .iov_len = *size};
    if (ptrace(PTRACE_GETREGSET, box->pid, (void *)NT_X86_XSTATE, &vector) != 0)
        return false;
    *size = vector.iov_len;
    return true;
}

bool sandbox_xstate_set(struct sandbox *box, const void *area, size_t size)
{
    struct iovec vector = {.iov_base = (void *)area, .iov_len = size};
    return ptrace(PTRACE_SETREGSET, box->pid, (void *)NT_X86_XSTATE, &vector) == 0;
}

/* ---- whether it works here ---- */

bool sandbox_usable(struct error *why_not)
{
    int files[2] = {memfd_create("ring3-probe", MFD_CLOEXEC), memfd_create("ring3-probe", MFD_CLOEXEC)};
    struct sandboxes *f = NULL;
    struct sandbox *box = NULL;
    bool ok = false;
    const uint64_t at = 0x10000000;
    const uint8_t code[] = {0x64, 0xa1, 0, 0, 0, 0, 0xf4}; /* mov %fs:0, %eax; hlt */
    if (files[0] < 0 || files[1] < 0 || ftruncate(files[0], (off_t)PAGE_SIZE) != 0 ||
        pwrite(files[0], code, sizeof code, 0) != (ssize_t)sizeof code) {
        error_set(why_not, "no memory for a probe: %m");
    } else {
        f = sandboxes_create(files, why_not);
        box = f != NULL ? sandbox_create(f, why_not) : NULL;
    }
    if (box != NULL) {
        struct sandbox_regs regs = {.rip = at,
                                    .cs = USER_CS32,
                                    .ss = USER_DS,
                                    .ds = USER_DS,
                                    .es = USER_DS,
                                    .fs = USER_DS,
                                    .fs_base = at + 3,
                                    .eflags = 0x202};
        sandbox_map(box, at, PAGE_SIZE, SANDBOX_RAM, 0, PROT_READ | PROT_EXEC);
        struct sandbox_stop stop = {.kind = SANDBOX_DEAD};
        if (sandbox_commit(box))
            stop = sandbox_run(box, &regs);
        ok = stop.kind == SANDBOX_SIGNAL && stop.signal == SIGSEGV && regs.rip == at + 6 &&
             (uint32_t)regs.rax == 0xf4000000;
        if (!ok)
            error_set(why_not, "the host's kernel does not run 32-bit code with segment bases for a traced process "
                               "(CONFIG_IA32_EMULATION, Linux 5.9)");
    }
    sandbox_destroy(box);
    sandboxes_destroy(f);
    for (unsigned i = 0; i < 2; i++)
        if (files[i] >= 0)
            close(files[i]);
    return ok;
}
