/* Files on the disk: a volume without directories, each file in one piece.
 *
 * So did the small systems of the seventies. A file is where it begins and how long it is, which one entry of the directory
 * says; to read is to compute a sector. The price is paid when files are made, since nobody knows how long they become: a
 * new one gets half of the largest gap, may grow into what follows while that is free, and gives back what it did not need
 * when it is closed. Gaps come and stay; there is nobody here to move files together.
 *
 * The directory is in memory as well, and its sector is written when an entry changes. A file whose entry is gone while
 * somebody has it open reads as empty.
 *
 * Only in the build for a whole PC. */
#include "volume.h"
#include "kernel.h"

#ifdef WHOLE_PC
#define ENTRIES_IN_SECTOR (SECTOR / sizeof(struct volume_entry))

static struct volume_entry entries[VOLUME_FILES];
static struct file files[VOLUME_FILES]; /* what the rest of the kernel knows of them */
static uint32_t end;                    /* sectors of the volume */

bool volume_mount(void)
{
    struct volume_label label;
    if (!disk_read(VOLUME_LABEL, 0, &label, sizeof(label)) || memcmp(label.magic, VOLUME_MAGIC, sizeof(VOLUME_MAGIC)) != 0)
        return false;
    end = label.sectors < disk_sectors() ? label.sectors : disk_sectors();
    for (unsigned i = 0; i < VOLUME_FILES; i++) {
        struct volume_entry *e = &entries[i];
        if (!disk_read(VOLUME_DIRECTORY + i / ENTRIES_IN_SECTOR, i % ENTRIES_IN_SECTOR * sizeof(*e), e, sizeof(*e)))
            return false;
        e->name[sizeof(e->name) - 1] = 0;
        e->changed = 0;
        if (e->start < VOLUME_DATA || e->start > end || e->room > end - e->start || e->size > (uint64_t)e->room * SECTOR)
            e->name[0] = 0; /* not what we have written */
        files[i] = (struct file){.name = e->name, .entry = e};
    }
    return true;
}

static bool entry_write(const struct volume_entry *e)
{
    unsigned i = (unsigned)(e - entries);
    return disk_write(VOLUME_DIRECTORY + i / ENTRIES_IN_SECTOR, i % ENTRIES_IN_SECTOR * sizeof(*e), e, sizeof(*e));
}

const struct file *volume_at(unsigned i)
{
    return i < VOLUME_FILES ? &files[i] : NULL;
}

const struct file *volume_find(const char *name)
{
    for (unsigned i = 0; i < VOLUME_FILES; i++)
        if (name[0] != 0 && strcmp(entries[i].name, name) == 0)
            return &files[i];
    return NULL;
}

/* The first file at or behind a sector: where what is free ends. */
static uint32_t free_until(uint32_t from)
{
    uint32_t until = end;
    for (struct volume_entry *e = entries; e < entries + VOLUME_FILES; e++)
        if (e->name[0] != 0 && e->room != 0 && e->start >= from && e->start < until)
            until = e->start;
    return until;
}

/* The largest gap begins at the start of the data or behind a file. */
static uint32_t gap_find(uint32_t *start)
{
    *start = VOLUME_DATA;
    uint32_t largest = free_until(VOLUME_DATA) - VOLUME_DATA;
    for (struct volume_entry *e = entries; e < entries + VOLUME_FILES; e++) {
        uint32_t from = e->start + e->room;
        if (e->name[0] == 0 || e->room == 0)
            continue;
        if (free_until(from) - from > largest) {
            largest = free_until(from) - from;
            *start = from;
        }
    }
    return largest;
}

const struct file *volume_create(const char *name)
{
    const struct file *old = volume_find(name);
    if (old != NULL) { /* it begins anew where it is */
        old->entry->size = 0;
        old->entry->changed = 1;
        return entry_write(old->entry) ? old : NULL;
    }
    for (unsigned i = 0; i < VOLUME_FILES; i++) {
        struct volume_entry *e = &entries[i];
        if (e->name[0] != 0)
            continue;
        uint32_t start, gap = gap_find(&start);
        if (gap == 0 || name[0] == 0)
            return NULL;
        *e = (struct volume_entry){.start = start, .room = (gap + 1) / 2, .changed = 1};
        name_copy(e->name, name, sizeof(e->name));
        return entry_write(e) ? &files[i] : NULL;
    }
    return NULL;
}

bool volume_remove(const char *name)
{
    const struct file *file = volume_find(name);
    if (file == NULL)
        return false;
    *file->entry = (struct volume_entry){.start = VOLUME_DATA};
    return entry_write(file->entry);
}

word volume_size(const struct volume_entry *entry)
{
    return entry->size;
}

/* A sector for each turn, or what is wanted of it. */
bool volume_read(const struct volume_entry *entry, word offset, void *to, word n)
{
    if (offset > entry->size || n > entry->size - offset)
        return false;
    for (word done = 0; done < n;) {
        unsigned from = (unsigned)((offset + done) % SECTOR), some = SECTOR - from;
        if (some > n - done)
            some = (unsigned)(n - done);
        if (!disk_read((uint32_t)(entry->start + (offset + done) / SECTOR), from, (char *)to + done, some))
            return false;
        done += some;
    }
    return true;
}

/* How much of it there was room for; (word)-1: none. */
word volume_write(struct volume_entry *entry, word offset, const void *from, word n)
{
    if (entry->name[0] == 0 || offset > entry->size)
        return (word)-1;
    word done = 0;
    entry->changed = 1;
    while (done < n) {
        uint32_t sector = (uint32_t)((offset + done) / SECTOR);
        if (sector == entry->room && free_until(entry->start + sector) > entry->start + sector)
            entry->room++;
        if (sector >= entry->room)
            break;
        unsigned at = (unsigned)((offset + done) % SECTOR), some = SECTOR - at;
        if (some > n - done)
            some = (unsigned)(n - done);
        if (!disk_write(entry->start + sector, at, (const char *)from + done, some))
            break;
        done += some;
        if (offset + done > entry->size)
            entry->size = (uint32_t)(offset + done);
    }
    return done > 0 || n == 0 ? done : (word)-1;
}

void volume_close(struct volume_entry *entry)
{
    uint32_t needed = (entry->size + SECTOR - 1) / SECTOR;
    if (entry->name[0] == 0 || !entry->changed)
        return;
    entry->room = needed != 0 ? needed : 1;
    entry->changed = 0;
    entry_write(entry);
    disk_flush();
}
#endif
