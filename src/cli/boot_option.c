/* See boot_option.h. Unset fields stay as they are, so that the option may be given more than once. */
#include "cli/boot_option.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "base/types.h"

#define LETTERS "acdn"
#define WORD_MAX 32u
#define TIME_MAX_MS 0xffffu

static bool parse_order(const char *value, char order[BOOT_CHOICE_DEVICES + 1], struct error *err)
{
    size_t n = strlen(value);
    if (n == 0)
        return error_set(err, "the devices to boot from are missing: letters of %s", LETTERS);
    for (size_t i = 0; i < n; i++) {
        if (strchr(LETTERS, value[i]) == NULL)
            return error_set(err, "'%c' is no device to boot from: a is the diskette, c the disk, d the CD-ROM, n the network",
                             isprint((unsigned char)value[i]) ? value[i] : '?');
        if (strchr(value, value[i]) != &value[i])
            return error_set(err, "'%c' is there twice", value[i]);
    }
    memcpy(order, value, n + 1);
    return true;
}

static bool parse_switch(const char *key, const char *value, bool *on, struct error *err)
{
    *on = strcmp(value, "on") == 0;
    return *on || strcmp(value, "off") == 0 || error_set(err, "%s is on or off, not '%s'", key, value);
}

static bool parse_ms(const char *key, const char *value, uint32_t *ms, struct error *err)
{
    char *end;
    unsigned long number = strtoul(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || *end != '\0' || number > TIME_MAX_MS)
        return error_set(err, "%s is a number of milliseconds from 0 to %u, not '%s'", key, TIME_MAX_MS, value);
    *ms = (uint32_t)number;
    return true;
}

static bool parse_retry(const char *key, const char *value, struct boot_choice *boot, struct error *err)
{
    boot->retry = strcmp(value, "-1") != 0;
    return !boot->retry || parse_ms(key, value, &boot->retry_ms, err);
}

static bool parse_pair(const char *key, const char *value, struct boot_choice *boot, struct error *err)
{
    static const char *const keys[] = {"order", "once", "menu", "splash-time", "reboot-timeout", "strict"};
    char tail[80];
    bool strict;
    if (strcmp(key, "order") == 0)
        return parse_order(value, boot->order, err);
    if (strcmp(key, "once") == 0)
        return parse_order(value, boot->once, err);
    if (strcmp(key, "menu") == 0)
        return parse_switch(key, value, &boot->menu, err);
    if (strcmp(key, "splash-time") == 0)
        return parse_ms(key, value, &boot->menu_wait_ms, err);
    if (strcmp(key, "reboot-timeout") == 0)
        return parse_retry(key, value, boot, err);
    if (strcmp(key, "strict") == 0)
        return parse_switch(key, value, &strict, err) &&
               (!strict || error_set(err, "strict=on is not possible: firmware tries all that it finds"));
    return error_set(err, "'%s' is not one of order, once, menu, splash-time, reboot-timeout%s", key,
                     suggest_tail(key, keys, ARRAY_LEN(keys), tail, sizeof tail));
}

bool boot_option_parse(const char *text, struct boot_choice *boot, struct error *err)
{
    if (strchr(text, '=') == NULL)
        return parse_order(text, boot->order, err);
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        char key[WORD_MAX], value[WORD_MAX];
        const char *equals = memchr(text, '=', length);
        if (length >= WORD_MAX || equals == NULL)
            return error_set(err, "'%.*s' is not KEY=VALUE, as in order=dc,menu=on", (int)length, text);
        snprintf(key, sizeof key, "%.*s", (int)(equals - text), text);
        snprintf(value, sizeof value, "%.*s", (int)(text + length - equals - 1), equals + 1);
        if (!parse_pair(key, value, boot, err))
            return false;
        text += length + (text[length] == ',');
    }
    return true;
}
