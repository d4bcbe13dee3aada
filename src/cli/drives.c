/* Drives on the command line. Written for people who know QEMU: `--drive file=disk.img,if=virtio`, `--hda`, `--cdrom`;
 * a comma in a file's name is written twice.
 *
 * Places. IDE has four: primary master (0), primary slave, secondary master (2), secondary slave. A CD-ROM drive
 * without an index goes to 2, or to the first that is free; a disk to the first that is free. */
#include "cli/drives.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/suggest.h"
#include "base/types.h"

#define CDROM_INDEX 2u
#define BOOT_INDEX_MAX 9999
#define SERIAL_MAX 20u
/* ISO 9660: the volume descriptors begin at sector 16 with the identifier behind a byte of type. */
#define ISO_IDENTIFIER_AT (16 * 2048 + 1)

static const char *const interface_names[] = {"ide", "virtio", "floppy"};
_Static_assert(DRIVE_IDE == 0 && DRIVE_VIRTIO == 1 && DRIVE_FLOPPY == 2 && DRIVE_INTERFACES == 3,
               "numbers interface_names");

/* ---- values of keys ---- */

static bool choose(const char *value, const char *const *names, unsigned count, unsigned *choice, struct error *err)
{
    char list[128] = "", tail[80];
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(value, names[i]) == 0) {
            *choice = i;
            return true;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i > 0 ? ", " : "", names[i]);
    }
    return error_set(err, "'%.60s' is not one of %s%s", value, list,
                     suggest_tail(value, names, count, tail, sizeof tail));
}

static bool number(const char *value, int max, int *result, struct error *err)
{
    char *end;
    long n = strtol(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || *end != 0 || n > max)
        return error_set(err, "'%.60s' is not a number from 0 to %d", value, max);
    *result = (int)n;
    return true;
}

/* What a drive is made of while its option is read. */
struct reading {
    struct drive_config *drive;
    bool *placed;
};

static bool set_file(struct reading *reading, const char *value, struct error *err)
{
    reading->drive->file = value;
    return true;
}

static bool set_if(struct reading *reading, const char *value, struct error *err)
{
    unsigned choice;
    bool ok = choose(value, interface_names, ARRAY_LEN(interface_names), &choice, err);
    if (ok)
        reading->drive->interface = (enum drive_interface)choice;
    return ok;
}

static bool set_media(struct reading *reading, const char *value, struct error *err)
{
    static const char *const names[] = {"disk", "cdrom"};
    unsigned choice;
    bool ok = choose(value, names, ARRAY_LEN(names), &choice, err);
    if (ok)
        reading->drive->cdrom = choice;
    return ok;
}

static bool set_format(struct reading *reading, const char *value, struct error *err)
{
    reading->drive->raw = true;
    return strcmp(value, "raw") == 0 ||
           error_set(err, "only 'raw' images can be used: convert it with 'qemu-img convert -O raw %s disk.raw'",
                     reading->drive->file != NULL ? reading->drive->file : "FILE");
}

static bool set_switch(bool *field, const char *value, struct error *err)
{
    static const char *const names[] = {"off", "on"};
    unsigned choice;
    bool ok = choose(value, names, ARRAY_LEN(names), &choice, err);
    if (ok)
        *field = choice;
    return ok;
}

static bool set_readonly(struct reading *reading, const char *value, struct error *err)
{
    return set_switch(&reading->drive->read_only, value, err);
}

static bool set_snapshot(struct reading *reading, const char *value, struct error *err)
{
    return set_switch(&reading->drive->snapshot, value, err);
}

static bool set_cache(struct reading *reading, const char *value, struct error *err)
{
    static const char *const names[] = {"writeback", "unsafe"};
    unsigned choice;
    bool ok = choose(value, names, ARRAY_LEN(names), &choice, err);
    if (ok)
        reading->drive->unsafe = choice;
    return ok;
}

static bool set_index(struct reading *reading, const char *value, struct error *err)
{
    int index;
    if (!number(value, DRIVES_MAX - 1, &index, err))
        return false;
    reading->drive->index = (unsigned)index;
    *reading->placed = true;
    return true;
}

static bool set_bootindex(struct reading *reading, const char *value, struct error *err)
{
    return number(value, BOOT_INDEX_MAX, &reading->drive->boot_index, err);
}

static bool set_id(struct reading *reading, const char *value, struct error *err)
{
    reading->drive->id = value;
    return true;
}

static bool set_serial(struct reading *reading, const char *value, struct error *err)
{
    reading->drive->serial = value;
    for (const char *c = value; *c != 0; c++)
        if (*c < 0x20 || *c > 0x7e || (size_t)(c - value) >= SERIAL_MAX)
            return error_set(err, "a serial number has at most %u characters, all of them printable ASCII", SERIAL_MAX);
    return true;
}

static const struct {
    const char *name;
    bool (*set)(struct reading *reading, const char *value, struct error *err);
} keys[] = {
    {"file", set_file},           {"if", set_if},
    {"media", set_media},         {"format", set_format},
    {"readonly", set_readonly},   {"snapshot", set_snapshot},
    {"cache", set_cache},         {"index", set_index},
    {"bootindex", set_bootindex}, {"id", set_id},
    {"serial", set_serial},
};

static bool set_key(struct reading *reading, const char *name, const char *value, struct error *err)
{
    const char *names[ARRAY_LEN(keys)];
    char tail[80];
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
        names[i] = keys[i].name;
        if (strcmp(keys[i].name, name) != 0)
            continue;
        if (value == NULL || *value == 0)
            return error_set(err, "%s needs a value", name);
        return keys[i].set(reading, value, err) || error_prefix(err, "%s", name);
    }
    if (value == NULL)
        return error_set(err, "'%.200s' is not KEY=VALUE (the image is file=%.200s)", name, name);
    return error_set(err, "there is no '%.60s'%s", name,
                     suggest_tail(name, names, ARRAY_LEN(names), tail, sizeof tail));
}

/* ---- options ---- */

/* Cuts the next element off a list, whose commas are doubled within elements. NULL at the end. */
static char *element(char **rest)
{
    char *from = *rest, *to = from, *start = from;
    if (from == NULL)
        return NULL;
    for (; *from != 0; from++) {
        if (*from == ',' && from[1] != ',')
            break;
        from += *from == ',';
        *to++ = *from;
    }
    *rest = *from == ',' ? from + 1 : NULL;
    *to = 0;
    return start;
}

/* A new drive in the list, with a copy of `text` that its strings may point into. */
static struct drive_config *append(struct drive_list *list, const char *text, struct error *err)
{
    if (list->count == DRIVES_MAX) {
        error_set(err, "more than %u drives are not possible", DRIVES_MAX);
        return NULL;
    }
    char *copy = strdup(text);
    if (copy == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    list->text[list->count] = copy;
    list->drive[list->count] = (struct drive_config){.boot_index = -1};
    return &list->drive[list->count++];
}

static bool add_keys(struct drive_list *list, const char *value, struct error *err)
{
    unsigned n = list->count;
    struct drive_config *drive = append(list, value, err);
    if (drive == NULL)
        return false;
    struct reading reading = {.drive = drive, .placed = &list->placed[n]};
    char *rest = list->text[n];
    for (char *name; (name = element(&rest)) != NULL;) {
        char *equals = strchr(name, '=');
        if (equals != NULL)
            *equals++ = 0;
        if (!set_key(&reading, name, equals, err))
            return false;
    }
    if (drive->cdrom && drive->interface != DRIVE_IDE)
        return error_set(err, "media=cdrom is possible with if=ide only");
    if (drive->file == NULL && !drive->cdrom && drive->interface != DRIVE_FLOPPY)
        return error_set(err, "which image? file=FILE is missing");
    return true;
}

bool drives_add(struct drive_list *list, const char *option, const char *value, struct error *err)
{
    if (strcmp(option, "drive") == 0)
        return add_keys(list, value, err);
    unsigned n = list->count;
    struct drive_config *drive = append(list, value, err);
    if (drive == NULL)
        return false;
    drive->file = list->text[n];
    drive->cdrom = strcmp(option, "cdrom") == 0;
    list->placed[n] = !drive->cdrom;
    if (strncmp(option, "fd", 2) == 0)
        drive->interface = DRIVE_FLOPPY;
    if (!drive->cdrom)
        drive->index = (unsigned)(option[2] - 'a'); /* hda, fdb */
    return true;
}

/* Whether the file is an ISO 9660 image and not a disk too (a hybrid image is a CD-ROM as well as a disk: what is
 * booted from a stick; as a CD-ROM it is what its makers tested most). */
static bool is_iso9660(const char *file)
{
    char identifier[5] = "";
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return false;
    ssize_t n = pread(fd, identifier, sizeof identifier, ISO_IDENTIFIER_AT);
    close(fd);
    return n == (ssize_t)sizeof identifier && memcmp(identifier, "CD001", sizeof identifier) == 0;
}

bool drives_add_positional(struct drive_list *list, const char *file, struct error *err)
{
    unsigned n = list->count;
    struct drive_config *drive = append(list, file, err);
    if (drive == NULL)
        return false;
    drive->file = list->text[n];
    drive->cdrom = is_iso9660(file);
    list->positional[n] = true;
    return true;
}

/* ---- places ---- */

static const char *place_name(const struct drive_config *drive, char name[32])
{
    static const char *const ide[DRIVES_IDE] = {"primary master", "primary slave", "secondary master",
                                                "secondary slave"};
    if (drive->interface == DRIVE_IDE)
        snprintf(name, 32, "the IDE %s", ide[drive->index]);
    else if (drive->interface == DRIVE_FLOPPY)
        snprintf(name, 32, "diskette drive %c:", 'A' + drive->index);
    else
        snprintf(name, 32, "virtio index %u", drive->index);
    return name;
}

static unsigned places(enum drive_interface interface)
{
    return interface == DRIVE_IDE ? DRIVES_IDE : interface == DRIVE_FLOPPY ? DRIVES_FLOPPY : DRIVES_MAX;
}

static bool is_taken(const struct drive_list *list, enum drive_interface interface, unsigned index)
{
    for (unsigned i = 0; i < list->count; i++)
        if (list->placed[i] && list->drive[i].interface == interface && list->drive[i].index == index)
            return true;
    return false;
}

static bool place(struct drive_list *list, unsigned n, struct error *err)
{
    struct drive_config *drive = &list->drive[n];
    unsigned index = drive->cdrom && !is_taken(list, DRIVE_IDE, CDROM_INDEX) ? CDROM_INDEX : 0;
    while (index < places(drive->interface) && is_taken(list, drive->interface, index))
        index++;
    if (index == places(drive->interface))
        return error_set(err, "%s: there is no place left: at most %u %s drives are possible%s",
                         drive->file != NULL ? drive->file : "a drive", places(drive->interface),
                         interface_names[drive->interface],
                         drive->interface == DRIVE_IDE ? "; if=virtio has more" : "");
    drive->index = index;
    list->placed[n] = true;
    return true;
}

static bool check_places(const struct drive_list *list, struct error *err)
{
    for (unsigned i = 0; i < list->count; i++) {
        const struct drive_config *a = &list->drive[i];
        if (!list->placed[i])
            continue;
        if (a->index >= places(a->interface))
            return error_set(err, "index %u: if=%s has the places 0 to %u", a->index, interface_names[a->interface],
                             places(a->interface) - 1);
        for (unsigned k = 0; k < i; k++) {
            const struct drive_config *b = &list->drive[k];
            char name[32];
            if (list->placed[k] && a->interface == b->interface && a->index == b->index)
                return error_set(err, "two drives at one place: %s is to be %s and %s", place_name(a, name),
                                 b->file != NULL ? b->file : "empty", a->file != NULL ? a->file : "empty");
        }
    }
    return true;
}

static bool place_all(struct drive_list *list, bool positional, bool cdroms, struct error *err)
{
    for (unsigned i = 0; i < list->count; i++)
        if (!list->placed[i] && list->positional[i] == positional && list->drive[i].cdrom == cdroms &&
            !place(list, i, err))
            return false;
    return true;
}

bool drives_finish(struct drive_list *list, bool snapshot, struct error *err)
{
    for (unsigned i = 0; i < list->count; i++) {
        struct drive_config *drive = &list->drive[i];
        drive->snapshot |= snapshot;
        drive->read_only |= drive->cdrom;
    }
    /* Who has a place keeps it; what was named without an option is the first disk; CD-ROMs before disks, which can go
     * anywhere. */
    return check_places(list, err) && place_all(list, true, true, err) && place_all(list, true, false, err) &&
           place_all(list, false, true, err) && place_all(list, false, false, err);
}

void drives_free(struct drive_list *list)
{
    for (unsigned i = 0; i < list->count; i++)
        free(list->text[i]);
    list->count = 0;
}
