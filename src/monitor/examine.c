/* Memory, as a debugger shows it: x, xp, print, gva2gpa.
 *
 * Only RAM and ROM are read, through tables without accessed bits being set: looking changes nothing. Device memory is
 * not read, because that could. Formats are QEMU's: /COUNT, a letter for the form (x d u o c i s), a letter for the size
 * (b h w g); a string ends at its zero byte, or after STRING_MAX bytes. */
#include <Zydis/Zydis.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "machine/machine.h"
#include "memory/memory.h"
#include "mmu/access.h"
#include "monitor/internal.h"

#define COUNT_MAX 65536u
#define STRING_MAX 256u

struct format {
    unsigned count;
    char form;     /* x d u o c i s */
    unsigned size; /* bytes */
};

static bool parse_format(struct call *call, struct format *format)
{
    const char *at = call->format != NULL ? call->format : "";
    *format = (struct format){.count = 1, .form = 'x'};
    size_t length = strcspn(at, " \t");
    char copy[24];
    if (length >= sizeof copy) {
        call_fail(call, "'/%.40s' is not a format", at);
        return false;
    }
    memcpy(copy, at, length);
    copy[length] = 0;
    char *end = copy;
    if (isdigit((unsigned char)*copy)) {
        unsigned long count = strtoul(copy, &end, 10);
        if (count == 0 || count > COUNT_MAX) {
            call_fail(call, "a count is from 1 to %u", COUNT_MAX);
            return false;
        }
        format->count = (unsigned)count;
    }
    for (; *end != 0; end++) {
        if (strchr("xduocis", *end) != NULL) {
            format->form = *end;
        } else if (strchr("bhwg", *end) != NULL) {
            format->size = *end == 'b' ? 1 : *end == 'h' ? 2 : *end == 'w' ? 4 : 8;
        } else {
            call_fail(call, "'/%s' is not a format: a count, one of x d u o c i s, one of b h w g", copy);
            return false;
        }
    }
    if (format->size == 0)
        format->size = format->form == 'c' ? 1 : 4;
    return true;
}

/* ---- reading ---- */

static unsigned address_bits(const struct vcpu *v, bool physical)
{
    return physical || vcpu_long_mode(v) ? 64 : 32;
}

/* How many of `size` bytes could be read. */
static unsigned read_bytes(const struct vcpu *v, uint64_t address, bool physical, uint8_t *to, unsigned size)
{
    unsigned done = 0;
    while (done < size) {
        uint64_t at = address + done;
        if (address_bits(v, physical) == 32)
            at = (uint32_t)at;
        gpa_t gpa = at;
        unsigned piece = PAGE_SIZE - (unsigned)(at & PAGE_OFFSET_MASK);
        if (piece > size - done)
            piece = size - done;
        if (!physical && !mmu_peek((struct vcpu *)v, at, &gpa))
            break;
        if (!memory_read(v->memory, gpa, to + done, piece))
            break;
        done += piece;
    }
    return done;
}

static void cannot_read(const struct vcpu *v, uint64_t address, bool physical, FILE *out)
{
    gpa_t gpa = address;
    if (!physical && !mmu_peek((struct vcpu *)v, address, &gpa))
        fprintf(out, "0x%016" PRIx64 ": not mapped\n", address);
    else if (memory_page(v->memory, gpa).kind == PAGE_MMIO)
        fprintf(out, "0x%016" PRIx64 ": device memory, which is not read\n", address);
    else
        fprintf(out, "0x%016" PRIx64 ": no memory there\n", address);
}

/* ---- showing ---- */

static void print_char(FILE *out, uint8_t c)
{
    if (c == '\\' || c == '"' || c == '\'')
        fprintf(out, "\\%c", c);
    else if (c >= 0x20 && c < 0x7f)
        fputc(c, out);
    else
        fprintf(out, "\\x%02x", c);
}

static void print_value(FILE *out, const struct format *format, uint64_t value)
{
    unsigned bits = format->size * 8;
    int64_t with_sign = (int64_t)(value << (64 - bits)) >> (64 - bits);
    switch (format->form) {
    case 'd': fprintf(out, "%*" PRId64, (int)bits / 4 + (bits == 8 ? 2 : 3), with_sign); break;
    case 'u': fprintf(out, "%*" PRIu64, (int)bits / 4 + (bits == 8 ? 1 : 2), value); break;
    case 'o': fprintf(out, "0%0*" PRIo64, (int)(bits + 2) / 3, value); break;
    case 'c':
        fputc('\'', out);
        print_char(out, (uint8_t)value);
        fputc('\'', out);
        break;
    default: fprintf(out, "0x%0*" PRIx64, (int)bits / 4, value);
    }
}

static void dump_values(struct call *call, const struct format *format, uint64_t address, bool physical)
{
    unsigned in_line = format->form == 'c' ? 8 : 16 / format->size;
    for (unsigned i = 0; i < format->count; i++, address += format->size) {
        uint64_t value = 0;
        bool ok = read_bytes(call->v, address, physical, (uint8_t *)&value, format->size) == format->size;
        if (i % in_line == 0 && ok)
            fprintf(call->out, "0x%016" PRIx64 ":", address);
        if (!ok) {
            if (i % in_line != 0)
                fputc('\n', call->out);
            cannot_read(call->v, address, physical, call->out);
            return;
        }
        fputc(' ', call->out);
        print_value(call->out, format, value);
        if (i % in_line == in_line - 1 || i + 1 == format->count)
            fputc('\n', call->out);
    }
}

static void dump_strings(struct call *call, const struct format *format, uint64_t address, bool physical)
{
    for (unsigned i = 0; i < format->count; i++) {
        uint8_t bytes[STRING_MAX];
        unsigned n = sizeof bytes, length = 0;
        while (n > 0 && read_bytes(call->v, address, physical, bytes, n) != n)
            n--;
        if (n == 0) {
            cannot_read(call->v, address, physical, call->out);
            return;
        }
        fprintf(call->out, "0x%016" PRIx64 ": \"", address);
        while (length < n && bytes[length] != 0)
            print_char(call->out, bytes[length++]);
        fputs(length == n ? "\"...\n" : "\"\n", call->out);
        address += length == n ? length : length + 1;
    }
}

static ZydisMachineMode machine_mode(const struct vcpu *v)
{
    const struct segment *cs = &v->seg[SEG_CS];
    if (vcpu_long_mode(v) && (cs->attr & SEG_ATTR_L))
        return ZYDIS_MACHINE_MODE_LONG_64;
    if (cs->attr & SEG_ATTR_DB)
        return ZYDIS_MACHINE_MODE_LEGACY_32;
    return vcpu_protected(v) ? ZYDIS_MACHINE_MODE_LEGACY_16 : ZYDIS_MACHINE_MODE_REAL_16;
}

static void dump_instructions(struct call *call, const struct format *format, uint64_t address, bool physical)
{
    for (unsigned i = 0; i < format->count; i++) {
        uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
        unsigned n = sizeof bytes, length = 1;
        while (n > 0 && read_bytes(call->v, address, physical, bytes, n) != n)
            n--;
        if (n == 0) {
            cannot_read(call->v, address, physical, call->out);
            return;
        }
        ZydisDisassembledInstruction insn;
        bool valid = ZYAN_SUCCESS(ZydisDisassembleIntel(machine_mode(call->v), address, bytes, n, &insn));
        if (valid)
            length = insn.info.length;
        fprintf(call->out, "0x%016" PRIx64 ":  ", address);
        for (unsigned b = 0; b < length; b++)
            fprintf(call->out, "%02x ", bytes[b]);
        fprintf(call->out, "%*s%s\n", length < 10 ? (int)(10 - length) * 3 : 1, "", valid ? insn.text : "(bad)");
        address += length;
    }
}

static void dump(struct call *call, bool physical)
{
    struct format format;
    uint64_t address;
    struct error err;
    if (!parse_format(call, &format))
        return;
    if (!expression_evaluate(call->v, call->rest, &address, &err)) {
        call_fail(call, "%s", err.message);
        return;
    }
    if (format.form == 'i')
        dump_instructions(call, &format, address, physical);
    else if (format.form == 's')
        dump_strings(call, &format, address, physical);
    else
        dump_values(call, &format, address, physical);
}

void call_x(struct call *call)
{
    dump(call, false);
}

void call_xp(struct call *call)
{
    dump(call, true);
}

void call_print(struct call *call)
{
    struct format format;
    uint64_t value;
    struct error err;
    bool sized = call->format != NULL && strpbrk(call->format, "bhwg") != NULL;
    if (!parse_format(call, &format))
        return;
    if (!expression_evaluate(call->v, call->rest, &value, &err)) {
        call_fail(call, "%s", err.message);
        return;
    }
    if (format.form == 'i' || format.form == 's' || format.count != 1) {
        call_fail(call, "print takes one of x d u o c");
        return;
    }
    if (!sized) { /* all of it, without zeros in front */
        fprintf(call->out, format.form == 'd' ? "%" PRId64 "\n" : format.form == 'u' ? "%" PRIu64 "\n"
                : format.form == 'o'          ? "%#" PRIo64 "\n" : "%#" PRIx64 "\n", value);
        return;
    }
    if (format.size < 8)
        value &= (1ull << format.size * 8) - 1;
    print_value(call->out, &format, value);
    fputc('\n', call->out);
}

void call_gva2gpa(struct call *call)
{
    uint64_t gva;
    gpa_t gpa;
    struct error err;
    if (!expression_evaluate(call->v, call->rest, &gva, &err)) {
        call_fail(call, "%s", err.message);
        return;
    }
    if (address_bits(call->v, false) == 32)
        gva = (uint32_t)gva;
    if (mmu_peek((struct vcpu *)call->v, gva, &gpa))
        fprintf(call->out, "gpa: %#" PRIx64 "\n", gpa);
    else
        fputs("not mapped\n", call->out);
}
