/* What a monitor does for each thing that it hears of, in words: the table of trap-and-emulate.
 *
 * A classical monitor is told by a fault, finds the instruction, and does to the guest's registers and memory what the
 * processor would have done. The sentences say what that is; they hold for ring3's engines alike, whether the
 * instruction came to the monitor as a fault, as an exit of the hardware, or as a call of translated code.
 *
 * Sources: SDM vol. 2, the instructions' pages; vol. 3, 6.12 (what an interrupt saves), 4.10 (translations). */
#include <inttypes.h>
#include <string.h>

#include "cli/story.h"
#include "cpu/decode.h"

static void place(const struct story *s, uint64_t rip, char text[SYMBOLS_TEXT + 24])
{
    char name[SYMBOLS_TEXT];
    symbols_text(s->symbols, rip, name);
    if (name[0] != 0)
        snprintf(text, SYMBOLS_TEXT + 24, "%s", name);
    else
        snprintf(text, SYMBOLS_TEXT + 24, "%#" PRIx64, rip);
}

static const char *mode(unsigned cpl)
{
    return cpl == 3 ? "user" : "kernel";
}

/* Rows whose sentence does not depend on the circumstances. */
static const struct {
    unsigned row;
    const char *did, *saw;
} sentences[] = {
    {ROW_CLI, "clears the guest's interrupt flag, which it keeps itself; real interrupts stay on",
     "interrupts are off, as far as it can tell"},
    {ROW_STI, "sets the guest's interrupt flag; interrupts that waited can be delivered after the next instruction",
     "interrupts are on"},
    {ROW_HLT, "lets the guest's processor sleep until an interrupt is due for it", "time passed"},
    {ROW_INVLPG, "forgets the shadow's entry for that page; it will be filled again when it is needed",
     "its change of that page's entry is in force"},
    {ROW_LGDT, "remembers where the guest's descriptor table lies", "its own descriptor table is in force"},
    {ROW_LIDT, "remembers where the guest's interrupt table lies, for when it reflects something",
     "its own handlers are in force"},
    {ROW_LTR, "remembers the guest's task state, for the kernel's stack pointer in it", "its task register is loaded"},
    {ROW_LLDT, "remembers the guest's local descriptor table", "its local descriptor table is in force"},
    {ROW_CLTS, "clears the guest's TS flag, which it keeps itself", "TS is clear"},
    {ROW_RDMSR, "reads the register that it keeps for the guest", "the register's value"},
    {ROW_WRMSR, "changes the register that it keeps for the guest", "the register has the new value"},
    {ROW_SWAPGS, "exchanges the guest's two GS bases", "GS has its other base"},
    {ROW_PUSHF, "(patched or translated) pushes the flags that the guest believes in, with its own interrupt flag",
     "its flags"},
    {ROW_POPF, "(patched or translated) takes the flags, the interrupt flag into its own keeping", "its flags are set"},
    {ROW_CPUID, "answers for the processor that the guest has", "the guest's processor"},
    {ROW_RDTSC, "answers with the guest's time", "a time"},
};

static bool is_return(unsigned row)
{
    return row == ROW_IRET || row == ROW_IRETD || row == ROW_IRETQ || row == ROW_SYSRET || row == ROW_SYSEXIT;
}

static unsigned row_common(unsigned row)
{
    switch (row) {
    case ROW_PUSHFD:
    case ROW_PUSHFQ:
        return ROW_PUSHF;
    case ROW_POPFD:
    case ROW_POPFQ:
        return ROW_POPF;
    case ROW_RDTSCP:
        return ROW_RDTSC;
    default:
        return row;
    }
}

static void tell_reflected(const struct story *s, const struct act *act, const char *what, char *did, char *saw)
{
    char to[SYMBOLS_TEXT + 24];
    place(s, act->rip_after, to);
    snprintf(did, TELL_SIZE,
             "reflects it: finds %s in the guest's interrupt table%s, pushes the guest's state there as the processor "
             "would, pretend mode %s",
             what, act->cpl == 3 && act->cpl_after != 3 ? " and the kernel's stack in its task state" : "",
             act->cpl != act->cpl_after ? "becomes kernel" : "stays kernel");
    snprintf(saw, TELL_SIZE, "its handler %s runs in %s mode", to, mode(act->cpl_after));
}

static void tell_device(const struct story *s, const struct act *act, char *did, char *saw)
{
    const struct exit *e = &act->exit;
    bool write = e->reason == EXIT_MMIO_WRITE || e->reason == EXIT_IO_OUT;
    bool memory = e->reason == EXIT_MMIO_WRITE || e->reason == EXIT_MMIO_READ;
    const char *device = act->device[0] != 0 ? act->device : "nobody";
    char what[48] = "";
    if (write && e->size == 2 && memory && (e->value & 0xff) >= ' ' && (e->value & 0xff) <= '~')
        snprintf(what, sizeof what, " ('%c' and its colour)", (int)(e->value & 0xff));
    else if (write && e->size == 1 && e->value >= ' ' && e->value <= '~')
        snprintf(what, sizeof what, " ('%c')", (int)e->value);
    if (memory)
        snprintf(did, TELL_SIZE,
                 "a page fault, but the address is a device's: decodes the instruction and %s %#" PRIx64
                 "%s %s %s at %#" PRIx64,
                 write ? "gives" : "takes", e->value, what, write ? "to" : "from", device, e->address);
    else
        snprintf(did, TELL_SIZE, "%s %#" PRIx64 "%s %s %s at port %#" PRIx64 "%s", write ? "gives" : "takes", e->value,
                 what, write ? "to" : "from", device, e->address, act->exits > 1 ? ", and so on" : "");
    snprintf(saw, TELL_SIZE, "%s; it goes on behind the instruction",
             write ? "the write has worked" : "a value was read");
}

static void tell_exception(const struct story *s, const struct act *act, char *did, char *saw)
{
    char what[64];
    if (act->exit.vector == VECTOR_PF)
        snprintf(what, sizeof what, "the handler of #PF (%#" PRIx64 ", error %#x)", act->exit.address, act->exit.error);
    else
        snprintf(what, sizeof what, "the handler of %s", vector_name(act->exit.vector));
    tell_reflected(s, act, what, did, saw);
    if (act->exit.vector == VECTOR_PF) {
        size_t used = strlen(did);
        snprintf(did + used, TELL_SIZE - used,
                 "; the guest's own tables do not permit it, so the fault is the guest's");
    }
}

static void tell_return(const struct story *s, const struct act *act, char *did, char *saw)
{
    char to[SYMBOLS_TEXT + 24];
    place(s, act->rip_after, to);
    snprintf(did, TELL_SIZE,
             "does the return: takes instruction pointer, flags%s from the guest's stack, pretend mode %s",
             act->cpl_after != act->cpl ? " and stack pointer" : "",
             act->cpl_after != act->cpl ? "becomes user" : "stays kernel");
    if (act->cpl_after != act->cpl) {
        size_t used = strlen(did);
        snprintf(did + used, TELL_SIZE - used, ", the shadow table for user mode is put in place");
    }
    snprintf(saw, TELL_SIZE, "it goes on at %s in %s mode", to, mode(act->cpl_after));
}

static void tell_cr(const struct story *s, const struct act *act, char *did, char *saw)
{
    char name[32];
    const struct exit *e = &act->exit;
    if (e->reason == EXIT_CR_WRITE && e->address == 3) {
        story_space_name(s, e->value, name);
        snprintf(did, TELL_SIZE,
                 "notes the guest's new page-table base %#" PRIx64 " and puts the shadow table of %s in place",
                 e->value, name);
        snprintf(saw, TELL_SIZE, "it is in another address space");
    } else if (e->reason == EXIT_CR_WRITE) {
        snprintf(did, TELL_SIZE, "changes the CR%u that it keeps for the guest, and what follows from it",
                 (unsigned)e->address);
        snprintf(saw, TELL_SIZE, "the register has the new value");
    } else {
        snprintf(did, TELL_SIZE, "answers with the value that the guest believes in");
        snprintf(saw, TELL_SIZE, "the register's value");
    }
}

static void tell_instruction(const struct story *s, const struct act *act, char *did, char *saw)
{
    char what[48];
    const struct exit *e = &act->exit;
    if (is_return(act->row)) {
        tell_return(s, act, did, saw);
        return;
    }
    if (act->has_exit && e->reason <= EXIT_MMIO_WRITE) {
        tell_device(s, act, did, saw);
        return;
    }
    if (act->has_exit && (e->reason == EXIT_CR_WRITE || e->reason == EXIT_CR_READ)) {
        tell_cr(s, act, did, saw);
        return;
    }
    if (act->has_exit && e->reason == EXIT_HYPERCALL) {
        snprintf(did, TELL_SIZE, "carries out the guest's request, which spares the guest several traps");
        snprintf(saw, TELL_SIZE, "a result in a register");
        return;
    }
    if (act->sensitivity == INSN_GATE && act->cpl_after != act->cpl) {
        snprintf(what, sizeof what, act->has_exit ? "the handler of vector %#x" : "the system call's entry", e->vector);
        tell_reflected(s, act, what, did, saw);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(sentences); i++) {
        if (sentences[i].row == row_common(act->row)) {
            snprintf(did, TELL_SIZE, "%s", sentences[i].did);
            snprintf(saw, TELL_SIZE, "%s", sentences[i].saw);
            return;
        }
    }
    snprintf(did, TELL_SIZE, "%sdoes to the guest's state what the processor would have done",
             act->sensitivity == INSN_SILENT ? "(patched or translated) " : "");
    snprintf(saw, TELL_SIZE, "the instruction has worked");
}

void story_tell(const struct story *s, const struct act *act, char did[TELL_SIZE], char saw[TELL_SIZE])
{
    char what[64];
    did[0] = saw[0] = 0;
    if (act->has_exit && act->exit.reason == EXIT_EXCEPTION) {
        tell_exception(s, act, did, saw);
        return;
    }
    switch (act->kind) {
    case ACT_DEVICE:
        tell_device(s, act, did, saw);
        break;
    case ACT_INTERRUPT:
        snprintf(what, sizeof what, "the handler of interrupt %#x", act->exit.vector);
        tell_reflected(s, act, what, did, saw);
        break;
    default:
        tell_instruction(s, act, did, saw);
        break;
    }
}
