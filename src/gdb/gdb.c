/* Clients and packets.
 *
 * A packet is $BODY#SUM, where SUM is that of the body's bytes, and '}' in the body escapes the byte behind it, which is sent
 * with bit 5 flipped. Each side acknowledges with + or asks again with -, until QStartNoAckMode. Between packets the
 * client may send a byte 3: stop.
 *
 * Answers leave as the far end takes them; until they have left, no further input is taken, but for what is there already. So
 * a client that sends without reading holds up nobody but itself. A client that has gone is destroyed by a timer of the loop:
 * it may be in the middle of its own callback. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "cpu/cpuid.h"
#include "gdb/internal.h"
#include "host/clock.h"
#include "host/loop.h"

#define INPUT_PIECE 4096u
#define INTERRUPT 0x03
#define ESCAPE '}'
#define ESCAPE_FLIP 0x20

/* ---- output ---- */

static void flush(struct gdb *gdb)
{
    if (gdb->out == NULL || gdb->dev == NULL)
        return;
    gdb->out_done += chardev_write(gdb->dev, (const uint8_t *)gdb->out + gdb->out_done, gdb->out_size - gdb->out_done);
    if (gdb->out_done < gdb->out_size)
        return;
    free(gdb->out);
    gdb->out = NULL;
    gdb->out_size = gdb->out_done = 0;
}

static void send_raw(struct gdb *gdb, const char *bytes, size_t size)
{
    if (gdb->dev == NULL || gdb->gone)
        return;
    char *joined = realloc(gdb->out, gdb->out_size + size);
    check(joined != NULL);
    memcpy(joined + gdb->out_size, bytes, size);
    gdb->out = joined;
    gdb->out_size += size;
    flush(gdb);
}

void packet_send(struct gdb *gdb, const char *body, size_t size)
{
    char *packet = malloc(2 * size + 4);
    check(packet != NULL);
    size_t n = 0;
    uint8_t sum = 0;
    packet[n++] = '$';
    for (size_t i = 0; i < size; i++) {
        char c = body[i];
        if (c == '$' || c == '#' || c == ESCAPE || c == '*') {
            packet[n++] = ESCAPE;
            sum = (uint8_t)(sum + ESCAPE);
            c = (char)(c ^ ESCAPE_FLIP);
        }
        packet[n++] = c;
        sum = (uint8_t)(sum + (uint8_t)c);
    }
    packet[n++] = '#';
    packet[n++] = "0123456789abcdef"[sum >> 4];
    packet[n++] = "0123456789abcdef"[sum & 15];
    send_raw(gdb, packet, n);
    free(gdb->last_packet);
    gdb->last_packet = packet;
    gdb->last_size = n;
}

void packet_text(struct gdb *gdb, const char *text)
{
    packet_send(gdb, text, strlen(text));
}

void packet_format(struct gdb *gdb, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    packet_text(gdb, text);
}

void packet_error(struct gdb *gdb, unsigned number)
{
    packet_format(gdb, "E%02x", number);
}

/* ---- input ---- */

static void packet_end(struct gdb *gdb)
{
    bool good = gdb->sum == gdb->sum_sent && !gdb->escaped;
    if (!gdb->no_ack)
        send_raw(gdb, good ? "+" : "-", 1);
    if (!good)
        return;
    gdb->body[gdb->length] = 0;
    if (gdb->too_long)
        packet_error(gdb, GDB_EINVAL);
    else
        command_execute(gdb);
}

static void take_body(struct gdb *gdb, uint8_t byte)
{
    if (byte == '#') {
        gdb->framing = FRAMING_SUM_HIGH;
        return;
    }
    if (byte == '$') { /* the one before was cut off */
        gdb->length = 0;
        gdb->sum = 0;
        gdb->escaped = gdb->too_long = false;
        return;
    }
    gdb->sum = (uint8_t)(gdb->sum + byte);
    if (byte == ESCAPE && !gdb->escaped) {
        gdb->escaped = true;
        return;
    }
    if (gdb->escaped)
        byte ^= ESCAPE_FLIP;
    gdb->escaped = false;
    if (gdb->length < PACKET_MAX)
        gdb->body[gdb->length++] = byte;
    else
        gdb->too_long = true;
}

static void take_byte(struct gdb *gdb, uint8_t byte)
{
    int digit = hex_digit((char)byte);
    switch (gdb->framing) {
    case FRAMING_NONE:
        if (byte == '$') {
            gdb->framing = FRAMING_BODY;
            gdb->length = 0;
            gdb->sum = 0;
            gdb->escaped = gdb->too_long = false;
        } else if (byte == INTERRUPT) {
            resume_interrupt(gdb);
        } else if (byte == '-' && gdb->last_packet != NULL && !gdb->no_ack) {
            send_raw(gdb, gdb->last_packet, gdb->last_size);
        }
        break;
    case FRAMING_BODY:
        take_body(gdb, byte);
        break;
    case FRAMING_SUM_HIGH:
        gdb->sum_sent = (uint8_t)((digit & 15) << 4);
        gdb->framing = digit < 0 ? FRAMING_NONE : FRAMING_SUM_LOW;
        break;
    case FRAMING_SUM_LOW:
        gdb->sum_sent = (uint8_t)(gdb->sum_sent | (digit & 15));
        gdb->framing = FRAMING_NONE;
        if (digit >= 0)
            packet_end(gdb);
        break;
    }
}

/* ---- the chardev's frontend ---- */

static size_t on_can_receive(void *opaque)
{
    struct gdb *gdb = opaque;
    return gdb->out == NULL && !gdb->gone ? INPUT_PIECE : 0;
}

static void on_receive(void *opaque, const uint8_t *bytes, size_t n)
{
    struct gdb *gdb = opaque;
    for (size_t i = 0; i < n && !gdb->gone; i++)
        take_byte(gdb, bytes[i]);
}

static void on_writable(void *opaque)
{
    struct gdb *gdb = opaque;
    flush(gdb);
    if (gdb->out == NULL)
        chardev_accept_input(gdb->dev);
}

/* The client leaves: its points go, and the machine goes on, unless it was held when the client came and still is. */
static void leave(struct gdb *gdb)
{
    if (gdb->gone)
        return;
    gdb->gone = true;
    vm_debug_attach(gdb->config.vm, NULL);
    if (!gdb->found_held)
        vm_go(gdb->config.vm);
    timer_arm(&gdb->reaper, clock_monotonic_ns());
}

static void on_carrier(void *opaque, bool present)
{
    if (!present)
        leave(opaque);
}

static void reap(void *opaque)
{
    struct gdb *gdb = opaque;
    chardev_disconnect(gdb->dev);
    chardev_destroy(gdb->dev);
    gdb->dev = NULL;
    free(gdb->out);
    gdb->out = NULL;
    gdb->out_size = gdb->out_done = 0;
}

/* ---- clients ---- */

static bool is_wide(const struct gdb *gdb)
{
    const struct vcpu *v = vm_vcpu(gdb->config.vm, 0);
    if (gdb->config.arch != GDB_ARCH_AUTO)
        return gdb->config.arch == GDB_ARCH_X86_64;
    return cpu_has(v, CPU_LM) && (vcpu_long_mode(v) || !(v->cr0 & CR0_PG));
}

void gdb_accept(void *opaque, struct chardev *dev)
{
    struct gdb *gdb = opaque;
    struct vm *vm = gdb->config.vm;
    if (gdb->dev != NULL) {
        chardev_destroy(dev);
        return;
    }
    gdb->dev = dev;
    gdb->gone = gdb->no_ack = gdb->running = gdb->physical = false;
    gdb->quiet_steps = gdb->resume_all = true;
    gdb->thread = gdb->resume_thread = 0;
    gdb->framing = FRAMING_NONE;
    points_clear(&gdb->soft);
    free(gdb->last_packet);
    gdb->last_packet = NULL;
    gdb->found_held = vm_is_held(vm);
    vm_hold(vm);
    registers_fini(&gdb->registers);
    registers_init(&gdb->registers, vm_vcpu(vm, 0), is_wide(gdb));
    gdb->last = (struct vm_held){.by = VM_HELD_BY_USER};
    gdb->signal = 5;
    vm_debug_attach(vm, &gdb->debugger);
    const struct chardev_frontend frontend = {.can_receive = on_can_receive,
                                              .receive = on_receive,
                                              .writable = on_writable,
                                              .carrier = on_carrier,
                                              .opaque = gdb};
    chardev_connect(dev, &frontend);
}

struct gdb *gdb_create(const struct gdb_config *config)
{
    struct gdb *gdb = calloc(1, sizeof *gdb);
    check(gdb != NULL);
    gdb->config = *config;
    gdb->debugger = (struct vm_debugger){.held = resume_held, .opaque = gdb};
    timer_init(&gdb->reaper, loop_timers(config->loop), reap, gdb);
    return gdb;
}

void gdb_destroy(struct gdb *gdb, int status)
{
    if (gdb == NULL)
        return;
    timer_disarm(&gdb->reaper);
    if (gdb->dev != NULL) {
        if (!gdb->gone) {
            packet_format(gdb, "W%02x", (unsigned)status & 0xff);
            vm_debug_attach(gdb->config.vm, NULL);
        }
        reap(gdb);
    }
    registers_fini(&gdb->registers);
    free(gdb->last_packet);
    free(gdb);
}
