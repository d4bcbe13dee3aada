/* Pages of guest code that run directly, and the instructions in them that do not trap though they should.
 *
 * A page arrives not executable. What is executed of it is decoded when it is first reached: straight-line code from
 * there on to a return, a call or a jump, and the targets of branches within the page. Each instruction is one of three:
 *
 *   native     does without privilege what it does with: most
 *   trapping   stops the sandbox by itself: CLI, HLT, IN, MOV CR3, INT n
 *   sensitive  does something else without privilege, and does not stop (Robin and Irvine 2000): POPF, SGDT, MOV from
 *              and to segment registers, far jumps, IRET; CPUID; what this guest's processor has not
 *
 * What is not in the table of native instructions counts as sensitive, so that forgetting one costs time, not truth. The
 * first byte of a sensitive one becomes HLT. Not in guest RAM: what is executed is a copy of the page.
 *
 * Split (32-bit code). The copy lies at another linear address than the page, and CS begins there (space.c), so that only
 * instruction fetches see it. All that was not decoded is HLT, too: nothing runs that has not been looked at, and
 * nothing has to be guessed. An instruction that goes on in the next page, or has another one's patch in its middle, is
 * patched itself.
 *
 * Not split (64-bit code, user mode only). The copy takes the page's place, and reads by that address see it. It shows
 * the page with patches; a page without sensitive instructions needs no copy. What was not reached is guessed: wherever
 * decoding from neighbouring bytes falls into step, and goes on like code up to a return, a jump, a call or known code.
 * What can be missed is code that does not look like it, until something traps in it; its sensitive instructions give the
 * host's answers, which harm nobody but the guest. What can be mistaken is a byte of data beside code.
 *
 * A jump into the middle of a known instruction executes what its bytes are, unseen, unless it is a direct one.
 *
 * Writes. A page that is executed is watched. A byte that was decoded or patched takes the page out of all spaces, and it
 * is looked at anew; others are written into a copy that shows them as well.
 *
 * SDM vol. 3, 25.1.2 and 25.1.3 list what VT-x makes trap; the difference to what traps in ring 3 has to be patched.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "engine/trap/internal.h"
#include "memory/memory.h"

#define CODES_MAX 8192u
#define CODE_BUCKETS 4096u
#define PATCH_BYTE 0xf4 /* HLT */
#define WORK_MAX 512u

struct code {
    uint32_t frame;
    uint32_t next;  /* in its bucket */
    uint8_t flavor; /* mode, vectors, split */
    bool used, copy_unused;
    bool split;                       /* nothing is shown in the copy but what was decoded */
    uint32_t copy;                    /* page of the copies' file; NONE: runs as it is */
    uint64_t begins[PAGE_SIZE / 64];  /* instructions that were decoded */
    uint64_t covered[PAGE_SIZE / 64]; /* bytes of them */
    uint64_t patched[PAGE_SIZE / 64];
};

bool codes_create(struct trap *t, struct error *err)
{
    t->copies_fd = memfd_create("ring3-trap-code", MFD_CLOEXEC);
    t->codes = calloc(CODES_MAX, sizeof *t->codes);
    t->code_buckets = malloc(CODE_BUCKETS * sizeof *t->code_buckets);
    if (t->codes == NULL || t->code_buckets == NULL || t->copies_fd < 0 ||
        ftruncate(t->copies_fd, (off_t)(CODES_MAX * PAGE_SIZE)) != 0)
        return error_set(err, "no memory for copies of code: %m");
    memset(t->code_buckets, 0xff, CODE_BUCKETS * sizeof *t->code_buckets);
    t->copies = mmap(NULL, CODES_MAX * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->copies_fd, 0);
    if (t->copies == MAP_FAILED) {
        t->copies = NULL;
        return error_set(err, "no memory for copies of code: %m");
    }
    return true;
}

void codes_destroy(struct trap *t)
{
    if (t->copies != NULL)
        munmap(t->copies, CODES_MAX * PAGE_SIZE);
    if (t->copies_fd >= 0)
        close(t->copies_fd);
    free(t->codes);
    free(t->code_buckets);
}

/* ---- bits of a page ---- */

static bool bit_get(const uint64_t *bits, unsigned n)
{
    return bits[n / 64] >> n % 64 & 1;
}

static void bits_set(uint64_t *bits, unsigned first, unsigned count)
{
    for (unsigned n = first; n < first + count && n < PAGE_SIZE; n++)
        bits[n / 64] |= 1ull << n % 64;
}

static bool bits_any(const uint64_t *bits, unsigned first, unsigned count)
{
    for (unsigned n = first; n < first + count && n < PAGE_SIZE; n++)
        if (bit_get(bits, n))
            return true;
    return false;
}

/* ---- what an instruction is ---- */

enum kind { KIND_NATIVE, KIND_TRAPPING, KIND_SENSITIVE };

static enum kind kind_of_fast(const struct insn *in)
{
    for (unsigned i = 0; i < ARRAY_LEN(in->op_kind); i++) {
        if (in->op_kind[i] == OPERAND_SEG || in->op_kind[i] == OPERAND_FAR)
            return KIND_SENSITIVE;
        if (in->op_kind[i] == OPERAND_CR || in->op_kind[i] == OPERAND_DR)
            return KIND_TRAPPING;
    }
    switch (in->row) {
    case ROW_JMP:
    case ROW_CALL: /* through memory: FF /3 and FF /5 are far */
        return in->opcode == 0xff && ((in->modrm >> 3 & 7) == 3 || (in->modrm >> 3 & 7) == 5) ? KIND_SENSITIVE
                                                                                              : KIND_NATIVE;
    case ROW_RET:
        return in->opcode == 0xca || in->opcode == 0xcb ? KIND_SENSITIVE : KIND_NATIVE;
    case ROW_UD0:
    case ROW_UD1:
    case ROW_UD2:
        return KIND_TRAPPING;
    default:
        return KIND_NATIVE;
    }
}

/* Those that are not in this list are sensitive. */
static enum kind kind_of_slow(const struct insn *in, enum vectors vectors)
{
    switch (in->row) {
    case ROW_INT:
    case ROW_INT3:
    case ROW_HLT:
    case ROW_CLI:
    case ROW_STI:
    case ROW_IN:
    case ROW_OUT:
    case ROW_INSB:
    case ROW_INSW:
    case ROW_INSD:
    case ROW_OUTSB:
    case ROW_OUTSW:
    case ROW_OUTSD:
    case ROW_LGDT:
    case ROW_LIDT:
    case ROW_LLDT:
    case ROW_LTR:
    case ROW_LMSW:
    case ROW_CLTS:
    case ROW_INVLPG:
    case ROW_INVD:
    case ROW_WBINVD:
    case ROW_RDMSR:
    case ROW_WRMSR:
    case ROW_RDTSC:
    case ROW_RDTSCP:
    case ROW_XSETBV:
        return KIND_TRAPPING;
    case ROW_SYSCALL:
        return in->mode == CODE_64 ? KIND_TRAPPING : KIND_SENSITIVE; /* elsewhere it loses what ECX held */
    case ROW_LDMXCSR:
    case ROW_STMXCSR:
    case ROW_FNSTENV:
    case ROW_FLDENV:
    case ROW_FNSAVE:
    case ROW_FRSTOR:
    case ROW_FXSAVE:
    case ROW_FXRSTOR:
        return vectors != VECTORS_NONE ? KIND_NATIVE : KIND_SENSITIVE;
    default:
        return KIND_SENSITIVE;
    }
}

static bool is_vex(const struct insn *in)
{
    return insn_rows[in->row].name[0] == 'V';
}

static enum kind kind_of(const struct insn *in, enum vectors vectors)
{
    if (in->row >= ROW_COUNT)
        return KIND_SENSITIVE; /* #UD for this guest; perhaps not for the host */
    if (in->seg == SEG_CS && in->mode != CODE_64)
        return KIND_SENSITIVE; /* data through CS: it begins elsewhere on the host */
    switch (insn_rows[in->row].how) {
    case HOW_FAST:
        return kind_of_fast(in);
    case HOW_SLOW:
        return kind_of_slow(in, vectors);
    default:
        return vectors == VECTORS_NONE || (is_vex(in) && vectors != VECTORS_AVX) ? KIND_SENSITIVE : KIND_NATIVE;
    }
}

/* ---- finding ---- */

struct search {
    struct trap *t;
    struct code *code;
    const uint8_t *bytes; /* the page; readable from `first` to `end` */
    int first, end;
    enum vectors vectors;
    uint16_t work[WORK_MAX];
    unsigned count;
    bool changed; /* patches have come or gone */
};

static void search_add(struct search *s, uint64_t off)
{
    if (off < PAGE_SIZE && s->count < WORK_MAX && !bit_get(s->code->begins, (unsigned)off))
        s->work[s->count++] = (uint16_t)off;
}

static bool decode_at(const struct search *s, int off, struct insn *in)
{
    unsigned available = s->end - off < INSN_MAX_BYTES ? (unsigned)(s->end - off) : INSN_MAX_BYTES;
    struct vcpu *v = s->t->v;
    return decode_insn(v, v->code_mode, s->bytes + off, available, (unsigned)off & PAGE_OFFSET_MASK, in) == DECODE_OK &&
           in->row < ROW_COUNT;
}

static void patch_set(struct search *s, unsigned off)
{
    if (bit_get(s->code->patched, off))
        return;
    bits_set(s->code->patched, off, 1);
    s->changed = true;
    s->t->count.patches++;
}

/* An instruction that is known and covers the byte at `off` without beginning there: it would be torn by a patch. */
static void patch_around(struct search *s, unsigned off)
{
    for (unsigned back = 1; back < INSN_MAX_BYTES && back <= off && bit_get(s->code->covered, off - back); back++)
        if (bit_get(s->code->begins, off - back))
            patch_set(s, off - back);
}

/* `length` bytes from `off` on are one instruction: what was guessed within it is not one. */
static void known_set(struct search *s, unsigned off, unsigned length)
{
    s->changed |= s->code->split;
    bits_set(s->code->begins, off, 1);
    bits_set(s->code->covered, off, length);
    for (unsigned n = off + 1; n < off + length && n < PAGE_SIZE; n++) {
        if (bit_get(s->code->patched, n) && !bit_get(s->code->begins, n)) {
            s->code->patched[n / 64] &= ~(1ull << n % 64);
            s->changed = true;
        }
    }
}

static bool falls_through(const struct insn *in)
{
    switch (in->row) {
    case ROW_JMP:
    case ROW_RET:
    case ROW_IRET:
    case ROW_IRETD:
    case ROW_IRETQ:
    case ROW_SYSEXIT:
    case ROW_SYSRET:
    case ROW_UD2:
        return false;
    default:
        return true;
    }
}

/* Calls, and interrupts, mostly come back; but code may end with one. */
static bool may_be_last(const struct insn *in)
{
    return in->row == ROW_CALL || in->row == ROW_INT || in->row == ROW_INT3 || !falls_through(in);
}

/* Code that is known to be executed at `off`, as far as it is known to go on. */
static void follow_from(struct search *s, unsigned off)
{
    while (off < PAGE_SIZE && !bit_get(s->code->begins, off)) {
        struct insn in;
        if (!decode_at(s, (int)off, &in)) { /* whatever it is, the interpreter says */
            known_set(s, off, 1);
            patch_set(s, off);
            patch_around(s, off);
            return;
        }
        bool torn =
            s->code->split && off + in.len > PAGE_SIZE; /* the rest is in another copy, which does not show it */
        bool inside = bit_get(s->code->covered, off);
        known_set(s, off, in.len);
        torn |= in.len > 1 && bits_any(s->code->patched, off + 1, in.len - 1u); /* by one that begins within it */
        if (torn || kind_of(&in, s->vectors) == KIND_SENSITIVE) {
            patch_set(s, off);
            if (inside)
                patch_around(s, off);
        }
        bool jumps = insn_rows[in.row].lowering == LOWER_BRANCH && in.row != ROW_CALL && in.row != ROW_RET;
        if (jumps && in.op_kind[0] == OPERAND_IMM)
            search_add(s, in.imm);
        if (may_be_last(&in))
            return;
        off += in.len;
    }
}

static void follow(struct search *s, unsigned off)
{
    search_add(s, off);
    while (s->count > 0)
        follow_from(s, s->work[--s->count]);
}

/* ---- guessing ---- */

#define STARTS 15
#define SYNC_BYTES 128
#define SEGMENT_MAX 256u /* instructions */

/* Where instructions begin, if `from` is anywhere in code: decoding from any byte soon falls into step. INT_MAX: they
 * do not. */
static int synchronize(const struct search *s, int from)
{
    int at[STARTS], count = STARTS;
    for (int i = 0; i < STARTS; i++)
        at[i] = from + i;
    while (count > 0) {
        int low = at[0], high = at[0];
        for (int i = 1; i < count; i++) {
            low = at[i] < low ? at[i] : low;
            high = at[i] > high ? at[i] : high;
        }
        if (low == high)
            return low;
        struct insn in;
        bool ok = low < from + SYNC_BYTES && low < (int)PAGE_SIZE && decode_at(s, low, &in);
        int kept = 0;
        for (int i = 0; i < count; i++)
            if (at[i] != low || ok)
                at[kept++] = at[i] == low ? low + in.len : at[i];
        count = kept;
    }
    return INT_MAX;
}

/* PUSH and POP of ES, CS, SS, DS are one byte, and found everywhere in data; in code they do not stand alone. */
static bool is_short_segment(const struct insn *in)
{
    return (in->row == ROW_PUSH || in->row == ROW_POP) && in->op_kind[0] == OPERAND_SEG && in->op_reg[0] <= SEG_DS;
}

static bool is_stack_insn(const struct insn *in)
{
    return in->row == ROW_PUSH || in->row == ROW_POP || in->row == ROW_PUSHAD || in->row == ROW_POPAD;
}

/* Far transfers without privilege trap by themselves, since the host has code segments at two places only; a guess need
 * not patch them unless the guest may have some there, too. */
static bool is_far_and_traps(const struct trap *t, const struct insn *in)
{
    static const uint8_t host_code[] = {0x20, 0x30};
    bool far =
        in->row == ROW_JMP || in->row == ROW_CALL || in->row == ROW_RET || in->row == ROW_IRET || in->row == ROW_IRETD;
    for (unsigned i = 0; i < ARRAY_LEN(host_code) && far; i++) {
        uint8_t access = 0;
        gpa_t gpa;
        gva_t at = t->v->gdtr.base + host_code[i] + 5;
        bool there = host_code[i] + 7u <= t->v->gdtr.limit && mmu_peek(t->v, at, &gpa) &&
                     memory_read(t->v->memory, gpa, &access, 1);
        far = !(there &&
                (access & (SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_CODE)) == (SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_CODE));
    }
    return far;
}

/* Straight-line code from `off` to where it may end, or to known code: only if all of it looks like code are its
 * sensitive instructions believed in. Returns where to go on; `*ok`: that is where instructions begin. */
static int segment(struct search *s, int off, bool *ok)
{
    uint16_t found[SEGMENT_MAX];
    unsigned count = 0;
    int doubtful = -1; /* a short one, whose neighbour before it did not say enough */
    bool stack_before = false;
    *ok = false;
    for (unsigned n = 0; n < SEGMENT_MAX; n++) {
        struct insn in;
        if (off >= (int)PAGE_SIZE || (off >= 0 && bit_get(s->code->begins, (unsigned)off)))
            break;
        if (!decode_at(s, off, &in) || in.row == ROW_ARPL)
            return off + 1;
        if (off >= 0 && bits_any(s->code->covered, (unsigned)off, in.len))
            return off + 1; /* out of step with code that is known */
        if (doubtful >= 0 && is_stack_insn(&in))
            found[count++] = (uint16_t)doubtful;
        doubtful = -1;
        if (off >= 0 && is_short_segment(&in) && !stack_before)
            doubtful = off;
        else if (off >= 0 && kind_of(&in, s->vectors) == KIND_SENSITIVE && !is_far_and_traps(s->t, &in))
            found[count++] = (uint16_t)off;
        stack_before = is_stack_insn(&in);
        off += in.len;
        if (may_be_last(&in))
            break;
    }
    for (unsigned i = 0; i < count; i++)
        patch_set(s, found[i]);
    *ok = true;
    return off;
}

/* What is not known to be executed: guesses. */
static void sweep(struct search *s)
{
    int off = synchronize(s, s->first);
    if (off == INT_MAX && s->first < 0)
        off = synchronize(s, 0);
    if (off == INT_MAX)
        off = STARTS;
    while (off < (int)PAGE_SIZE) {
        if (off >= 0 && bit_get(s->code->covered, (unsigned)off)) {
            off++;
            continue;
        }
        bool ok;
        off = segment(s, off, &ok);
        if (ok)
            continue;
        int next = synchronize(s, off);
        off = next != INT_MAX ? next : off + STARTS;
    }
}

/* The page's bytes with those before and behind it in the address space, as far as they can be read. */
#define BEFORE 96
#define BEHIND INSN_MAX_BYTES
static void bytes_gather(struct search *s, gva_t gva, const uint8_t *page, uint8_t *buffer)
{
    struct vcpu *v = s->t->v;
    gpa_t gpa;
    gva_t base = gva & ~PAGE_OFFSET_MASK, mask = v->code_mode == CODE_64 ? UINT64_MAX : UINT32_MAX;
    memcpy(buffer + BEFORE, page, PAGE_SIZE);
    s->bytes = buffer + BEFORE;
    s->end = PAGE_SIZE;
    if (mmu_peek(v, (base + PAGE_SIZE) & mask, &gpa) &&
        memory_read(v->memory, gpa, buffer + BEFORE + PAGE_SIZE, BEHIND))
        s->end += BEHIND;
    if (mmu_peek(v, (base - BEFORE) & mask, &gpa) && memory_read(v->memory, gpa, buffer, BEFORE))
        s->first = -BEFORE;
}

static void code_search(struct trap *t, struct code *code, gva_t gva, bool entry, const uint8_t *page,
                        enum vectors vectors, bool first)
{
    uint8_t buffer[BEFORE + PAGE_SIZE + BEHIND];
    struct search s = {.t = t, .code = code, .vectors = vectors};
    bytes_gather(&s, gva, page, buffer);
    if (entry)
        follow(&s, (unsigned)(gva & PAGE_OFFSET_MASK));
    if (first && !code->split)
        sweep(&s);
    if (!s.changed && !(first && code->split))
        return;
    if (code->copy == NONE) {
        frame_drop_code(t, code->frame); /* it is mapped as it is, perhaps */
        code->copy = (uint32_t)(code - t->codes);
        t->count.copies++;
    }
    uint8_t *copy = t->copies + (uint64_t)code->copy * PAGE_SIZE;
    if (code->copy_unused)
        memset(copy, PATCH_BYTE, PAGE_SIZE);
    code->copy_unused = false;
    for (unsigned i = 0; i < PAGE_SIZE; i++) {
        bool shown = !bit_get(code->patched, i) && (!code->split || bit_get(code->covered, i));
        uint8_t byte = shown ? s.bytes[i] : PATCH_BYTE;
        if (copy[i] != byte)
            copy[i] = byte;
    }
}

/* ---- pages of code ---- */

static uint32_t *code_bucket(struct trap *t, uint32_t frame)
{
    return &t->code_buckets[(frame ^ frame >> 12) & (CODE_BUCKETS - 1)];
}

static uint8_t flavor_of(const struct space *s)
{
    return (uint8_t)(s->split << 5 | s->key.wide << 4 | s->key.vectors);
}

static struct code *code_find(struct trap *t, uint32_t frame, uint8_t flavor)
{
    for (uint32_t i = *code_bucket(t, frame); i != NONE; i = t->codes[i].next)
        if (t->codes[i].frame == frame && t->codes[i].flavor == flavor)
            return &t->codes[i];
    return NULL;
}

void codes_clear(struct trap *t)
{
    for (uint32_t i = 0; i < t->codes_used; i++) {
        if (!t->codes[i].used)
            continue;
        frame_drop_code(t, t->codes[i].frame);
        memory_unwatch(t->v->memory, frame_gpa(t, t->codes[i].frame) >> PAGE_SHIFT, PAGE_DIRECT);
        t->codes[i].used = false;
    }
    memset(t->code_buckets, 0xff, CODE_BUCKETS * sizeof *t->code_buckets);
    t->codes_used = 0;
    t->free_code = NONE;
}

static struct code *code_add(struct trap *t, uint32_t frame, uint8_t flavor)
{
    if (t->free_code == NONE && t->codes_used == CODES_MAX)
        codes_clear(t);
    uint32_t number = t->free_code;
    if (number != NONE)
        t->free_code = t->codes[number].next;
    else
        number = t->codes_used++;
    uint32_t *bucket = code_bucket(t, frame);
    struct code *code = &t->codes[number];
    memset(code, 0, sizeof *code);
    *code = (struct code){
        .frame = frame, .next = *bucket, .flavor = flavor, .used = true, .copy_unused = true, .copy = NONE};
    *bucket = number;
    return code;
}

void code_prepare(struct trap *t, const struct space *s, gva_t gva, bool entry, uint32_t frame, enum sandbox_file *file,
                  uint64_t *offset)
{
    uint8_t flavor = flavor_of(s);
    struct code *code = code_find(t, frame, flavor);
    bool first = code == NULL;
    if (first) {
        code = code_add(t, frame, flavor);
        code->split = s->split;
        memory_watch(t->v->memory, frame_gpa(t, frame) >> PAGE_SHIFT, PAGE_DIRECT); /* before its bytes are read */
        mmu_stop_plain_writes(t->v, frame_gpa(t, frame));
        t->count.code_pages++;
    }
    if (t->patch && (first || (entry && !bit_get(code->begins, (unsigned)(gva & PAGE_OFFSET_MASK)))))
        code_search(t, code, gva, entry, memory_ram_base(t->v->memory) + ((uint64_t)frame << PAGE_SHIFT),
                    s->key.vectors, first);
    *file = code->copy != NONE ? SANDBOX_COPIES : SANDBOX_RAM;
    *offset = (uint64_t)(code->copy != NONE ? code->copy : frame) << PAGE_SHIFT;
}

bool code_is_known(struct trap *t, const struct space *s, gva_t gva, uint32_t frame)
{
    const struct code *code = code_find(t, frame, flavor_of(s));
    return code != NULL && (!t->patch || bit_get(code->begins, (unsigned)(gva & PAGE_OFFSET_MASK)));
}

bool code_is_patched(struct trap *t, const struct space *s, gva_t gva, uint32_t frame)
{
    const struct code *code = code_find(t, frame, flavor_of(s));
    return code != NULL && bit_get(code->patched, (unsigned)(gva & PAGE_OFFSET_MASK));
}

static void code_free(struct trap *t, struct code *code)
{
    uint32_t number = (uint32_t)(code - t->codes), *at = code_bucket(t, code->frame);
    while (*at != number)
        at = &t->codes[*at].next;
    *at = code->next;
    code->used = false;
    code->next = t->free_code;
    t->free_code = number;
}

void code_written(struct trap *t, uint32_t frame, unsigned offset, unsigned size)
{
    const uint8_t *page = memory_ram_base(t->v->memory) + ((uint64_t)frame << PAGE_SHIFT);
    bool hit = false, left = false;
    for (uint32_t i = *code_bucket(t, frame); i != NONE; i = t->codes[i].next)
        hit |= t->codes[i].frame == frame && (!t->patch || bits_any(t->codes[i].covered, offset, size) ||
                                              bits_any(t->codes[i].patched, offset, size));
    if (hit)
        frame_drop_code(t, frame);
    for (uint32_t i = *code_bucket(t, frame), next; i != NONE; i = next) {
        struct code *code = &t->codes[i];
        next = code->next;
        if (code->frame != frame)
            continue;
        if (hit) {
            code_free(t, code);
            t->count.code_writes++;
        } else {
            left = true;
            if (code->copy != NONE && !code->split)
                memcpy(t->copies + (uint64_t)code->copy * PAGE_SIZE + offset, page + offset, size);
        }
    }
    if (!left)
        memory_unwatch(t->v->memory, frame_gpa(t, frame) >> PAGE_SHIFT, PAGE_DIRECT);
}
