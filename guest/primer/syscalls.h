/* System calls, for the kernel and for programs: INT 80h with the number in EAX, arguments in EBX, ECX, EDX, and the
 * result in EAX, below zero for an error. In the 64-bit build the same with RAX and so on. */
#ifndef PRIMER_SYSCALLS_H
#define PRIMER_SYSCALLS_H

#define SYS_EXIT 1     /* (status) */
#define SYS_FORK 2     /* () -> 0 in the child, its number in the parent */
#define SYS_READ 3     /* (file, bytes, n) -> how many; 0 at the end */
#define SYS_WRITE 4    /* (file, bytes, n) -> how many */
#define SYS_OPEN 5     /* (name) -> file */
#define SYS_CLOSE 6    /* (file) */
#define SYS_WAIT 7     /* (&status, options) -> number of a child that has ended */
#define SYS_EXEC 8     /* (command) does not return */
#define SYS_GETPID 9   /* () */
#define SYS_KILL 10    /* (number) */
#define SYS_SLEEP 11   /* (ms) */
#define SYS_TIME 12    /* () -> ms since the start */
#define SYS_YIELD 13   /* () */
#define SYS_CREATE 14  /* (name) -> file, empty; in the build for a whole PC */
#define SYS_REMOVE 15  /* (name); the same */

#define WAIT_NOT 1 /* option: 0 at once if no child has ended */

/* Files that every process has. */
#define STDIN 0  /* the keyboard, or what comes by the serial line */
#define STDOUT 1 /* the screen and the serial line */
#define SCREEN 2 /* the screen alone */

/* Status of a process that was ended: this, plus the vector of the fault. */
#define STATUS_KILLED 128

#define COMMAND_SIZE 120

#endif
