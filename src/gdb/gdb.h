/* A server for GDB's remote serial protocol: gdb, or whoever speaks it, debugs the guest from outside.
 *
 * Each processor is a thread, numbered from 1. A client that comes holds the machine (vm_hold()); breakpoints and watchpoints
 * are points (cpu/points.h), so the guest's memory and debug registers are untouched, and hardware and software breakpoints
 * are the same. docs/gdb.md has what users see.
 *
 * Threads: everything under the device lock, on the thread that runs the machine's loop. What a client sends is checked: it
 * can do to the guest what it likes, and nothing to the monitor.
 *
 * Source: "Debugging with GDB", appendices E (Remote Serial Protocol) and G (Target Descriptions). */
#ifndef RING3_GDB_GDB_H
#define RING3_GDB_GDB_H

#include "base/error.h"
#include "host/chardev_create.h"

struct gdb;
struct vm;
struct monitor;

/* Which registers the client is told of. By itself: those of a 64-bit processor, unless the machine's is none or runs
 * paged 32-bit code when the client comes. */
enum gdb_arch { GDB_ARCH_AUTO, GDB_ARCH_I386, GDB_ARCH_X86_64 };

struct gdb_config {
    struct vm *vm;
    struct loop *loop;
    struct monitor *monitor; /* for gdb's `monitor` command; NULL: there is none */
    enum gdb_arch arch;
};

struct gdb *gdb_create(const struct gdb_config *config);
/* Before the machine. A client is told that the program has ended with `status`. NULL is allowed. */
void gdb_destroy(struct gdb *gdb, int status);

/* A client on `dev`, which is `opaque`'s (a struct gdb) from now on; while there is one, others are turned away. The shape
 * that chardev_create_each() wants. */
void gdb_accept(void *opaque, struct chardev *dev);

#endif
