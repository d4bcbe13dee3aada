/* From the machine's screen to the terminal, by ncurses, which sends only what has changed.
 *
 * Text. A cell is a character of Unicode with one of 16 colours in front of one of 16: the nearest to what the guest's table of
 * colours says. On terminals with eight colours bright ones are bold. If the terminal is smaller than the screen, the part around the
 * cursor is shown.
 *
 * Graphics. Two pixels, one above the other, are a cell with a half block; the picture is reduced to fit, each pixel the mean
 * of those it stands for. That takes 256 colours and UTF-8; without, a line says what mode it is.
 *
 * Pairs of colours are numbered as they come; when there are no more numbers, they begin anew.
 *
 * ncurses has one terminal at a time in static variables. It is asked only to draw: bytes from the keyboard are read elsewhere, and
 * the terminal's modes are those of host/tty.h but for output, where ncurses wants to move the cursor by new lines itself. */
#define NCURSES_WIDECHAR 1
#include <curses.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/display_internal.h"
#include "machine/pc.h"

#define PAIRS_MAX 4096u
#define PANE_SHARE 2 /* the pane has half of the terminal */
#define GOODBYE_SIZE 256u
#define HANDLERS 4u

struct drawing {
    SCREEN *screen;
    struct screen_text text;
    struct screen_picture picture;
    bool unicode, has_256;
    unsigned colors; /* of text: 1, 8 or 16 */
    unsigned pair_count, pair_limit;
    int16_t pair_of[65536];    /* by foreground * 256 + background: its number, 0 for none */
    char goodbye[GOODBYE_SIZE];
};

/* ---- colours ---- */

static unsigned distance(uint32_t a, uint32_t b)
{
    int red = (int)(a >> 16) - (int)(b >> 16), green = (int)(a >> 8 & 255) - (int)(b >> 8 & 255),
        blue = (int)(a & 255) - (int)(b & 255);
    return (unsigned)(red * red + green * green + blue * blue);
}

/* The nearest of 16 colours, as terminals number them: red is bit 0, blue bit 2. */
static unsigned nearest_of_16(uint32_t rgb)
{
    static const uint32_t colors[16] = {0x000000, 0xaa0000, 0x00aa00, 0xaa5500, 0x0000aa, 0xaa00aa, 0x00aaaa, 0xaaaaaa,
                                        0x555555, 0xff5555, 0x55ff55, 0xffff55, 0x5555ff, 0xff55ff, 0x55ffff, 0xffffff};
    unsigned best = 0;
    for (unsigned i = 1; i < 16; i++)
        if (distance(rgb, colors[i]) < distance(rgb, colors[best]))
            best = i;
    return best;
}

/* Of 256: the cube of six levels from 16 on, or the 24 greys from 232 on. */
static unsigned nearest_of_256(uint32_t rgb)
{
    static const uint8_t level[6] = {0, 95, 135, 175, 215, 255};
    unsigned part[3];
    for (unsigned i = 0; i < 3; i++) {
        unsigned value = rgb >> (16 - 8 * i) & 255;
        part[i] = value < 48 ? 0 : value < 115 ? 1 : (value - 35) / 40;
    }
    uint32_t cube = SCREEN_RGB(level[part[0]], level[part[1]], level[part[2]]);
    unsigned mean = ((rgb >> 16 & 255) + (rgb >> 8 & 255) + (rgb & 255)) / 3;
    unsigned grey = mean < 8 ? 0 : mean > 238 ? 23 : (mean - 3) / 10;
    uint32_t grey_rgb = (8 + 10 * grey) * 0x010101u;
    return distance(rgb, grey_rgb) < distance(rgb, cube) ? 232 + grey : 16 + 36 * part[0] + 6 * part[1] + part[2];
}

/* The number of a pair of colours; 0, the terminal's own, if it has none. */
static int pair_number(struct drawing *d, unsigned foreground, unsigned background)
{
    int16_t *known = &d->pair_of[foreground * 256 + background];
    if (d->pair_limit < 2)
        return 0;
    if (*known != 0)
        return *known;
    if (d->pair_count == d->pair_limit) {
        memset(d->pair_of, 0, sizeof d->pair_of);
        d->pair_count = 1;
    }
    *known = (int16_t)d->pair_count++;
    init_extended_pair(*known, (int)foreground, (int)background);
    return *known;
}

/* ---- cells ---- */

static void put_cell(int y, int x, wchar_t character, attr_t attributes, int pair)
{
    cchar_t cell;
    wchar_t text[2] = {character, 0};
    if (setcchar(&cell, text, attributes, (short)pair, NULL) == OK)
        mvadd_wch(y, x, &cell);
}

/* What is shown on terminals that have ASCII only. */
static wchar_t plain(uint16_t unicode)
{
    if (unicode < 0x7f)
        return unicode;
    if (unicode >= 0x2500 && unicode < 0x2580)
        return unicode == 0x2500 || unicode == 0x2550 ? L'-' : unicode == 0x2502 || unicode == 0x2551 ? L'|' : L'+';
    if (unicode >= 0x2580 && unicode < 0x25a1)
        return L'#';
    switch (unicode) {
    case 0x2190: case 0x25c4: return L'<';
    case 0x2192: case 0x25ba: return L'>';
    case 0x2191: case 0x25b2: return L'^';
    case 0x2193: case 0x25bc: return L'v';
    case 0x2022: case 0x00b7: case 0x2219: return L'.';
    default: return L'?';
    }
}

static void draw_cell(struct drawing *d, int y, int x, const struct screen_cell *cell)
{
    unsigned foreground = nearest_of_16(cell->foreground), background = nearest_of_16(cell->background);
    attr_t attributes = cell->blinks ? A_BLINK : 0;
    if (d->colors < 16) {
        attributes |= foreground & 8 ? A_BOLD : 0;
        foreground &= 7;
        background &= 7;
    }
    if (d->colors == 1 && background > foreground)
        attributes |= A_REVERSE;
    wchar_t character = d->unicode ? cell->unicode : plain(cell->unicode);
    put_cell(y, x, character, attributes, d->colors == 1 ? 0 : pair_number(d, foreground, background));
}

/* Where the part that is shown begins, so that the cursor is in it. */
static unsigned view(unsigned size, unsigned room, unsigned cursor)
{
    return size <= room ? 0 : cursor < room ? 0 : cursor + 1 - room;
}

static void draw_text(struct drawing *d, unsigned lines, unsigned columns)
{
    const struct screen_text *text = &d->text;
    unsigned top = view(text->rows, lines, text->cursor ? text->cursor_row : 0);
    unsigned left = view(text->columns, columns, text->cursor ? text->cursor_column : 0);
    for (unsigned y = 0; y < lines && top + y < text->rows; y++)
        for (unsigned x = 0; x < columns && left + x < text->columns; x++)
            draw_cell(d, (int)y, (int)x, &text->cells[(size_t)(top + y) * text->columns + left + x]);
    if (text->cursor)
        move((int)(text->cursor_row - top), (int)(text->cursor_column - left));
    curs_set(text->cursor);
}

/* ---- graphics ---- */

/* The mean of the pixels that one of `width` by `height` stands for. */
static uint32_t mean(const struct screen_picture *picture, unsigned x, unsigned y, unsigned width, unsigned height)
{
    unsigned x0 = x * picture->width / width, x1 = (x + 1) * picture->width / width;
    unsigned y0 = y * picture->height / height, y1 = (y + 1) * picture->height / height;
    uint64_t red = 0, green = 0, blue = 0, count = 0;
    x1 += x1 == x0;
    y1 += y1 == y0;
    for (unsigned j = y0; j < y1; j++) {
        for (unsigned i = x0; i < x1; i++, count++) {
            uint32_t rgb = picture->pixels[(size_t)j * picture->width + i];
            red += rgb >> 16 & 255;
            green += rgb >> 8 & 255;
            blue += rgb & 255;
        }
    }
    return SCREEN_RGB(red / count, green / count, blue / count);
}

static void draw_picture(struct drawing *d, unsigned lines, unsigned columns)
{
    const struct screen_picture *picture = &d->picture;
    unsigned width = columns, height = columns * picture->height / picture->width; /* half blocks are about square */
    if (height > 2 * lines) {
        height = 2 * lines;
        width = 2 * lines * picture->width / picture->height;
    }
    width = width == 0 ? 1 : width > columns ? columns : width;
    height = height < 2 ? 2 : height & ~1u;
    for (unsigned y = 0; y < height; y += 2) {
        for (unsigned x = 0; x < width; x++) {
            unsigned upper = nearest_of_256(mean(picture, x, y, width, height));
            unsigned lower = nearest_of_256(mean(picture, x, y + 1, width, height));
            put_cell((int)(y / 2), (int)x, upper == lower ? L' ' : 0x2580, 0, pair_number(d, upper, lower));
        }
    }
}

static void draw_graphics(struct drawing *d, unsigned lines, unsigned columns)
{
    curs_set(0);
    if (d->picture.width == 0)
        return;
    if (d->unicode && d->has_256)
        draw_picture(d, lines, columns);
    else
        mvprintw(0, 0, "graphics %ux%u: see it with 'ring3 screenshot'", d->picture.width, d->picture.height);
}

/* ---- beside the screen ---- */

static void draw_notice(const char *notice, unsigned lines, unsigned columns)
{
    unsigned count = 1, y;
    for (const char *at = notice; *at != 0; at++)
        count += *at == '\n';
    y = count < lines ? lines - count : 0;
    for (const char *at = notice; y < lines; y++) {
        size_t length = strcspn(at, "\n");
        attron(A_REVERSE);
        mvprintw((int)y, 0, "%-*.*s", (int)columns - (y + 1 == lines), (int)(length < columns ? length : columns - 1), at);
        attroff(A_REVERSE);
        at += length;
        if (*at == 0)
            break;
        at++;
    }
}

static void draw_pane(const struct pane *pane, unsigned first, unsigned lines, unsigned columns)
{
    attron(A_REVERSE);
    mvprintw((int)first, 0, "%-*.*s", (int)columns, (int)columns, " monitor; Ctrl-A c turns back to the guest");
    attroff(A_REVERSE);
    for (unsigned y = first + 1; y < lines; y++) {
        const char *line = pane_line(pane, lines - 1 - y);
        mvprintw((int)y, 0, "%.*s", (int)columns - (y + 1 == lines), line);
    }
    move((int)lines - 1, (int)(pane->column < columns ? pane->column : columns - 1));
    curs_set(1);
}

/* The terminal's size may change at any time; nobody tells. */
static void size_update(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0 &&
        (size.ws_row != LINES || size.ws_col != COLS))
        resizeterm(size.ws_row, size.ws_col);
}

void drawing_show(struct drawing *d, const struct pc *pc, const struct drawing_extra *extra)
{
    size_update();
    unsigned lines = LINES > 0 ? (unsigned)LINES : 1, columns = COLS > 0 ? (unsigned)COLS : 1;
    unsigned room = extra->pane != NULL && lines > 3 ? lines - lines / PANE_SHARE : lines;
    erase();
    if (pc_screen_text(pc, &d->text))
        draw_text(d, room, columns);
    else if (pc_screen_render(pc, &d->picture))
        draw_graphics(d, room, columns);
    if (extra->pane != NULL)
        draw_pane(extra->pane, room < lines ? room : 0, lines, columns);
    if (extra->notice != NULL) {
        int y, x;
        getyx(stdscr, y, x);
        draw_notice(extra->notice, lines, columns);
        move(y, x);
    }
    refresh();
}

/* ---- life ---- */

static void goodbye_add(struct drawing *d, const char *capability)
{
    const char *text = tigetstr((char *)capability);
    if (text != NULL && text != (const char *)-1 && strlen(d->goodbye) + strlen(text) < GOODBYE_SIZE)
        strcat(d->goodbye, text);
}

/* ncurses installs handlers of signals; ours stay. */
static void handlers_swap(struct sigaction saved[HANDLERS], bool back)
{
    static const int signals[HANDLERS] = {SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
    for (unsigned i = 0; i < HANDLERS; i++)
        sigaction(signals[i], back ? &saved[i] : NULL, back ? NULL : &saved[i]);
}

struct drawing *drawing_create(struct error *err)
{
    struct drawing *d = calloc(1, sizeof *d);
    const char *name = getenv("TERM");
    struct sigaction saved[HANDLERS];
    if (d == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    setlocale(LC_CTYPE, "");
    d->unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    handlers_swap(saved, false);
    d->screen = newterm(NULL, stdout, stdin);
    handlers_swap(saved, true);
    if (d->screen == NULL) {
        error_set(err, "the terminal '%s' (TERM) is not known here, or cannot place its cursor", name != NULL ? name : "");
        free(d);
        return NULL;
    }
    raw();
    noecho();
    nonl();
    leaveok(stdscr, FALSE);
    if (has_colors() && start_color() == OK) {
        use_default_colors();
        d->colors = COLORS >= 16 ? 16 : 8;
        d->has_256 = COLORS >= 256 && COLOR_PAIRS > 256;
        d->pair_limit = COLOR_PAIRS < (int)PAIRS_MAX ? (unsigned)COLOR_PAIRS : PAIRS_MAX;
    } else {
        d->colors = 1;
    }
    d->pair_count = 1;
    goodbye_add(d, "sgr0");
    goodbye_add(d, "cnorm");
    goodbye_add(d, "rmcup");
    return d;
}

void drawing_destroy(struct drawing *d)
{
    if (d == NULL)
        return;
    endwin();
    delscreen(d->screen);
    screen_text_fini(&d->text);
    screen_picture_fini(&d->picture);
    free(d);
}

const char *drawing_goodbye(const struct drawing *d)
{
    return d->goodbye;
}

void drawing_again(struct drawing *d)
{
    endwin(); /* what refresh() undoes, from the beginning */
    size_update();
    clearok(curscr, TRUE);
    refresh();
}

void drawing_beep(void)
{
    beep();
}
