/* What the files of src/gdb share.
 *
 *   gdb.c         clients, packets: framing, acknowledgements, escapes
 *   command.c     what a packet asks for
 *   resume.c      going on, stepping, stopping, and what is said of it
 *   registers.c   which registers there are, the target description, their values
 */
#ifndef RING3_GDB_INTERNAL_H
#define RING3_GDB_INTERNAL_H

#include <stdio.h>

#include "base/timer.h"
#include "cpu/points.h"
#include "cpu/vcpu.h"
#include "gdb/gdb.h"
#include "machine/machine.h"

#define PACKET_MAX 16384u /* characters of a packet's body, in either direction */
#define REGISTERS_MAX 128u
#define REGISTER_BYTES_MAX 16u

/* ---- registers.c ---- */

enum reg_kind {
    REG_GPR, REG_RIP, REG_EFLAGS, REG_SELECTOR, REG_ST, REG_X87_CONTROL, REG_XMM, REG_MXCSR, REG_YMM_HIGH, REG_SEGMENT_BASE,
    REG_KERNEL_GS_BASE, REG_CR, REG_EFER
};

struct reg {
    char name[12];
    enum reg_kind kind;
    uint8_t index; /* enum gpr, enum seg, register number */
    uint8_t bytes;
    const char *type;
    const char *feature;
};

struct registers {
    unsigned count;
    struct reg list[REGISTERS_MAX];
    char *description; /* target.xml; owned */
    size_t description_size;
};

/* Those of a processor as `v` is, in 64-bit or 32-bit form. */
void registers_init(struct registers *registers, const struct vcpu *v, bool wide);
void registers_fini(struct registers *registers);
/* The value, least significant byte first: reg->bytes of them. */
void register_read(const struct vcpu *v, const struct reg *reg, uint8_t bytes[REGISTER_BYTES_MAX]);
/* False: it cannot be changed, or not to that. */
bool register_write(struct vcpu *v, const struct reg *reg, const uint8_t bytes[REGISTER_BYTES_MAX]);

/* ---- gdb.c ---- */

enum framing { FRAMING_NONE, FRAMING_BODY, FRAMING_SUM_HIGH, FRAMING_SUM_LOW };

struct gdb {
    struct gdb_config config;
    struct vm_debugger debugger;
    struct registers registers;
    struct chardev *dev;  /* of the client; NULL: there is none */
    struct timer reaper;  /* destroys it outside its own callback */
    bool gone;
    bool no_ack;          /* neither side acknowledges packets */
    bool running;         /* the client waits for a stop */
    bool found_held;      /* the machine was held when it came, and it has not let it go on */
    bool physical;        /* memory is read and written by physical address */
    bool quiet_steps;     /* interrupts wait during single steps */
    unsigned thread;      /* that `g`, `m` and others are about: index of a processor */
    unsigned resume_thread; /* `Hc`: for `s` and `c` */
    bool resume_all;
    unsigned listed;      /* qfThreadInfo, qsThreadInfo */
    struct points soft;   /* those that were set as software breakpoints */
    struct vm_held last;  /* why it stopped last */
    uint8_t signal;       /* ... for the client */
    enum framing framing;
    bool escaped, too_long;
    uint8_t sum, sum_sent;
    size_t length;
    uint8_t body[PACKET_MAX + 1];
    char *out;            /* what the client has not taken yet */
    size_t out_size, out_done;
    char *last_packet;    /* to be sent again; NULL: none */
    size_t last_size;
};

/* Sends a packet; `size` bytes, escaped as needed. */
void packet_send(struct gdb *gdb, const char *body, size_t size);
void packet_text(struct gdb *gdb, const char *text);
void packet_format(struct gdb *gdb, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The error `number`, as errno has it on most systems. */
void packet_error(struct gdb *gdb, unsigned number);
#define GDB_EFAULT 14u
#define GDB_EINVAL 22u

/* ---- hex.c: digits ---- */
int hex_digit(char c); /* -1: is none */
/* A number that ends where *text then is; false: no digit, or too many. A leading '-' is not taken. */
bool hex_number(const char **text, uint64_t *value);
/* Two digits a byte; false: fewer, or others. */
bool hex_bytes(const char *text, uint8_t *bytes, size_t count);
void hex_print(FILE *out, const uint8_t *bytes, size_t count);

/* ---- command.c ---- */
/* The packet in gdb->body, which ends with a 0. */
void command_execute(struct gdb *gdb);

/* ---- resume.c ---- */
/* vCont, c, s, C, S: `body` as it came. False: it makes no sense. */
bool resume_vcont(struct gdb *gdb, const char *body);
bool resume_plain(struct gdb *gdb, const char *body);
void resume_interrupt(struct gdb *gdb);
/* The machine has been held: struct vm_debugger. */
void resume_held(void *opaque, const struct vm_held *held);
void resume_say_stop(struct gdb *gdb);

#endif
