/* From what a terminal sends to keys of a PC.
 *
 * A terminal sends characters, not keys: a letter may be capital, Ctrl-letters are control codes, Alt is an escape before the
 * character, and other keys are sequences that begin with an escape. The characters are found on an American keyboard, which is what
 * guests expect that were told nothing else. What has no key there (letters with accents, a pasted symbol) is dropped, as is a
 * sequence of no known form.
 *
 * Sequences: ECMA-48 control sequences with xterm's numbers and modifiers (1 and Shift 1, Alt 2, Ctrl 4), which nearly all terminals
 * use, the VT100's SS3, and the Linux console's for F1 to F5. */
#include <string.h>

#include "cli/display_internal.h"

#define ESCAPE 0x1b

/* For the characters from 20h to 7Eh: the key; the high bit says with Shift. */
#define S(key) ((key) | 0x80)
static const uint8_t printable[95] = {
    0x39,    S(0x02), S(0x28), S(0x04), S(0x05), S(0x06), S(0x08), 0x28,    S(0x0a), S(0x0b), S(0x09), S(0x0d),
    0x33,    0x0c,    0x34,    0x35,    0x0b,    0x02,    0x03,    0x04,    0x05,    0x06,    0x07,    0x08,
    0x09,    0x0a,    S(0x27), 0x27,    S(0x33), 0x0d,    S(0x34), S(0x35), S(0x03), S(0x1e), S(0x30), S(0x2e),
    S(0x20), S(0x12), S(0x21), S(0x22), S(0x23), S(0x17), S(0x24), S(0x25), S(0x26), S(0x32), S(0x31), S(0x18),
    S(0x19), S(0x10), S(0x13), S(0x1f), S(0x14), S(0x16), S(0x2f), S(0x11), S(0x2d), S(0x15), S(0x2c), 0x1a,
    0x2b,    0x1b,    S(0x07), S(0x0c), 0x29,    0x1e,    0x30,    0x2e,    0x20,    0x12,    0x21,    0x22,
    0x23,    0x17,    0x24,    0x25,    0x26,    0x32,    0x31,    0x18,    0x19,    0x10,    0x13,    0x1f,
    0x14,    0x16,    0x2f,    0x11,    0x2d,    0x15,    0x2c,    S(0x1a), S(0x2b), S(0x1b), S(0x29),
};
#undef S

static struct stroke character(uint8_t byte)
{
    switch (byte) {
    case 0x00: return (struct stroke){0x39, KEY_CTRL}; /* Ctrl-Space */
    case '\t': return (struct stroke){0x0f, 0};
    case '\r': return (struct stroke){0x1c, 0};
    case ESCAPE: return (struct stroke){0x01, 0};
    case 0x7f: return (struct stroke){0x0e, 0};
    default: break;
    }
    if (byte >= 0x80)
        return (struct stroke){0, 0};
    bool control = byte < ' ';
    /* Ctrl takes the upper bits away from a letter, or from [ \ ] ^ _. */
    uint8_t entry = printable[(control ? byte < 0x1b ? byte + 'a' - 1 : byte + '@' : byte) - ' '];
    return (struct stroke){entry & 0x7f, (entry & 0x80 ? KEY_SHIFT : 0) | (control ? KEY_CTRL : 0)};
}

static unsigned key_of_number(unsigned number)
{
    static const uint16_t keys[] = {
        [1] = 0xe047,  [2] = 0xe052,  [3] = 0xe053,  [4] = 0xe04f,  [5] = 0xe049,  [6] = 0xe051,  [7] = 0xe047,
        [8] = 0xe04f,  [11] = 0x3b,   [12] = 0x3c,   [13] = 0x3d,   [14] = 0x3e,   [15] = 0x3f,   [17] = 0x40,
        [18] = 0x41,   [19] = 0x42,   [20] = 0x43,   [21] = 0x44,   [23] = 0x57,   [24] = 0x58,
    };
    return number < ARRAY_LEN(keys) ? keys[number] : 0;
}

static unsigned key_of_letter(char letter)
{
    switch (letter) {
    case 'A': return 0xe048;
    case 'B': return 0xe050;
    case 'C': return 0xe04d;
    case 'D': return 0xe04b;
    case 'E': return 0x4c;
    case 'F': return 0xe04f;
    case 'H': return 0xe047;
    case 'M': return 0x1c;
    case 'P': return 0x3b;
    case 'Q': return 0x3c;
    case 'R': return 0x3d;
    case 'S': return 0x3e;
    default: return 0;
    }
}

/* Behind ESC [ : parameters and a final byte. */
static size_t control_sequence(const uint8_t *bytes, size_t n, struct stroke *stroke)
{
    unsigned numbers[2] = {0, 1}, count = 0;
    size_t at = 2;
    if (n > 2 && bytes[2] == '[') { /* the Linux console's F1 to F5 */
        if (n == 3)
            return 0;
        stroke->key = bytes[3] >= 'A' && bytes[3] <= 'E' ? 0x3bu + (bytes[3] - 'A') : 0;
        return 4;
    }
    for (; at < n && bytes[at] >= 0x20 && bytes[at] < 0x40; at++) {
        if (bytes[at] >= '0' && bytes[at] <= '9' && count < 2 && numbers[count] < 1000)
            numbers[count] = (at > 2 && bytes[at - 1] >= '0' && bytes[at - 1] <= '9' ? numbers[count] * 10 : 0) +
                             (unsigned)(bytes[at] - '0');
        else if (bytes[at] == ';')
            count++;
    }
    if (at == n)
        return n < 32 ? 0 : n; /* that long is none */
    if (bytes[at] == 'Z')
        *stroke = (struct stroke){0x0f, KEY_SHIFT};
    else
        stroke->key = bytes[at] == '~' ? key_of_number(numbers[0]) : key_of_letter((char)bytes[at]);
    stroke->held |= numbers[1] > 0 ? (numbers[1] - 1) & (KEY_SHIFT | KEY_ALT | KEY_CTRL) : 0;
    return at + 1;
}

size_t keys_parse(const uint8_t *bytes, size_t n, bool all, struct stroke *stroke)
{
    *stroke = (struct stroke){0, 0};
    if (bytes[0] != ESCAPE) {
        *stroke = character(bytes[0]);
        return 1;
    }
    if (n == 1) {
        *stroke = character(ESCAPE);
        return all ? 1 : 0;
    }
    size_t taken = 0;
    if (bytes[1] == '[' || bytes[1] == 'O') {
        if (bytes[1] == '[')
            taken = n > 2 ? control_sequence(bytes, n, stroke) : 0;
        else if (n > 2) {
            stroke->key = key_of_letter((char)bytes[2]);
            taken = 3;
        }
        if (taken != 0 || !all)
            return taken;
    }
    *stroke = character(bytes[1]); /* Alt and a character; also when a sequence's beginning is all there is */
    stroke->held |= KEY_ALT;
    return 2;
}
