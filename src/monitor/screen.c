/* What the machine's screen shows: screendump, as a file; info screen, as text. */
#include "host/picture.h"
#include "machine/machine.h"
#include "machine/pc.h"
#include "monitor/internal.h"

void call_screendump(struct call *call)
{
    struct screen_picture picture = {0};
    struct error err;
    if (*call->rest == 0)
        call_fail(call, "name a file: screendump screen.png, or .ppm");
    else if (!pc_has_vga(vm_pc(call->vm)))
        call_fail(call, "this machine has no screen (--vga none)");
    else if (!pc_screen_render(vm_pc(call->vm), &picture))
        call_fail(call, "no memory for the picture");
    else if (!picture_write(&picture, call->rest, &err))
        call_fail(call, "%s", err.message);
    screen_picture_fini(&picture);
}

/* A character of the basic plane, in UTF-8. */
static void put_unicode(FILE *out, unsigned c)
{
    if (c < 0x80) {
        fputc((int)c, out);
    } else if (c < 0x800) {
        fprintf(out, "%c%c", (char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f)));
    } else {
        fprintf(out, "%c%c%c", (char)(0xe0 | c >> 12), (char)(0x80 | (c >> 6 & 0x3f)), (char)(0x80 | (c & 0x3f)));
    }
}

/* Rows without the blanks at their ends. */
void info_screen(struct call *call)
{
    struct screen_text text = {0};
    if (!pc_has_vga(vm_pc(call->vm)))
        call_fail(call, "this machine has no screen (--vga none)");
    else if (!pc_screen_text(vm_pc(call->vm), &text))
        call_fail(call, "the screen shows no text: it is in a graphics mode (screendump makes a picture)");
    for (unsigned y = 0; y < text.rows; y++) {
        const struct screen_cell *row = &text.cells[y * text.columns];
        unsigned n = text.columns;
        while (n > 0 && (row[n - 1].unicode == 0 || row[n - 1].unicode == ' '))
            n--;
        for (unsigned x = 0; x < n; x++)
            put_unicode(call->out, row[x].unicode != 0 ? row[x].unicode : ' ');
        fputc('\n', call->out);
    }
    screen_text_fini(&text);
}
