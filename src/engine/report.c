/* See report.h. Guest code is read by physical address, as it was when the place was last seen: its process may be
 * gone. (If its memory has been used for something else since, that is what is shown.) */
#include "engine/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/symbols.h"
#include "engine/disasm.h"
#include "engine/hot.h"
#include "memory/memory.h"
#include "mmu/ranges.h"

#define BLOCKS_MAX 24u
#define GUEST_INSNS_MAX 12u /* shown where there is no translation */
#define HOST_BYTES_MAX 4096u

static json_t *hex(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%#" PRIx64, value);
    return json_string(text);
}

static json_t *hex_bytes(const uint8_t *bytes, unsigned n)
{
    char text[64] = "";
    for (unsigned i = 0; i < n && i < 16; i++)
        snprintf(text + 3 * i, sizeof text - 3 * i, i + 1 < n ? "%02x " : "%02x", bytes[i]);
    return json_string(text);
}

/* ---- page tables ---- */

static json_t *json_range(const struct range *r)
{
    char rights[8];
    snprintf(rights, sizeof rights, "r%c%c%c%c", r->writable ? 'w' : '-', r->nx ? '-' : 'x', r->user ? 'u' : '-',
             r->global ? 'g' : '-');
    json_t *range = json_array();
    json_array_append_new(range, hex(r->gva));
    json_array_append_new(range, hex(r->size));
    json_array_append_new(range, hex(r->gpa));
    json_array_append_new(range, json_string(rights));
    json_array_append_new(range, json_string(r->page_size == 0         ? "1G"
                                             : r->page_size == 4 * MiB ? "4M"
                                             : r->page_size == 2 * MiB ? "2M"
                                                                       : "4K"));
    if (!r->counted) {
        json_array_append_new(range, json_null());
        return range;
    }
    json_t *shadow = json_array();
    json_array_append_new(shadow, json_integer(r->kernel));
    json_array_append_new(shadow, json_integer(r->kernel_writable));
    json_array_append_new(shadow, json_integer(r->user_pages));
    json_array_append_new(shadow, json_integer(r->user_writable));
    json_array_append_new(range, shadow);
    return range;
}

static json_t *json_tables(struct vcpu *v, const struct engine *engine)
{
    struct ranges *ranges = calloc(1, sizeof *ranges);
    const char *shadow = engine->shadow_name != NULL ? engine->shadow_name
                         : v->mmu_shadow != NULL     ? "shadow page tables"
                                                     : "software TLB";
    json_t *tables = json_object(), *list = json_array();
    if (ranges != NULL) {
        ranges_read(v,
                    engine->nested               ? NULL
                    : engine->shadow_has != NULL ? engine->shadow_has
                                                 : ranges_shadow_has,
                    ranges);
        json_object_set_new(tables, "paging", json_string(ranges->paging));
        json_object_set_new(tables, "truncated", json_boolean(ranges->truncated));
        for (unsigned i = 0; i < ranges->count; i++)
            json_array_append_new(list, json_range(&ranges->list[i]));
    }
    free(ranges);
    json_object_set_new(tables, "cr3", hex(v->cr3));
    json_object_set_new(tables, "shadow", engine->nested ? json_null() : json_string(shadow));
    json_object_set_new(tables, "ranges", list);
    return tables;
}

/* ---- code ---- */

/* Guest instructions from physical memory, within one page. Returns how many bytes they have; 0 at the end. */
static unsigned guest_insn(const struct vcpu *v, const struct hot_place *p, gva_t gva, json_t *list)
{
    uint8_t bytes[15];
    char text[DISASM_TEXT];
    gpa_t gpa = (p->gpa & ~PAGE_OFFSET_MASK) | (gva & PAGE_OFFSET_MASK);
    unsigned room = PAGE_SIZE - (unsigned)(gva & PAGE_OFFSET_MASK), n = room < sizeof bytes ? room : sizeof bytes;
    if (!memory_read(v->memory, gpa, bytes, n))
        return 0;
    unsigned length = disasm_bytes(bytes, n, gva, p->code_mode, text);
    if (length == 0)
        return 0;
    json_t *insn = json_array();
    json_array_append_new(insn, hex(gva));
    json_array_append_new(insn, hex_bytes(bytes, length));
    json_array_append_new(insn, json_string(text));
    json_array_append_new(list, insn);
    return length;
}

static json_t *json_host(const struct engine_code *code)
{
    json_t *list = json_array();
    unsigned insn = 0;
    uint32_t size = code->host_size < HOST_BYTES_MAX ? code->host_size : HOST_BYTES_MAX;
    for (uint32_t at = 0; at < size;) {
        char text[DISASM_TEXT];
        unsigned room = size - at < 15 ? size - at : 15;
        unsigned length = disasm_bytes(code->host + at, room, code->host_rip + at, CODE_64, text);
        while (insn < code->insn_count && at >= code->insns[insn].host)
            insn++;
        if (length == 0)
            length = 1;
        json_t *line = json_array();
        json_array_append_new(line, json_integer((int)insn - 1));
        json_array_append_new(line, hex_bytes(code->host + at, length));
        json_array_append_new(line, json_string(text));
        json_array_append_new(list, line);
        at += length;
    }
    return list;
}

static json_t *json_block(struct vcpu *v, const struct engine *engine, const struct stats *stats,
                          const struct hot_place *p)
{
    char name[SYMBOLS_TEXT];
    struct engine_code code = {.insn_count = 0};
    json_t *block = json_object(), *guest = json_array();
    bool user = p->mode == EXIT_MODE_USER;
    bool found = engine->code != NULL && p->gpa != UINT64_MAX && engine->code(v, p->gpa, p->rip, user, &code);
    symbols_text(stats->symbols, p->rip, name);
    json_object_set_new(block, "rip", hex(p->rip));
    json_object_set_new(block, "mode", json_string(exit_mode_name(p->mode)));
    json_object_set_new(block, "samples", json_integer((json_int_t)p->count));
    json_object_set_new(block, "symbol", name[0] != 0 ? json_string(name) : json_null());
    if (p->gpa != UINT64_MAX && found) {
        for (unsigned i = 0; i < code.insn_count; i++)
            guest_insn(v, p, code.insns[i].gva, guest);
    } else if (p->gpa != UINT64_MAX) {
        gva_t gva = p->rip;
        for (unsigned i = 0, n; i < GUEST_INSNS_MAX && (gva ^ p->rip) < PAGE_SIZE; i++, gva += n) {
            n = guest_insn(v, p, gva, guest);
            if (n == 0)
                break;
        }
    }
    json_object_set_new(block, "guest", guest);
    json_object_set_new(block, "host", found ? json_host(&code) : json_null());
    return block;
}

static json_t *json_blocks(struct vcpu *v, const struct engine *engine, const struct stats *stats)
{
    const struct hot_place *top[BLOCKS_MAX];
    json_t *list = json_array();
    size_t n = stats->hot != NULL ? hot_top(stats->hot, true, top, BLOCKS_MAX) : 0;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_block(v, engine, stats, top[i]));
    return list;
}

char *report_collect(struct vcpu *v, const struct engine *engine, const struct stats *stats)
{
    json_t *root = json_object();
    json_object_set_new(root, "version", json_integer(1));
    json_object_set_new(root, "engine", json_string(engine->name));
    json_object_set_new(root, "stats", stats_json(stats, v->memory));
    json_object_set_new(root, "tables", json_tables(v, engine));
    json_object_set_new(root, "blocks", json_blocks(v, engine, stats));
    char *text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(root);
    return text;
}
