/* Which registers a client is told of, and their values.
 *
 * The description is made from a table, which is made for the processor: names, types and features are those that gdb knows
 * ("Debugging with GDB", G.5.2), so that it finds its program counter, its unwinder and its vector types. Control registers
 * are in a feature of our own; gdb shows them and finds the meaning of their bits in the description.
 *
 * The order of the table is that of the numbers and of the packet `g`.
 *
 * Segment and control registers cannot be written: a selector without its descriptor, or a mode without all that it needs,
 * would be a state that no processor can be in. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "cpu/cpuid.h"
#include "gdb/internal.h"

#define CORE "org.gnu.gdb.i386.core"
#define SSE "org.gnu.gdb.i386.sse"
#define AVX "org.gnu.gdb.i386.avx"
#define SEGMENTS "org.gnu.gdb.i386.segments"
#define SYSTEM "org.ring3.system"

/* ---- the table ---- */

static void add(struct registers *r, const char *feature, const char *name, enum reg_kind kind, unsigned index, unsigned bytes,
                const char *type)
{
    check(r->count < REGISTERS_MAX && bytes <= REGISTER_BYTES_MAX);
    struct reg *reg = &r->list[r->count++];
    *reg = (struct reg){.kind = kind, .index = (uint8_t)index, .bytes = (uint8_t)bytes, .type = type, .feature = feature};
    snprintf(reg->name, sizeof reg->name, "%s", name);
}

static void add_numbered(struct registers *r, const char *feature, const char *prefix, const char *suffix, unsigned count,
                         enum reg_kind kind, unsigned bytes, const char *type)
{
    for (unsigned i = 0; i < count; i++) {
        char name[12];
        snprintf(name, sizeof name, "%s%u%s", prefix, i, suffix);
        add(r, feature, name, kind, i, bytes, type);
    }
}

static void add_core(struct registers *r, bool wide)
{
    static const struct {
        const char *wide, *narrow;
        uint8_t wide_gpr, narrow_gpr;
    } order[8] = {
        {"rax", "eax", RAX, RAX}, {"rbx", "ecx", RBX, RCX}, {"rcx", "edx", RCX, RDX}, {"rdx", "ebx", RDX, RBX},
        {"rsi", "esp", RSI, RSP}, {"rdi", "ebp", RDI, RBP}, {"rbp", "esi", RBP, RSI}, {"rsp", "edi", RSP, RDI},
    };
    static const struct {
        const char *name;
        enum seg seg;
    } selectors[] = {{"cs", SEG_CS}, {"ss", SEG_SS}, {"ds", SEG_DS}, {"es", SEG_ES}, {"fs", SEG_FS}, {"gs", SEG_GS}};
    static const char *const x87[] = {"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};
    for (unsigned i = 0; i < ARRAY_LEN(order); i++) {
        unsigned gpr = wide ? order[i].wide_gpr : order[i].narrow_gpr;
        const char *type = gpr == RSP || gpr == RBP ? "data_ptr" : wide ? "int64" : "int32";
        add(r, CORE, wide ? order[i].wide : order[i].narrow, REG_GPR, gpr, wide ? 8 : 4, type);
    }
    for (unsigned i = R8; wide && i <= R15; i++) {
        char name[12];
        snprintf(name, sizeof name, "r%u", i);
        add(r, CORE, name, REG_GPR, i, 8, "int64");
    }
    add(r, CORE, wide ? "rip" : "eip", REG_RIP, 0, wide ? 8 : 4, "code_ptr");
    add(r, CORE, "eflags", REG_EFLAGS, 0, 4, "i386_eflags");
    for (unsigned i = 0; i < ARRAY_LEN(selectors); i++)
        add(r, CORE, selectors[i].name, REG_SELECTOR, selectors[i].seg, 4, "int32");
    add_numbered(r, CORE, "st", "", 8, REG_ST, 10, "i387_ext");
    for (unsigned i = 0; i < ARRAY_LEN(x87); i++)
        add(r, CORE, x87[i], REG_X87_CONTROL, i, 4, "int");
}

static void add_system(struct registers *r, bool wide)
{
    unsigned bytes = wide ? 8 : 4;
    const char *type = wide ? "int64" : "int32";
    static const uint8_t numbers[] = {0, 2, 3, 4};
    for (unsigned i = 0; i < ARRAY_LEN(numbers); i++) {
        char name[12];
        snprintf(name, sizeof name, "cr%u", numbers[i]);
        const char *flags = numbers[i] == 0 ? "ring3_cr0" : numbers[i] == 4 ? "ring3_cr4" : type;
        add(r, SYSTEM, name, REG_CR, numbers[i], bytes, flags);
    }
    if (wide) {
        add(r, SYSTEM, "efer", REG_EFER, 0, 8, "ring3_efer");
        add(r, SYSTEM, "k_gs_base", REG_KERNEL_GS_BASE, 0, 8, "int64");
    }
}

/* ---- the description ---- */

struct bit {
    const char *name;
    unsigned bit;
};

static void print_flags(FILE *out, const char *id, unsigned bytes, const struct bit *bits, size_t count)
{
    fprintf(out, "<flags id=\"%s\" size=\"%u\">", id, bytes);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", bits[i].name, bits[i].bit, bits[i].bit);
    fputs("</flags>\n", out);
}

static void print_types(FILE *out, const char *feature, bool wide)
{
    static const struct bit eflags[] = {
        {"CF", 0}, {"PF", 2}, {"AF", 4}, {"ZF", 6}, {"SF", 7}, {"TF", 8}, {"IF", 9}, {"DF", 10},
        {"OF", 11}, {"NT", 14}, {"RF", 16}, {"VM", 17}, {"AC", 18}, {"VIF", 19}, {"VIP", 20}, {"ID", 21}};
    static const struct bit cr0[] = {{"PE", 0}, {"MP", 1}, {"EM", 2}, {"TS", 3}, {"ET", 4}, {"NE", 5},
                                     {"WP", 16}, {"AM", 18}, {"NW", 29}, {"CD", 30}, {"PG", 31}};
    static const struct bit cr4[] = {
        {"VME", 0}, {"PVI", 1}, {"TSD", 2}, {"DE", 3}, {"PSE", 4}, {"PAE", 5}, {"MCE", 6}, {"PGE", 7}, {"PCE", 8},
        {"OSFXSR", 9}, {"OSXMMEXCPT", 10}, {"UMIP", 11}, {"FSGSBASE", 16}, {"PCIDE", 17}, {"OSXSAVE", 18}, {"SMEP", 20},
        {"SMAP", 21}};
    static const struct bit efer[] = {{"SCE", 0}, {"LME", 8}, {"LMA", 10}, {"NXE", 11}, {"FFXSR", 14}};
    unsigned bytes = wide ? 8 : 4;
    if (strcmp(feature, CORE) == 0) {
        print_flags(out, "i386_eflags", 4, eflags, ARRAY_LEN(eflags));
    } else if (strcmp(feature, SSE) == 0) {
        fputs("<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
              "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
              "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\n"
              "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
              "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
              "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
              "<field name=\"uint128\" type=\"uint128\"/></union>\n"
              "<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/>"
              "<field name=\"DE\" start=\"1\" end=\"1\"/><field name=\"ZE\" start=\"2\" end=\"2\"/>"
              "<field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
              "<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" end=\"6\"/>"
              "<field name=\"IM\" start=\"7\" end=\"7\"/><field name=\"DM\" start=\"8\" end=\"8\"/>"
              "<field name=\"ZM\" start=\"9\" end=\"9\"/><field name=\"OM\" start=\"10\" end=\"10\"/>"
              "<field name=\"UM\" start=\"11\" end=\"11\"/><field name=\"PM\" start=\"12\" end=\"12\"/>"
              "<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>\n", out);
    } else if (strcmp(feature, SYSTEM) == 0) {
        print_flags(out, "ring3_cr0", bytes, cr0, ARRAY_LEN(cr0));
        print_flags(out, "ring3_cr4", bytes, cr4, ARRAY_LEN(cr4));
        print_flags(out, "ring3_efer", 8, efer, ARRAY_LEN(efer));
    }
}

static void describe(struct registers *r, bool wide)
{
    FILE *out = open_memstream(&r->description, &r->description_size);
    check(out != NULL);
    fprintf(out, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n"
                 "<architecture>%s</architecture>\n", wide ? "i386:x86-64" : "i386");
    const char *feature = NULL;
    for (unsigned i = 0; i < r->count; i++) {
        const struct reg *reg = &r->list[i];
        if (feature == NULL || strcmp(feature, reg->feature) != 0) {
            fprintf(out, "%s<feature name=\"%s\">\n", feature != NULL ? "</feature>\n" : "", reg->feature);
            feature = reg->feature;
            print_types(out, feature, wide);
        }
        fprintf(out, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"%s/>\n", reg->name, reg->bytes * 8u, reg->type,
                i, reg->kind == REG_X87_CONTROL ? " group=\"float\"" : "");
    }
    fputs("</feature>\n</target>\n", out);
    check(fclose(out) == 0);
}

void registers_init(struct registers *r, const struct vcpu *v, bool wide)
{
    unsigned vectors = wide ? 16 : 8;
    *r = (struct registers){.count = 0};
    add_core(r, wide);
    add_numbered(r, SSE, "xmm", "", vectors, REG_XMM, 16, "vec128");
    add(r, SSE, "mxcsr", REG_MXCSR, 0, 4, "i386_mxcsr");
    if (cpu_has(v, CPU_AVX))
        add_numbered(r, AVX, "ymm", "h", vectors, REG_YMM_HIGH, 16, "uint128");
    if (wide) {
        add(r, SEGMENTS, "fs_base", REG_SEGMENT_BASE, SEG_FS, 8, "int");
        add(r, SEGMENTS, "gs_base", REG_SEGMENT_BASE, SEG_GS, 8, "int");
    }
    add_system(r, wide);
    describe(r, wide);
}

void registers_fini(struct registers *r)
{
    free(r->description);
    *r = (struct registers){.count = 0};
}

/* ---- values ---- */

#define X87_INTEGER_BIT (1ull << 63)
#define X87_EXPONENT 0x7fffu

/* The tag of a register of the x87 stack as FNSTENV would show it: valid, zero, special, empty. */
static unsigned x87_tag(const struct x87_image *x87, unsigned physical)
{
    unsigned top = (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT;
    if (!(x87->ftw >> physical & 1))
        return 3;
    const struct x87_register *st = &x87->st[(physical - top) & 7];
    unsigned exponent = st->exponent & X87_EXPONENT;
    if (exponent == 0 && st->mantissa == 0)
        return 1;
    return exponent == 0 || exponent == X87_EXPONENT || !(st->mantissa & X87_INTEGER_BIT) ? 2 : 0;
}

static uint64_t x87_control(const struct vcpu *v, unsigned index)
{
    const struct x87_image *x87 = (const struct x87_image *)v->fpu.x87;
    uint64_t tags = 0;
    switch (index) {
    case 0: return x87->fcw;
    case 1: return x87->fsw;
    case 2:
        for (unsigned i = 0; i < 8; i++)
            tags |= (uint64_t)x87_tag(x87, i) << 2 * i;
        return tags;
    case 3: return vcpu_long_mode(v) ? x87->fip >> 32 : v->fpu.x87_cs;
    case 4: return (uint32_t)x87->fip;
    case 5: return vcpu_long_mode(v) ? x87->fdp >> 32 : v->fpu.x87_ds;
    case 6: return (uint32_t)x87->fdp;
    default: return x87->fop;
    }
}

static uint64_t control_register(const struct vcpu *v, unsigned index)
{
    switch (index) {
    case 0: return v->cr0;
    case 2: return v->cr2;
    case 3: return v->cr3;
    default: return v->cr4;
    }
}

static uint64_t value_of(const struct vcpu *v, const struct reg *reg)
{
    switch (reg->kind) {
    case REG_GPR: return v->regs[reg->index];
    case REG_RIP: return v->rip;
    case REG_EFLAGS: return rflags_get(v);
    case REG_SELECTOR: return v->seg[reg->index].selector;
    case REG_X87_CONTROL: return x87_control(v, reg->index);
    case REG_MXCSR: return v->fpu.mxcsr;
    case REG_SEGMENT_BASE: return v->seg[reg->index].base;
    case REG_KERNEL_GS_BASE: return v->msr.kernel_gs_base;
    case REG_CR: return control_register(v, reg->index);
    case REG_EFER: return v->efer;
    default: return 0;
    }
}

void register_read(const struct vcpu *v, const struct reg *reg, uint8_t bytes[REGISTER_BYTES_MAX])
{
    const struct x87_image *x87 = (const struct x87_image *)v->fpu.x87;
    uint64_t value;
    switch (reg->kind) {
    case REG_ST: memcpy(bytes, &x87->st[reg->index], 10); break;
    case REG_XMM: memcpy(bytes, v->fpu.ymm[reg->index], 16); break;
    case REG_YMM_HIGH: memcpy(bytes, v->fpu.ymm[reg->index] + 16, 16); break;
    default:
        value = value_of(v, reg);
        memcpy(bytes, &value, reg->bytes <= 8 ? reg->bytes : 8);
    }
}

/* What code of the current mode can hold. */
static uint64_t cut(const struct vcpu *v, uint64_t value)
{
    return v->code_mode == CODE_64 ? value : (uint32_t)value;
}

#define EFLAGS_WRITABLE                                                                                                \
    (FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID)

static bool x87_control_write(struct vcpu *v, unsigned index, uint32_t value)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    switch (index) {
    case 0: x87->fcw = (uint16_t)((value & X87_FCW_VALID) | X87_FCW_ONE); break;
    case 1: x87->fsw = (uint16_t)value; break;
    case 2:
        x87->ftw = 0;
        for (unsigned i = 0; i < 8; i++)
            x87->ftw |= (uint8_t)(((value >> 2 * i & 3) != 3) << i);
        break;
    default: return false;
    }
    fpu_x87_summarize(v);
    return true;
}

bool register_write(struct vcpu *v, const struct reg *reg, const uint8_t bytes[REGISTER_BYTES_MAX])
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    uint64_t value = 0;
    memcpy(&value, bytes, reg->bytes <= 8 ? reg->bytes : 8);
    switch (reg->kind) {
    case REG_GPR: v->regs[reg->index] = reg->index < R8 ? cut(v, value) : value; return true;
    case REG_RIP:
        if (v->code_mode == CODE_64 && !gva_canonical(value))
            return false;
        v->rip = v->next_rip = cut(v, value);
        return true;
    case REG_EFLAGS:
        rflags_set(v, (rflags_get(v) & ~EFLAGS_WRITABLE) | ((uint32_t)value & EFLAGS_WRITABLE));
        vcpu_mode_changed(v);
        return true;
    case REG_ST: memcpy(&x87->st[reg->index], bytes, 10); return true;
    case REG_XMM: memcpy(v->fpu.ymm[reg->index], bytes, 16); return true;
    case REG_YMM_HIGH: memcpy(v->fpu.ymm[reg->index] + 16, bytes, 16); return true;
    case REG_X87_CONTROL: return x87_control_write(v, reg->index, (uint32_t)value);
    case REG_MXCSR:
        if ((uint32_t)value & ~fpu_mxcsr_mask(v))
            return false;
        v->fpu.mxcsr = (uint32_t)value;
        return true;
    case REG_SEGMENT_BASE:
        if (!vcpu_long_mode(v) || !gva_canonical(value))
            return false;
        v->seg[reg->index].base = value;
        return true;
    default: return false;
    }
}
