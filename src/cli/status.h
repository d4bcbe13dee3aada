/* What `ring3 run` returns to the shell: the one place that says so.
 *
 * isa-debug-exit returns (value << 1) | 1, which is always odd; so all of ours are even, and a test harness can tell
 * them apart. When a signal ended the run, ring3 ends by that signal itself, which shells show as 128 + its number. */
#ifndef RING3_CLI_STATUS_H
#define RING3_CLI_STATUS_H

/* X(identifier, number, "when") */
#define CLI_STATUSES(X)                                                                                                \
    X(STATUS_OK, 0, "the guest powered off, or reset under --no-reboot, or you quit with Ctrl-A x")                    \
    X(STATUS_USAGE, 2, "a bad option, or a file or setting with which the machine cannot be made")                     \
    X(STATUS_TRIPLE_FAULT, 4, "the guest's processor shut down (triple fault); what led there is printed")             \
    X(STATUS_PANIC, 6, "the guest's kernel panicked (it said so through pvpanic)")                                     \
    X(STATUS_TIMEOUT, 8, "the guest was still running after --timeout")                                                \
    X(STATUS_INTERNAL, 10, "the host refused something during the run")

enum cli_status {
#define X(id, number, when) id = number,
    CLI_STATUSES(X)
#undef X
};

#define STATUS_DEBUG_EXIT "(v << 1) | 1, always odd: the guest wrote v to isa-debug-exit"
#define STATUS_SIGNAL "128 + n: signal n ended the run"

#endif
