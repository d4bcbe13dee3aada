/* The terminal that ring3 was started on, in raw mode while the guest has it, and put back on every way out.
 *
 * Ways out, and who puts the terminal back:
 *   return, stop, exit               tty_destroy()
 *   SIGTSTP, then SIGCONT            the tty itself, from the event loop: back, stop; raw again when continued
 *   SIGSTOP                          nobody can (the shell does); raw again when continued
 *   SIGKILL, abort(), any crash      a small child process, the guard, which outlives us for that moment
 *
 * In the background (`ring3 ... &`, `bg`) the terminal is not touched; it becomes raw when ring3 comes to the
 * foreground.
 *
 * Threads: created before any other thread is started, because it blocks SIGTSTP and SIGCONT, which it receives through
 * the loop; all functions are called under the loop's lock. */
#ifndef RING3_HOST_TTY_H
#define RING3_HOST_TTY_H

#include "base/error.h"
#include "host/loop.h"

struct tty;

/* Takes `fd`, a terminal, which must stay open until tty_destroy(); makes it raw if we are in the foreground. `claimed`
 * is called from the loop when we are (again) in the foreground. NULL with a message when it cannot be made raw. */
struct tty *tty_create(int fd, struct loop *loop, void (*claimed)(void *opaque), void *opaque, struct error *err);
/* Puts the terminal back. */
void tty_destroy(struct tty *tty);

/* Somebody changed the terminal's modes further, and its screen: what they are now counts as raw, and `goodbye` (kept by the caller,
 * NULL for nothing) is written where the terminal is put back by others than who changed it. Nothing happens in the background. */
void tty_adopt(struct tty *tty, const char *goodbye);

/* To be asked before every read: true when this process may read from the terminal, because it is in the foreground;
 * makes it raw if it was not. After false, `claimed` will be called. */
bool tty_claim(struct tty *tty);

#endif
