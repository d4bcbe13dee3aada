/* Expressions of the monitor: x/4xg $rsp + 8*2.
 *
 * Precedence as in C, 64 bits, wrapping. Division by zero is an error, shifts by 64 and more give 0. Parentheses and
 * signs nest to a bounded depth, because a line may come from anybody. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cpu/vcpu.h"
#include "monitor/internal.h"

#define DEPTH_MAX 32u

struct parser {
    const struct vcpu *v;
    const char *at;
    unsigned depth;
    struct error *err;
    bool failed;
};

static uint64_t fail(struct parser *p, const char *what, const char *text)
{
    if (!p->failed)
        error_set(p->err, "%s%s%.40s%s", what, *text != 0 ? " at '" : "", text, *text != 0 ? "'" : "");
    p->failed = true;
    return 0;
}

static void skip_space(struct parser *p)
{
    while (isspace((unsigned char)*p->at))
        p->at++;
}

/* ---- registers ---- */

static bool general_register(const struct vcpu *v, const char *name, uint64_t *value)
{
    static const char *const names[16] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
                                          "8",  "9",  "10", "11", "12", "13", "14", "15"};
    if (name[0] != 'r' && name[0] != 'e')
        return false;
    for (unsigned i = 0; i < 16; i++) {
        if (strcmp(name + 1, names[i]) == 0 && (name[0] == 'r' || i < 8)) {
            *value = name[0] == 'r' ? v->regs[i] : (uint32_t)v->regs[i];
            return true;
        }
    }
    return false;
}

static bool other_register(const struct vcpu *v, const char *name, uint64_t *value)
{
    const struct {
        const char *name;
        uint64_t value;
    } registers[] = {
        {"rip", v->rip}, {"eip", (uint32_t)v->rip}, {"pc", v->rip + (v->code_mode == CODE_64 ? 0 : v->seg[SEG_CS].base)},
        {"rflags", rflags_get(v)}, {"eflags", rflags_get(v)},
        {"es", v->seg[SEG_ES].selector}, {"cs", v->seg[SEG_CS].selector}, {"ss", v->seg[SEG_SS].selector},
        {"ds", v->seg[SEG_DS].selector}, {"fs", v->seg[SEG_FS].selector}, {"gs", v->seg[SEG_GS].selector},
        {"es.base", v->seg[SEG_ES].base}, {"cs.base", v->seg[SEG_CS].base}, {"ss.base", v->seg[SEG_SS].base},
        {"ds.base", v->seg[SEG_DS].base}, {"fs.base", v->seg[SEG_FS].base}, {"gs.base", v->seg[SEG_GS].base},
        {"ldtr", v->seg[SEG_LDTR].base}, {"tr", v->seg[SEG_TR].base}, {"gdtr", v->gdtr.base}, {"idtr", v->idtr.base},
        {"cr0", v->cr0}, {"cr2", v->cr2}, {"cr3", v->cr3}, {"cr4", v->cr4}, {"efer", v->efer},
        {"dr0", v->dr[0]}, {"dr1", v->dr[1]}, {"dr2", v->dr[2]}, {"dr3", v->dr[3]}, {"dr6", v->dr[6]}, {"dr7", v->dr[7]},
    };
    for (size_t i = 0; i < ARRAY_LEN(registers); i++) {
        if (strcmp(name, registers[i].name) == 0) {
            *value = registers[i].value;
            return true;
        }
    }
    return false;
}

static uint64_t parse_register(struct parser *p)
{
    char name[16];
    size_t n = 0;
    const char *begin = p->at++;
    for (; isalnum((unsigned char)*p->at) || *p->at == '.' || *p->at == '_'; p->at++)
        if (n < sizeof name - 1)
            name[n++] = (char)tolower((unsigned char)*p->at);
    name[n] = 0;
    uint64_t value = 0;
    if (!general_register(p->v, name, &value) && !other_register(p->v, name, &value))
        return fail(p, "there is no such register", begin);
    return value;
}

/* ---- the grammar ---- */

static uint64_t parse_binary(struct parser *p, unsigned level);

static uint64_t parse_number(struct parser *p)
{
    char *end;
    const char *begin = p->at;
    if (!isdigit((unsigned char)*begin))
        return fail(p, *begin == 0 ? "a number or $register is missing" : "a number or $register is expected", begin);
    uint64_t value = strtoull(begin, &end, 0);
    if (isalnum((unsigned char)*end) || *end == '_')
        return fail(p, "this is not a number", begin);
    p->at = end;
    return value;
}

static uint64_t parse_unary(struct parser *p)
{
    skip_space(p);
    uint64_t value;
    if (p->failed || ++p->depth > DEPTH_MAX)
        return fail(p, "the expression is nested too deeply", "");
    switch (*p->at) {
    case '-': p->at++; value = -parse_unary(p); break;
    case '+': p->at++; value = parse_unary(p); break;
    case '~': p->at++; value = ~parse_unary(p); break;
    case '$': value = parse_register(p); break;
    case '(':
        p->at++;
        value = parse_binary(p, 0);
        skip_space(p);
        if (*p->at != ')')
            return fail(p, "a closing parenthesis is missing", p->at);
        p->at++;
        break;
    default: value = parse_number(p);
    }
    p->depth--;
    return value;
}

enum operator { OPERATOR_NONE, OR, XOR, AND, LEFT, RIGHT, ADD, SUBTRACT, MULTIPLY, DIVIDE, REMAINDER };
#define LEVELS 6u

static enum operator operator_at(struct parser *p, unsigned level, unsigned *length)
{
    static const struct {
        const char *text;
        unsigned level;
        enum operator operator;
    } table[] = {
        {"|", 0, OR}, {"^", 1, XOR}, {"&", 2, AND}, {"<<", 3, LEFT}, {">>", 3, RIGHT},
        {"+", 4, ADD}, {"-", 4, SUBTRACT}, {"*", 5, MULTIPLY}, {"/", 5, DIVIDE}, {"%", 5, REMAINDER},
    };
    skip_space(p);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        *length = (unsigned)strlen(table[i].text);
        if (table[i].level == level && strncmp(p->at, table[i].text, *length) == 0)
            return table[i].operator;
    }
    return OPERATOR_NONE;
}

static uint64_t apply(struct parser *p, enum operator operator, uint64_t a, uint64_t b)
{
    switch (operator) {
    case OR: return a | b;
    case XOR: return a ^ b;
    case AND: return a & b;
    case LEFT: return b < 64 ? a << b : 0;
    case RIGHT: return b < 64 ? a >> b : 0;
    case ADD: return a + b;
    case SUBTRACT: return a - b;
    case MULTIPLY: return a * b;
    default: break;
    }
    if (b == 0)
        return fail(p, "division by zero", "");
    return operator == DIVIDE ? a / b : a % b;
}

static uint64_t parse_binary(struct parser *p, unsigned level)
{
    if (level == LEVELS)
        return parse_unary(p);
    uint64_t value = parse_binary(p, level + 1);
    enum operator operator;
    unsigned length;
    while (!p->failed && (operator = operator_at(p, level, &length)) != OPERATOR_NONE) {
        p->at += length;
        value = apply(p, operator, value, parse_binary(p, level + 1));
    }
    return value;
}

bool expression_evaluate(const struct vcpu *v, const char *text, uint64_t *value, struct error *err)
{
    struct parser p = {.v = v, .at = text, .err = err};
    *value = parse_binary(&p, 0);
    skip_space(&p);
    if (!p.failed && *p.at != 0)
        fail(&p, "an operator is expected", p.at);
    return !p.failed;
}
