/* See line.h.
 *
 * What is shown is repaired with backspaces and spaces only, from the place of a change to the end of the line: every
 * terminal can do that. A line that is wider than the terminal looks odd, but is right. Escape sequences of keys are
 * those of ECMA-48 terminals (ESC [ A, ESC [ 3 ~, ESC O H); unknown ones are swallowed. */
#include "monitor/line.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/types.h"
#include "monitor/monitor.h"

#define HISTORY 64u
#define CTRL(letter) ((letter) & 0x1f)

enum escape { ESCAPE_NONE, ESCAPE_BEGUN, ESCAPE_CSI, ESCAPE_SS3 };

struct line {
    const char *prompt;
    struct line_ops ops;
    char text[MONITOR_LINE_MAX + 1];
    size_t length, at;
    enum escape escape;
    unsigned parameter;           /* of an escape sequence */
    char *history[HISTORY];       /* the newest last */
    unsigned history_count, back; /* how far back the line shown is; 0: the new one */
};

static void show(struct line *l, const char *text, size_t n)
{
    if (n > 0)
        l->ops.write(l->ops.opaque, text, n);
}

static void show_repeated(struct line *l, char c, size_t n)
{
    char text[64];
    memset(text, c, sizeof text);
    for (; n > 0; n -= n < sizeof text ? n : sizeof text)
        show(l, text, n < sizeof text ? n : sizeof text);
}

static void move_to(struct line *l, size_t at)
{
    if (at < l->at)
        show_repeated(l, '\b', l->at - at);
    else
        show(l, l->text + l->at, at - l->at);
    l->at = at;
}

/* Shows the text from the cursor on, which was `before` bytes long, and goes back to the cursor. */
static void repair(struct line *l, size_t before)
{
    size_t n = l->length - l->at, gone = before > n ? before - n : 0;
    show(l, l->text + l->at, n);
    show_repeated(l, ' ', gone);
    show_repeated(l, '\b', n + gone);
}

static void insert(struct line *l, const char *text, size_t n)
{
    if (n > MONITOR_LINE_MAX - l->length)
        n = MONITOR_LINE_MAX - l->length;
    memmove(l->text + l->at + n, l->text + l->at, l->length - l->at);
    memcpy(l->text + l->at, text, n);
    l->length += n;
    show(l, l->text + l->at, n);
    l->at += n;
    repair(l, 0);
}

/* Removes what lies between the cursor and `from`, before it. */
static void erase_from(struct line *l, size_t from)
{
    size_t end = l->at, before = l->length - from;
    move_to(l, from);
    memmove(l->text + from, l->text + end, l->length - end);
    l->length -= end - from;
    repair(l, before);
}

static void erase_next(struct line *l)
{
    if (l->at == l->length)
        return;
    memmove(l->text + l->at, l->text + l->at + 1, l->length - l->at - 1);
    l->length--;
    repair(l, l->length - l->at + 1);
}

static void replace(struct line *l, const char *text)
{
    move_to(l, l->length);
    erase_from(l, 0);
    insert(l, text, strlen(text));
}

static size_t word_begin(const struct line *l)
{
    size_t at = l->at;
    while (at > 0 && l->text[at - 1] == ' ')
        at--;
    while (at > 0 && l->text[at - 1] != ' ')
        at--;
    return at;
}

/* ---- history ---- */

static void history_add(struct line *l, const char *text)
{
    if (*text == 0 || (l->history_count > 0 && strcmp(l->history[l->history_count - 1], text) == 0))
        return;
    char *copy = strdup(text);
    check(copy != NULL);
    if (l->history_count == HISTORY) {
        free(l->history[0]);
        memmove(l->history, l->history + 1, (HISTORY - 1) * sizeof l->history[0]);
        l->history_count--;
    }
    l->history[l->history_count++] = copy;
}

static void history_show(struct line *l, unsigned back)
{
    if (back > l->history_count)
        return;
    l->back = back;
    replace(l, back == 0 ? "" : l->history[l->history_count - back]);
}

/* ---- completion ---- */

static void candidates_show(struct line *l, const char *text)
{
    const char *name;
    size_t begin;
    show(l, "\n", 1);
    for (unsigned i = 0; (name = monitor_candidate(text, i, &begin)) != NULL; i++) {
        show(l, name, strcspn(name, "|"));
        show(l, "  ", 2);
    }
    show(l, "\n", 1);
    show(l, l->prompt, strlen(l->prompt));
    show(l, l->text, l->length);
    show_repeated(l, '\b', l->length - l->at);
}

static void complete(struct line *l)
{
    char text[MONITOR_LINE_MAX + 1];
    size_t begin, common;
    memcpy(text, l->text, l->at);
    text[l->at] = 0;
    const char *first = monitor_candidate(text, 0, &begin), *name;
    if (first == NULL)
        return;
    common = strcspn(first, "|");
    unsigned n = 1;
    for (; (name = monitor_candidate(text, n, &begin)) != NULL; n++) {
        size_t same = 0;
        while (same < common && first[same] == name[same] && name[same] != '|')
            same++;
        common = same;
    }
    if (common > l->at - begin)
        insert(l, first + (l->at - begin), common - (l->at - begin));
    else if (n > 1)
        candidates_show(l, text);
    if (n == 1)
        insert(l, " ", 1);
}

/* ---- keys ---- */

static void enter(struct line *l)
{
    char text[MONITOR_LINE_MAX + 1];
    l->text[l->length] = 0;
    memcpy(text, l->text, l->length + 1);
    move_to(l, l->length);
    show(l, "\n", 1);
    history_add(l, text);
    l->length = l->at = l->back = 0;
    l->ops.line(l->ops.opaque, text);
}

static void control_key(struct line *l, char key)
{
    switch (key) {
    case CTRL('A'): move_to(l, 0); break;
    case CTRL('B'): move_to(l, l->at > 0 ? l->at - 1 : 0); break;
    case CTRL('C'):
        show(l, "^C\n", 3);
        line_prompt(l);
        break;
    case CTRL('D'):
        if (l->length == 0 && l->ops.end != NULL)
            l->ops.end(l->ops.opaque);
        else
            erase_next(l);
        break;
    case CTRL('E'): move_to(l, l->length); break;
    case CTRL('F'): move_to(l, l->at < l->length ? l->at + 1 : l->at); break;
    case CTRL('H'):
    case 0x7f: erase_from(l, l->at > 0 ? l->at - 1 : 0); break;
    case CTRL('K'): {
        size_t before = l->length - l->at;
        l->length = l->at;
        repair(l, before);
        break;
    }
    case CTRL('L'):
        show(l, "\033[H\033[2J", 7);
        show(l, l->prompt, strlen(l->prompt));
        show(l, l->text, l->length);
        show_repeated(l, '\b', l->length - l->at);
        break;
    case CTRL('N'): history_show(l, l->back > 0 ? l->back - 1 : 0); break;
    case CTRL('P'): history_show(l, l->back + 1); break;
    case CTRL('U'): erase_from(l, 0); break;
    case CTRL('W'): erase_from(l, word_begin(l)); break;
    case '\t': complete(l); break;
    case '\r':
    case '\n': enter(l); break;
    case 0x1b: l->escape = ESCAPE_BEGUN; break;
    default: break;
    }
}

/* The last byte of an escape sequence. */
static void cursor_key(struct line *l, char key)
{
    switch (key) {
    case 'A': control_key(l, CTRL('P')); break;
    case 'B': control_key(l, CTRL('N')); break;
    case 'C': control_key(l, CTRL('F')); break;
    case 'D': control_key(l, CTRL('B')); break;
    case 'H': move_to(l, 0); break;
    case 'F': move_to(l, l->length); break;
    case '~':
        if (l->parameter == 3)
            erase_next(l);
        else if (l->parameter == 1 || l->parameter == 7)
            move_to(l, 0);
        else if (l->parameter == 4 || l->parameter == 8)
            move_to(l, l->length);
        break;
    default: break;
    }
}

static void escape_key(struct line *l, char key)
{
    if (l->escape == ESCAPE_BEGUN) {
        l->escape = key == '[' ? ESCAPE_CSI : key == 'O' ? ESCAPE_SS3 : ESCAPE_NONE;
        l->parameter = 0;
    } else if (l->escape == ESCAPE_CSI && isdigit((unsigned char)key)) {
        if (l->parameter < 100)
            l->parameter = l->parameter * 10 + (unsigned)(key - '0');
    } else if (l->escape == ESCAPE_SS3 || (unsigned char)key >= 0x40) {
        l->escape = ESCAPE_NONE;
        cursor_key(l, key);
    }
}

void line_key(struct line *l, char key)
{
    if (l->escape != ESCAPE_NONE)
        escape_key(l, key);
    else if ((unsigned char)key < 0x20 || key == 0x7f)
        control_key(l, key);
    else if ((unsigned char)key < 0x7f)
        insert(l, &key, 1);
}

void line_prompt(struct line *l)
{
    l->length = l->at = l->back = 0;
    show(l, l->prompt, strlen(l->prompt));
}

struct line *line_create(const char *prompt, const struct line_ops *ops)
{
    struct line *l = calloc(1, sizeof *l);
    check(l != NULL);
    l->prompt = prompt;
    l->ops = *ops;
    return l;
}

void line_destroy(struct line *l)
{
    if (l == NULL)
        return;
    for (unsigned i = 0; i < l->history_count; i++)
        free(l->history[i]);
    free(l);
}
