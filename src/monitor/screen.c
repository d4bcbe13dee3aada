/* screendump: what the machine's screen shows, as a file. */
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
