/* What packets ask for.
 *
 * An unknown packet is answered by an empty one, as the protocol wants it. Everything in a packet is checked before it is
 * used. The machine stands still while a packet is carried out, also when the client has it running. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "gdb/internal.h"
#include "memory/memory.h"
#include "mmu/access.h"
#include "monitor/monitor.h"

#define MEMORY_MAX ((PACKET_MAX - 16) / 2)
#define SSTEP_ENABLE 1u
#define SSTEP_NOIRQ 2u

static struct vcpu *current(struct gdb *gdb)
{
    return vm_debug_vcpu(gdb->config.vm, gdb->thread);
}

static const char *after(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

/* Answers with what `print` writes. */
struct answer {
    char *text;
    size_t size;
    FILE *out;
};

static void answer_begin(struct answer *answer)
{
    answer->out = open_memstream(&answer->text, &answer->size);
    check(answer->out != NULL);
}

static void answer_end(struct gdb *gdb, struct answer *answer)
{
    check(fclose(answer->out) == 0);
    packet_send(gdb, answer->text, answer->size);
    free(answer->text);
}

/* ---- registers ---- */

static void read_all(struct gdb *gdb)
{
    struct answer answer;
    answer_begin(&answer);
    for (unsigned i = 0; i < gdb->registers.count; i++) {
        uint8_t bytes[REGISTER_BYTES_MAX];
        register_read(current(gdb), &gdb->registers.list[i], bytes);
        hex_print(answer.out, bytes, gdb->registers.list[i].bytes);
    }
    answer_end(gdb, &answer);
}

/* Those that cannot be written keep their values. */
static bool write_all(struct gdb *gdb, const char *text)
{
    size_t length = strlen(text);
    for (unsigned i = 0; i < gdb->registers.count && length != 0; i++) {
        const struct reg *reg = &gdb->registers.list[i];
        uint8_t bytes[REGISTER_BYTES_MAX] = {0};
        if (length < 2u * reg->bytes)
            return false;
        if (hex_bytes(text, bytes, reg->bytes)) /* x: keep it */
            register_write(current(gdb), reg, bytes);
        text += 2 * reg->bytes;
        length -= 2u * reg->bytes;
    }
    return true;
}

static void read_one(struct gdb *gdb, const char *text)
{
    uint64_t n;
    uint8_t bytes[REGISTER_BYTES_MAX];
    if (!hex_number(&text, &n) || *text != 0 || n >= gdb->registers.count) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    struct answer answer;
    answer_begin(&answer);
    register_read(current(gdb), &gdb->registers.list[n], bytes);
    hex_print(answer.out, bytes, gdb->registers.list[n].bytes);
    answer_end(gdb, &answer);
}

static bool write_one(struct gdb *gdb, const char *text)
{
    uint64_t n;
    uint8_t bytes[REGISTER_BYTES_MAX] = {0};
    if (!hex_number(&text, &n) || *text != '=' || n >= gdb->registers.count)
        return false;
    const struct reg *reg = &gdb->registers.list[n];
    return hex_bytes(text + 1, bytes, reg->bytes) && text[1 + 2 * reg->bytes] == 0 &&
           register_write(current(gdb), reg, bytes);
}

/* ---- memory ---- */

/* Where `address` lies, and how many of `size` bytes from there on lie together. */
static bool locate(struct gdb *gdb, uint64_t address, size_t size, gpa_t *gpa, size_t *piece)
{
    struct vcpu *v = current(gdb);
    *gpa = address;
    if (!gdb->physical) {
        if (!vcpu_long_mode(v))
            address = (uint32_t)address;
        if (!mmu_peek(v, address, gpa))
            return false;
    }
    size_t in_page = PAGE_SIZE - (size_t)(address & PAGE_OFFSET_MASK);
    *piece = size < in_page ? size : in_page;
    return true;
}

static size_t memory_get(struct gdb *gdb, uint64_t address, uint8_t *to, size_t size)
{
    size_t done = 0, piece;
    gpa_t gpa;
    for (; done < size; done += piece)
        if (!locate(gdb, address + done, size - done, &gpa, &piece) ||
            !memory_read(current(gdb)->memory, gpa, to + done, piece))
            break;
    return done;
}

static bool memory_put(struct gdb *gdb, uint64_t address, const uint8_t *from, size_t size)
{
    size_t piece;
    gpa_t gpa;
    for (size_t done = 0; done < size; done += piece)
        if (!locate(gdb, address + done, size - done, &gpa, &piece) ||
            memory_page(current(gdb)->memory, gpa).kind != PAGE_RAM ||
            !memory_write(current(gdb)->memory, gpa, from + done, piece))
            return false;
    return true;
}

/* "ADDRESS,LENGTH" at *text. */
static bool parse_range(const char **text, uint64_t *address, uint64_t *size)
{
    if (!hex_number(text, address) || **text != ',')
        return false;
    (*text)++;
    return hex_number(text, size);
}

static void read_memory(struct gdb *gdb, const char *text, bool binary)
{
    uint64_t address, size;
    if (!parse_range(&text, &address, &size) || *text != 0) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    size = size < MEMORY_MAX ? size : MEMORY_MAX;
    uint8_t *bytes = malloc(size + 1);
    check(bytes != NULL);
    size_t got = memory_get(gdb, address, bytes, size);
    if (got == 0 && size != 0) {
        packet_error(gdb, GDB_EFAULT);
    } else {
        struct answer answer;
        answer_begin(&answer);
        if (binary)
            fputc('b', answer.out), fwrite(bytes, 1, got, answer.out);
        else
            hex_print(answer.out, bytes, got);
        answer_end(gdb, &answer);
    }
    free(bytes);
}

/* The data begins behind a colon; binary data was unescaped with the packet. */
static void write_memory(struct gdb *gdb, const char *text, bool binary)
{
    uint64_t address, size;
    if (!parse_range(&text, &address, &size) || *text != ':') {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    size_t left = gdb->length - (size_t)(++text - (const char *)gdb->body);
    if (size > PACKET_MAX || left != (binary ? size : 2 * size)) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    uint8_t *bytes = malloc(size + 1);
    check(bytes != NULL);
    bool good = true;
    if (binary)
        memcpy(bytes, text, size);
    else
        good = hex_bytes(text, bytes, size);
    if (good && memory_put(gdb, address, bytes, size))
        packet_text(gdb, "OK");
    else
        packet_error(gdb, good ? GDB_EFAULT : GDB_EINVAL);
    free(bytes);
}

/* ---- points ---- */

/* Z or z: TYPE,ADDRESS,KIND and perhaps conditions, which we do not offer to evaluate. */
static void change_point(struct gdb *gdb, const char *text, bool add)
{
    static const enum point_kind kinds[] = {POINT_EXECUTE, POINT_EXECUTE, POINT_WRITE, POINT_READ, POINT_ACCESS};
    struct points *points = vm_debug_points(gdb->config.vm);
    struct point point;
    unsigned type = (unsigned)(text[0] - '0');
    if (type >= ARRAY_LEN(kinds)) {
        packet_text(gdb, "");
        return;
    }
    text += text[1] == ',' ? 2 : 1;
    if (!parse_range(&text, &point.gva, &point.size) || *text != 0) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    point.kind = kinds[type];
    if (!vcpu_long_mode(current(gdb)) && gdb->registers.list[0].bytes == 4)
        point.gva = (uint32_t)point.gva;
    if (type == 0 && add)
        points_add(&gdb->soft, &point);
    else if (type <= 1)
        points_remove(&gdb->soft, &point);
    bool good = add ? points_add(points, &point) : points_remove(points, &point);
    if (good || !add) /* taking one away twice does no harm */
        packet_text(gdb, "OK");
    else
        packet_error(gdb, GDB_EINVAL);
}

/* ---- threads ---- */

static bool parse_thread(struct gdb *gdb, const char *text, int *index)
{
    uint64_t n;
    *index = -1; /* all, or any */
    if (strcmp(text, "-1") == 0 || strcmp(text, "0") == 0)
        return true;
    if (!hex_number(&text, &n) || *text != 0 || n == 0 || n > vm_vcpu_count(gdb->config.vm))
        return false;
    *index = (int)n - 1;
    return true;
}

static bool choose_thread(struct gdb *gdb, const char *text)
{
    int index;
    if (!parse_thread(gdb, text + 1, &index))
        return false;
    if (text[0] == 'g' && index >= 0)
        gdb->thread = (unsigned)index;
    else if (text[0] == 'c' && index >= 0)
        gdb->resume_thread = (unsigned)index;
    return text[0] == 'g' || text[0] == 'c';
}

static void list_threads(struct gdb *gdb, bool from_start)
{
    struct answer answer;
    if (from_start)
        gdb->listed = 0;
    unsigned count = vm_vcpu_count(gdb->config.vm);
    if (gdb->listed == count) {
        packet_text(gdb, "l");
        return;
    }
    answer_begin(&answer);
    for (; gdb->listed < count; gdb->listed++)
        fprintf(answer.out, "%c%x", gdb->listed == 0 ? 'm' : ',', gdb->listed + 1);
    answer_end(gdb, &answer);
}

static void describe_thread(struct gdb *gdb, const char *text)
{
    static const char *const activities[] = {
        [ACTIVITY_RUNNING] = "running", [ACTIVITY_HLT] = "halted", [ACTIVITY_SHUTDOWN] = "shut down",
        [ACTIVITY_WAIT_SIPI] = "waits for a startup IPI"};
    int index;
    if (!parse_thread(gdb, text, &index) || index < 0) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    char words[64];
    const struct vcpu *v = vm_vcpu(gdb->config.vm, (unsigned)index);
    int length = snprintf(words, sizeof words, "CPU#%d [%s]", index, activities[v->activity]);
    struct answer answer;
    answer_begin(&answer);
    hex_print(answer.out, (const uint8_t *)words, (size_t)length);
    answer_end(gdb, &answer);
}

/* ---- queries ---- */

/* Part "OFFSET,LENGTH" of a document. */
static void send_part(struct gdb *gdb, const char *text, const char *document, size_t size)
{
    uint64_t offset, length;
    if (!parse_range(&text, &offset, &length) || *text != 0 || offset > size) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    uint64_t left = size - offset;
    length = length < PACKET_MAX / 2 ? length : PACKET_MAX / 2; /* each character may be escaped */
    bool more = length < left;
    struct answer answer;
    answer_begin(&answer);
    fputc(more ? 'm' : 'l', answer.out);
    fwrite(document + offset, 1, more ? length : left, answer.out);
    answer_end(gdb, &answer);
}

/* gdb's `monitor`: what the command says is printed by the client. */
static void run_monitor(struct gdb *gdb, const char *text)
{
    char line[MONITOR_LINE_MAX + 2] = {0};
    size_t length = strlen(text) / 2;
    if (gdb->config.monitor == NULL || length > MONITOR_LINE_MAX || !hex_bytes(text, (uint8_t *)line, length)) {
        packet_error(gdb, GDB_EINVAL);
        return;
    }
    char *said = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&said, &size);
    check(out != NULL);
    monitor_execute(gdb->config.monitor, line, out);
    check(fclose(out) == 0);
    for (size_t done = 0; done < size;) {
        size_t piece = size - done < MEMORY_MAX ? size - done : MEMORY_MAX;
        struct answer answer;
        answer_begin(&answer);
        fputc('O', answer.out);
        hex_print(answer.out, (const uint8_t *)said + done, piece);
        answer_end(gdb, &answer);
        done += piece;
    }
    free(said);
    packet_text(gdb, "OK");
}

/* What QEMU's stub has beyond the protocol, and people have in their scripts. */
static bool query_qemu(struct gdb *gdb, const char *body)
{
    const char *value;
    uint64_t bits;
    if (strcmp(body, "qqemu.sstepbits") == 0) {
        packet_format(gdb, "ENABLE=%x,NOIRQ=%x", SSTEP_ENABLE, SSTEP_NOIRQ);
    } else if (strcmp(body, "qqemu.sstep") == 0) {
        packet_format(gdb, "0x%x", SSTEP_ENABLE | (gdb->quiet_steps ? SSTEP_NOIRQ : 0));
    } else if ((value = after(body, "Qqemu.sstep=")) != NULL) {
        value = after(value, "0x") != NULL ? after(value, "0x") : value;
        bool good = hex_number(&value, &bits) && *value == 0 && (bits & SSTEP_ENABLE);
        if (good)
            gdb->quiet_steps = bits & SSTEP_NOIRQ;
        packet_text(gdb, good ? "OK" : "E16");
    } else if (strcmp(body, "qqemu.PhyMemMode") == 0) {
        packet_text(gdb, gdb->physical ? "1" : "0");
    } else if ((value = after(body, "Qqemu.PhyMemMode:")) != NULL) {
        bool good = (value[0] == '0' || value[0] == '1') && value[1] == 0;
        if (good)
            gdb->physical = value[0] == '1';
        packet_text(gdb, good ? "OK" : "E16");
    } else {
        return false;
    }
    return true;
}

static void query(struct gdb *gdb, const char *body)
{
    const char *rest;
    if (after(body, "qSupported") != NULL) {
        packet_format(gdb, "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;"
                           "binary-upload+", PACKET_MAX);
    } else if (strcmp(body, "QStartNoAckMode") == 0) {
        packet_text(gdb, "OK");
        gdb->no_ack = true;
    } else if ((rest = after(body, "qXfer:features:read:target.xml:")) != NULL) {
        send_part(gdb, rest, gdb->registers.description, gdb->registers.description_size);
    } else if (after(body, "qXfer:features:read:") != NULL) {
        packet_text(gdb, "E00"); /* there is no such document */
    } else if (strcmp(body, "qfThreadInfo") == 0 || strcmp(body, "qsThreadInfo") == 0) {
        list_threads(gdb, body[1] == 'f');
    } else if ((rest = after(body, "qThreadExtraInfo,")) != NULL) {
        describe_thread(gdb, rest);
    } else if (strcmp(body, "qC") == 0) {
        packet_format(gdb, "QC%x", gdb->thread + 1);
    } else if (after(body, "qAttached") != NULL) {
        packet_text(gdb, "1");
    } else if ((rest = after(body, "qRcmd,")) != NULL) {
        run_monitor(gdb, rest);
    } else if (!query_qemu(gdb, body)) {
        packet_text(gdb, "");
    }
}

/* ---- the rest ---- */

static void detach(struct gdb *gdb)
{
    packet_text(gdb, "OK");
    points_clear(vm_debug_points(gdb->config.vm));
    points_clear(&gdb->soft);
    gdb->found_held = false;
    gdb->running = true; /* it could come back by any packet that looks at the machine */
    vm_go(gdb->config.vm);
}

static void verbose(struct gdb *gdb, const char *body)
{
    const char *rest = after(body, "vCont");
    if (strcmp(body, "vCont?") == 0) {
        packet_text(gdb, "vCont;c;C;s;S");
    } else if (rest != NULL) {
        if (!resume_vcont(gdb, rest))
            packet_error(gdb, GDB_EINVAL);
    } else if (after(body, "vKill") != NULL) {
        packet_text(gdb, "OK");
        vm_stop(gdb->config.vm, VM_STOP_QUIT);
    } else {
        packet_text(gdb, "");
    }
}

static void say(struct gdb *gdb, bool good)
{
    if (good)
        packet_text(gdb, "OK");
    else
        packet_error(gdb, GDB_EINVAL);
}

static void dispatch(struct gdb *gdb, const char *body)
{
    int index;
    switch (*body) {
    case '?': resume_say_stop(gdb); break;
    case 'g': read_all(gdb); break;
    case 'G': say(gdb, write_all(gdb, body + 1)); break;
    case 'p': read_one(gdb, body + 1); break;
    case 'P': say(gdb, write_one(gdb, body + 1)); break;
    case 'm': read_memory(gdb, body + 1, false); break;
    case 'x': read_memory(gdb, body + 1, true); break;
    case 'M': write_memory(gdb, body + 1, false); break;
    case 'X': write_memory(gdb, body + 1, true); break;
    case 'Z': change_point(gdb, body + 1, true); break;
    case 'z': change_point(gdb, body + 1, false); break;
    case 'H': say(gdb, choose_thread(gdb, body + 1)); break;
    case 'T': say(gdb, parse_thread(gdb, body + 1, &index) && index >= 0); break;
    case 'c':
    case 's':
    case 'C':
    case 'S':
        if (!resume_plain(gdb, body))
            packet_error(gdb, GDB_EINVAL);
        break;
    case 'v': verbose(gdb, body); break;
    case 'q':
    case 'Q': query(gdb, body); break;
    case 'D': detach(gdb); break;
    case 'k': vm_stop(gdb->config.vm, VM_STOP_QUIT); break;
    default: packet_text(gdb, "");
    }
}

void command_execute(struct gdb *gdb)
{
    struct vm *vm = gdb->config.vm;
    vm_pause(vm);
    dispatch(gdb, (const char *)gdb->body);
    vm_resume(vm);
}
