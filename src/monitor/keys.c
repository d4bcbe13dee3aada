/* sendkey: keys of a PS/2 keyboard, by the names that QEMU gives them. They go down in the order of writing and up in
 * the opposite one, after a while; another sendkey lets go of the former's first. */
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "base/types.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/machine.h"
#include "machine/pc.h"
#include "monitor/internal.h"

#define HOLD_MS 100u
#define HOLD_MS_MAX 60000u

/* clang-format off */
static const struct {
    const char *name;
    unsigned key; /* as in device/ps2_keyboard.h */
} keys[] = {
    {"esc", 0x01}, {"1", 0x02}, {"2", 0x03}, {"3", 0x04}, {"4", 0x05}, {"5", 0x06}, {"6", 0x07}, {"7", 0x08},
    {"8", 0x09}, {"9", 0x0a}, {"0", 0x0b}, {"minus", 0x0c}, {"equal", 0x0d}, {"backspace", 0x0e}, {"tab", 0x0f},
    {"q", 0x10}, {"w", 0x11}, {"e", 0x12}, {"r", 0x13}, {"t", 0x14}, {"y", 0x15}, {"u", 0x16}, {"i", 0x17},
    {"o", 0x18}, {"p", 0x19}, {"bracket_left", 0x1a}, {"bracket_right", 0x1b}, {"ret", 0x1c}, {"ctrl", 0x1d},
    {"a", 0x1e}, {"s", 0x1f}, {"d", 0x20}, {"f", 0x21}, {"g", 0x22}, {"h", 0x23}, {"j", 0x24}, {"k", 0x25},
    {"l", 0x26}, {"semicolon", 0x27}, {"apostrophe", 0x28}, {"grave_accent", 0x29}, {"shift", 0x2a},
    {"backslash", 0x2b}, {"z", 0x2c}, {"x", 0x2d}, {"c", 0x2e}, {"v", 0x2f}, {"b", 0x30}, {"n", 0x31}, {"m", 0x32},
    {"comma", 0x33}, {"dot", 0x34}, {"slash", 0x35}, {"shift_r", 0x36}, {"kp_multiply", 0x37}, {"asterisk", 0x37},
    {"alt", 0x38}, {"spc", 0x39}, {"caps_lock", 0x3a}, {"f1", 0x3b}, {"f2", 0x3c}, {"f3", 0x3d}, {"f4", 0x3e},
    {"f5", 0x3f}, {"f6", 0x40}, {"f7", 0x41}, {"f8", 0x42}, {"f9", 0x43}, {"f10", 0x44}, {"num_lock", 0x45},
    {"scroll_lock", 0x46}, {"kp_7", 0x47}, {"kp_8", 0x48}, {"kp_9", 0x49}, {"kp_subtract", 0x4a}, {"kp_4", 0x4b},
    {"kp_5", 0x4c}, {"kp_6", 0x4d}, {"kp_add", 0x4e}, {"kp_1", 0x4f}, {"kp_2", 0x50}, {"kp_3", 0x51}, {"kp_0", 0x52},
    {"kp_decimal", 0x53}, {"less", 0x56}, {"f11", 0x57}, {"f12", 0x58},
    {"kp_enter", 0xe01c}, {"ctrl_r", 0xe01d}, {"kp_divide", 0xe035}, {"print", 0xe037}, {"sysrq", 0xe037},
    {"alt_r", 0xe038}, {"home", 0xe047}, {"up", 0xe048}, {"pgup", 0xe049}, {"left", 0xe04b}, {"right", 0xe04d},
    {"end", 0xe04f}, {"down", 0xe050}, {"pgdn", 0xe051}, {"insert", 0xe052}, {"delete", 0xe053}, {"meta_l", 0xe05b},
    {"meta_r", 0xe05c}, {"menu", 0xe05d}, {"pause", 0xe11d},
};
/* clang-format on */

static unsigned key_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (strlen(keys[i].name) == length && memcmp(keys[i].name, name, length) == 0)
            return keys[i].key;
    return 0;
}

static void key_unknown(struct call *call, const char *name, size_t length)
{
    const char *names[ARRAY_LEN(keys)];
    char word[40], tail[80];
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        names[i] = keys[i].name;
    snprintf(word, sizeof word, "%.*s", (int)length, name);
    call_fail(call, "there is no key '%s'%s", word, suggest_tail(word, names, ARRAY_LEN(names), tail, sizeof tail));
}

void keys_release(void *opaque)
{
    struct monitor *monitor = opaque;
    timer_disarm(&monitor->keys_up);
    while (monitor->key_count > 0)
        pc_key(vm_pc(monitor->config.vm), monitor->keys[--monitor->key_count], false);
}

/* "ctrl-alt-delete" to key numbers. */
static unsigned parse(struct call *call, const char *text, unsigned found[KEYS_HELD_MAX])
{
    unsigned n = 0;
    for (;;) {
        size_t length = strcspn(text, "-");
        unsigned key = key_find(text, length);
        if (key == 0) {
            key_unknown(call, text, length);
            return 0;
        }
        if (n == KEYS_HELD_MAX) {
            call_fail(call, "at most %u keys at a time", KEYS_HELD_MAX);
            return 0;
        }
        found[n++] = key;
        if (text[length] == 0)
            return n;
        text += length + 1;
    }
}

void call_sendkey(struct call *call)
{
    struct monitor *monitor = call->monitor;
    unsigned found[KEYS_HELD_MAX];
    unsigned long hold_ms = HOLD_MS;
    if (call->argc == 0) {
        call_fail(call, "name keys: sendkey a, sendkey ctrl-alt-delete");
        return;
    }
    if (call->argc == 2) {
        char *end;
        hold_ms = strtoul(call->argv[1], &end, 10);
        if (*end != 0 || call->argv[1][0] == '-' || hold_ms == 0 || hold_ms > HOLD_MS_MAX) {
            call_fail(call, "'%.40s' is not a time from 1 to %u ms", call->argv[1], HOLD_MS_MAX);
            return;
        }
    }
    unsigned n = parse(call, call->argv[0], found);
    if (n == 0)
        return;
    keys_release(monitor);
    for (unsigned i = 0; i < n; i++) {
        pc_key(vm_pc(call->vm), found[i], true);
        monitor->keys[monitor->key_count++] = found[i];
    }
    timer_arm(&monitor->keys_up, clock_monotonic_ns() + hold_ms * 1000000);
}
