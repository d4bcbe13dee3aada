/* The packet commands of a CD-ROM drive: a table, and a function for each. The medium is one session with one data
 * track in mode 1, sectors of 2048 bytes; what is larger than a CD is presented as a DVD-ROM.
 *
 * Order of checks, as MMC has it: unit attention (but for INQUIRY, REQUEST SENSE, GET CONFIGURATION and GET EVENT
 * STATUS NOTIFICATION, which always answer), then the medium, then the command's fields.
 *
 * Not here: audio, writing, raw sectors (READ CD gives user data only), subchannels, changers. Fields and pages that
 * are not served are ILLEGAL REQUEST, as the standard says.
 *
 * SFF-8020i; MMC-5 (T10/1675D), chapters 5 and 6; SPC-3 for INQUIRY and MODE SENSE. */
#include <string.h>

#include "device/ide_internal.h"

/* Sense keys. */
#define NOT_READY 0x02u
#define ILLEGAL_REQUEST 0x05u
#define UNIT_ATTENTION 0x06u

#define CD_SECTORS_MAX (80u * 60 * 75) /* what is larger must be a DVD */
#define LEAD_OUT 0xaau
#define MSF_LEAD_IN 150u
#define DATA_TRACK 0x14u /* ADR 1; a data track, copying prohibited */

/* Flags of commands. */
#define NEEDS_MEDIUM 0x01u
#define IGNORES_ATTENTION 0x02u

/* ---- numbers in packets and replies: big endian ---- */

static uint16_t get16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)get16(bytes) << 16 | get16(bytes + 2);
}

static void put16(uint8_t *bytes, uint32_t value)
{
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

static void put32(uint8_t *bytes, uint32_t value)
{
    put16(bytes, value >> 16);
    put16(bytes + 2, value);
}

static void put_text(uint8_t *bytes, size_t size, const char *text)
{
    memset(bytes, ' ', size);
    memcpy(bytes, text, strlen(text) < size ? strlen(text) : size);
}

/* Minutes, seconds, frames. */
static void put_msf(uint8_t *bytes, uint32_t lba)
{
    uint32_t frames = lba + MSF_LEAD_IN;
    bytes[0] = (uint8_t)(frames / (75 * 60) < 255 ? frames / (75 * 60) : 255);
    bytes[1] = (uint8_t)(frames / 75 % 60);
    bytes[2] = (uint8_t)(frames % 75);
}

/* ---- the medium ---- */

static bool has_medium(const struct ide_device *device)
{
    return device->block != NULL && !device->tray_open;
}

/* Sectors of 2048 bytes; what is left over at the end is not there. */
static uint32_t medium_sectors(const struct ide_device *device)
{
    uint64_t n = device->block != NULL ? block_size(device->block) / CD_SECTOR : 0;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static bool is_dvd(const struct ide_device *device)
{
    return medium_sectors(device) > CD_SECTORS_MAX;
}

static void invalid_field(struct ide_device *device)
{
    atapi_check(device, ILLEGAL_REQUEST, 0x24, 0x00);
}

/* A reply that begins zeroed. */
static uint8_t *reply_begin(struct ide_device *device, unsigned size)
{
    memset(device->buffer, 0, size);
    return device->buffer;
}

/* ---- commands ---- */

static void test_unit_ready(struct ide_device *device)
{
    atapi_good(device);
}

static void request_sense(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 18);
    struct sense sense = device->sense;
    if (sense.key == 0 && device->attention_reset) {
        sense = (struct sense){UNIT_ATTENTION, 0x29, 0x00};
        device->attention_reset = false;
    } else if (sense.key == 0 && device->attention_medium) {
        sense = (struct sense){UNIT_ATTENTION, 0x28, 0x00};
        device->attention_medium = false;
    }
    reply[0] = 0x70;
    reply[2] = sense.key;
    reply[7] = 10;
    reply[12] = sense.asc;
    reply[13] = sense.ascq;
    atapi_reply(device, 18, device->packet[4]);
}

static void inquiry(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 36);
    if (device->packet[1] & 1 || device->packet[2] != 0) {
        invalid_field(device);
        return;
    }
    reply[0] = 0x05; /* CD-ROM */
    reply[1] = 0x80; /* removable */
    reply[3] = 0x21; /* ATAPI version 2, response format 1 */
    reply[4] = 36 - 5;
    put_text(reply + 8, 8, "RING3");
    put_text(reply + 16, 16, "CD-ROM");
    put_text(reply + 32, 4, "1.0");
    atapi_reply(device, 36, get16(device->packet + 3));
}

static void mode_page_errors(uint8_t *page)
{
    page[0] = 0x01;
    page[1] = 6;
    page[3] = 5; /* retries */
}

static void mode_page_capabilities(const struct ide_device *device, uint8_t *page)
{
    page[0] = 0x2a;
    page[1] = 18;
    page[2] = 0x08;                                /* reads DVD-ROM */
    page[4] = 0x70;                                /* mode 2, multi-session */
    page[6] = (uint8_t)(0x29 | (device->locked ? 2 : 0)); /* a tray; may eject, can be locked */
    put16(page + 8, 176 * 40);                     /* kB/s, of old */
    put16(page + 12, 512);                         /* kB of buffer */
    put16(page + 14, 176 * 40);
}

static void mode_sense(struct ide_device *device)
{
    bool ten = device->packet[0] == 0x5a;
    unsigned header = ten ? 8 : 4, length = header, page = device->packet[2] & 0x3f;
    unsigned allocated = ten ? get16(device->packet + 7) : device->packet[4];
    uint8_t *reply = reply_begin(device, 64);
    if (device->packet[2] >> 6 == 3) { /* saved values */
        atapi_check(device, ILLEGAL_REQUEST, 0x39, 0x00);
        return;
    }
    bool changeable = device->packet[2] >> 6 == 1; /* none are */
    if (page == 0x01 || page == 0x3f) {
        mode_page_errors(reply + length);
        memset(reply + length + 2, 0, changeable ? 6 : 0);
        length += 8;
    }
    if (page == 0x2a || page == 0x3f) {
        mode_page_capabilities(device, reply + length);
        memset(reply + length + 2, 0, changeable ? 18 : 0);
        length += 20;
    }
    if (length == header) {
        invalid_field(device);
        return;
    }
    uint8_t medium = device->tray_open ? 0x71 : !has_medium(device) ? 0x70 : 0x01; /* of SFF-8020i: door open, none, data */
    if (ten) {
        put16(reply, length - 2);
        reply[2] = medium;
    } else {
        reply[0] = (uint8_t)(length - 1);
        reply[1] = medium;
    }
    atapi_reply(device, length, allocated);
}

static void start_stop(struct ide_device *device)
{
    bool load_eject = device->packet[4] & 2, start = device->packet[4] & 1;
    if (load_eject && !start && device->locked) {
        bool medium = has_medium(device);
        atapi_check(device, medium ? ILLEGAL_REQUEST : NOT_READY, 0x53, 0x02);
        return;
    }
    if (load_eject && device->tray_open == start) {
        device->tray_open = !start;
        device->attention_medium = start && device->block != NULL;
        device->event_new_medium = device->attention_medium;
    }
    atapi_good(device);
}

static void prevent_allow(struct ide_device *device)
{
    device->locked = device->packet[4] & 1;
    atapi_good(device);
}

static void read_capacity(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 8);
    put32(reply, medium_sectors(device) - 1);
    put32(reply + 4, CD_SECTOR);
    atapi_reply(device, 8, 8);
}

static void read_sectors(struct ide_device *device, uint32_t lba, uint32_t count)
{
    uint32_t sectors = medium_sectors(device);
    if (lba >= sectors || count > sectors - lba)
        atapi_check(device, ILLEGAL_REQUEST, 0x21, 0x00);
    else if (count == 0)
        atapi_good(device);
    else
        atapi_read_image(device, lba, count);
}

static void read_10(struct ide_device *device)
{
    read_sectors(device, get32(device->packet + 2), get16(device->packet + 7));
}

static void read_12(struct ide_device *device)
{
    read_sectors(device, get32(device->packet + 2), get32(device->packet + 6));
}

static void read_cd(struct ide_device *device)
{
    const uint8_t *packet = device->packet;
    uint32_t lba = get32(packet + 2), count = (uint32_t)packet[6] << 16 | get16(packet + 7);
    unsigned type = packet[1] >> 2 & 7; /* expected: any, or mode 1 */
    if ((type != 0 && type != 2) || (packet[9] & 0xf8 && packet[9] != 0x10) || packet[10] & 7)
        invalid_field(device);
    else
        read_sectors(device, lba, packet[9] == 0 ? 0 : count);
}

static void seek(struct ide_device *device)
{
    if (get32(device->packet + 2) >= medium_sectors(device))
        atapi_check(device, ILLEGAL_REQUEST, 0x21, 0x00);
    else
        atapi_good(device);
}

/* ---- tables of contents ---- */

static unsigned toc_entry(uint8_t *entry, unsigned track, uint32_t lba, bool msf)
{
    entry[1] = DATA_TRACK;
    entry[2] = (uint8_t)track;
    if (msf)
        put_msf(entry + 5, lba);
    else
        put32(entry + 4, lba);
    return 8;
}

/* Format 2: an entry for the first track, the last one, the lead-out, and track 1. */
static unsigned toc_full(uint8_t *reply, uint32_t sectors)
{
    static const uint8_t points[] = {0xa0, 0xa1, 0xa2, 0x01};
    unsigned length = 4;
    for (unsigned i = 0; i < sizeof points; i++, length += 11) {
        uint8_t *entry = reply + length;
        entry[0] = 1; /* session */
        entry[1] = DATA_TRACK;
        entry[3] = points[i];
        if (points[i] == 0xa2)
            put_msf(entry + 8, sectors);
        else if (points[i] == 0x01)
            put_msf(entry + 8, 0);
        else
            entry[8] = 1; /* the track's number */
    }
    return length;
}

static void read_toc(struct ide_device *device)
{
    const uint8_t *packet = device->packet;
    bool msf = packet[1] & 2;
    unsigned format = packet[2] & 0xf, start = packet[6], length = 4;
    uint8_t *reply = reply_begin(device, 64);
    if (format == 0)
        format = packet[9] >> 6; /* where SFF-8020i has it */
    reply[2] = reply[3] = 1;     /* first and last track, or session */
    if ((format == 0 && start > 1 && start != LEAD_OUT) || format > 2) {
        invalid_field(device);
        return;
    }
    if (format == 0 && start <= 1)
        length += toc_entry(reply + length, 1, 0, msf);
    if (format == 0)
        length += toc_entry(reply + length, LEAD_OUT, medium_sectors(device), msf);
    else if (format == 1)
        length += toc_entry(reply + length, 1, 0, msf);
    else
        length = toc_full(reply, medium_sectors(device));
    put16(reply, length - 2);
    atapi_reply(device, length, get16(packet + 7));
}

static void read_disc_information(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 34);
    if (device->packet[1] & 7) {
        invalid_field(device);
        return;
    }
    put16(reply, 32);
    reply[2] = 0x0e;                             /* complete; the last session too */
    reply[3] = reply[4] = reply[5] = reply[6] = 1; /* first track, sessions, tracks of the last session */
    reply[7] = 0x20;                             /* unrestricted use */
    memset(reply + 16, 0xff, 8);                 /* no lead-in or lead-out is to come */
    atapi_reply(device, 34, get16(device->packet + 7));
}

static void read_track_information(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 36);
    unsigned type = device->packet[1] & 3;
    uint32_t address = get32(device->packet + 2), sectors = medium_sectors(device);
    if (type == 3 || (type == 0 && address >= sectors) || (type != 0 && address != 1)) {
        invalid_field(device);
        return;
    }
    put16(reply, 34);
    reply[2] = reply[3] = 1; /* track, session */
    reply[5] = 0x04;         /* a data track */
    reply[6] = 0x01;         /* mode 1 */
    put32(reply + 24, sectors);
    atapi_reply(device, 36, get16(device->packet + 7));
}

/* ---- MMC: what the drive can do, and what has happened to it ---- */

static unsigned feature(uint8_t *at, unsigned code, unsigned flags, unsigned length)
{
    put16(at, code);
    at[2] = (uint8_t)flags;
    at[3] = (uint8_t)length;
    return length + 4;
}

#define FEATURE_CURRENT 0x01u
#define FEATURE_PERSISTENT 0x03u
#define PROFILE_CD_ROM 0x0008u
#define PROFILE_DVD_ROM 0x0010u

/* Appends the feature if it is asked for: all from `first` on, only the current ones, or just one. */
static unsigned feature_select(struct ide_device *device, unsigned length, unsigned code, unsigned flags, unsigned size)
{
    unsigned first = get16(device->packet + 2), which = device->packet[1] & 3;
    bool wanted = which == 2 ? code == first : code >= first && (which == 0 || flags & FEATURE_CURRENT);
    return wanted ? feature(device->buffer + length, code, flags, size) : 0;
}

static void get_configuration(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 128);
    bool medium = has_medium(device), dvd = medium && is_dvd(device), cd = medium && !dvd;
    unsigned length = 8, n;
    if ((device->packet[1] & 3) == 3) {
        invalid_field(device);
        return;
    }
    put16(reply + 6, dvd ? PROFILE_DVD_ROM : cd ? PROFILE_CD_ROM : 0);
    if ((n = feature_select(device, length, 0x0000, FEATURE_PERSISTENT, 8)) != 0) { /* profiles */
        put16(reply + length + 4, PROFILE_DVD_ROM);
        reply[length + 6] = dvd;
        put16(reply + length + 8, PROFILE_CD_ROM);
        reply[length + 10] = cd;
    }
    length += n;
    if ((n = feature_select(device, length, 0x0001, 0x08 | FEATURE_PERSISTENT, 8)) != 0) { /* core */
        put32(reply + length + 4, 2); /* ATAPI */
        reply[length + 8] = 1;        /* DBE */
    }
    length += n;
    if ((n = feature_select(device, length, 0x0003, 0x04 | FEATURE_PERSISTENT, 4)) != 0) /* removable medium */
        reply[length + 4] = 0x39; /* a tray, which can be loaded, ejected and locked */
    length += n;
    if ((n = feature_select(device, length, 0x0010, medium ? FEATURE_CURRENT : 0, 8)) != 0) { /* random readable */
        put32(reply + length + 4, CD_SECTOR);
        put16(reply + length + 8, 16);
        reply[length + 10] = 1;
    }
    length += n;
    length += feature_select(device, length, 0x001e, 0x08 | (cd ? FEATURE_CURRENT : 0), 4); /* CD read */
    length += feature_select(device, length, 0x001f, dvd ? FEATURE_CURRENT : 0, 0);         /* DVD read */
    put32(reply, length - 4);
    atapi_reply(device, length, get16(device->packet + 7));
}

static void get_event_status(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 8);
    bool media = device->packet[4] & 0x10;
    if (!(device->packet[1] & 1)) { /* asynchronous operation */
        invalid_field(device);
        return;
    }
    put16(reply, media ? 6 : 2);
    reply[2] = media ? 0x04 : 0x80; /* the class; or no event of those that were asked for */
    reply[3] = 0x10;                /* classes that there are: media */
    if (media) {
        reply[4] = device->event_eject ? 1 : device->event_new_medium ? 2 : 0;
        reply[5] = (uint8_t)((has_medium(device) ? 2 : 0) | (device->tray_open ? 1 : 0));
        if (device->event_eject)
            device->event_eject = false;
        else
            device->event_new_medium = false;
    }
    atapi_reply(device, media ? 8 : 4, get16(device->packet + 7));
}

static void mechanism_status(struct ide_device *device)
{
    uint8_t *reply = reply_begin(device, 8);
    reply[1] = device->tray_open ? 0x10 : 0;
    atapi_reply(device, 8, get16(device->packet + 8));
}

/* Format 0: what a DVD is made of: one layer of sectors from 30000h on. */
static void read_dvd_structure(struct ide_device *device)
{
    const uint8_t *packet = device->packet;
    unsigned length = packet[7] == 0x00 ? 2052 : 8; /* physical format, copyright */
    uint8_t *reply = reply_begin(device, length);
    if (!is_dvd(device)) {
        atapi_check(device, ILLEGAL_REQUEST, 0x30, 0x02); /* incompatible format */
        return;
    }
    if (packet[1] & 0xf || packet[6] != 0 || packet[7] > 0x01) {
        invalid_field(device);
        return;
    }
    put16(reply, length - 2);
    if (packet[7] == 0x00) {
        reply[4] = 0x01; /* DVD-ROM, part version 1 */
        reply[5] = 0x0f; /* 120 mm, no maximum rate */
        reply[6] = 0x01; /* one layer, embossed */
        put32(reply + 8, 0x30000);
        put32(reply + 12, 0x30000 + medium_sectors(device) - 1);
    }
    atapi_reply(device, length, get16(packet + 8));
}

static void set_cd_speed(struct ide_device *device)
{
    atapi_good(device);
}

static const struct {
    uint8_t code, flags;
    void (*execute)(struct ide_device *device);
} commands[] = {
    {0x00, NEEDS_MEDIUM, test_unit_ready},
    {0x03, IGNORES_ATTENTION, request_sense},
    {0x12, IGNORES_ATTENTION, inquiry},
    {0x1a, 0, mode_sense},
    {0x1b, 0, start_stop},
    {0x1e, 0, prevent_allow},
    {0x25, NEEDS_MEDIUM, read_capacity},
    {0x28, NEEDS_MEDIUM, read_10},
    {0x2b, NEEDS_MEDIUM, seek},
    {0x43, NEEDS_MEDIUM, read_toc},
    {0x46, IGNORES_ATTENTION, get_configuration},
    {0x4a, IGNORES_ATTENTION, get_event_status},
    {0x51, NEEDS_MEDIUM, read_disc_information},
    {0x52, NEEDS_MEDIUM, read_track_information},
    {0x5a, 0, mode_sense},
    {0xa8, NEEDS_MEDIUM, read_12},
    {0xad, NEEDS_MEDIUM, read_dvd_structure},
    {0xbb, 0, set_cd_speed},
    {0xbd, 0, mechanism_status},
    {0xbe, NEEDS_MEDIUM, read_cd},
};

/* True if there was something to tell, and it has been told. */
static bool tell_attention(struct ide_device *device)
{
    if (device->attention_reset) {
        device->attention_reset = false;
        atapi_check(device, UNIT_ATTENTION, 0x29, 0x00);
        return true;
    }
    if (device->attention_medium) {
        device->attention_medium = false;
        atapi_check(device, UNIT_ATTENTION, 0x28, 0x00);
        return true;
    }
    return false;
}

void atapi_execute(struct ide_device *device)
{
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
        if (commands[i].code != device->packet[0])
            continue;
        if (!(commands[i].flags & IGNORES_ATTENTION) && tell_attention(device))
            return;
        if (commands[i].flags & NEEDS_MEDIUM && (!has_medium(device) || medium_sectors(device) == 0))
            atapi_check(device, NOT_READY, 0x3a, device->tray_open ? 0x02 : 0x01);
        else
            commands[i].execute(device);
        return;
    }
    atapi_check(device, ILLEGAL_REQUEST, 0x20, 0x00);
}

bool ide_is_locked(const struct ide *ide, unsigned channel, unsigned unit)
{
    return ide->channel[channel].device[unit].locked;
}

bool ide_is_open(const struct ide *ide, unsigned channel, unsigned unit)
{
    return ide->channel[channel].device[unit].tray_open;
}

void ide_change_medium(struct ide *ide, unsigned channel, unsigned unit, struct block *block)
{
    struct ide_device *device = &ide->channel[channel].device[unit];
    if (device->phase == IDE_WORK) { /* what was being read cannot be */
        ide_bus_master_cancel(device);
        atapi_failed(device, 0);
    } else if (device->phase != IDE_RESET && device->phase != IDE_SLEEP && device->transfer.image) {
        ide_stop(device);
        atapi_failed(device, 0);
    }
    device->block = block;
    device->tray_open = false;
    device->attention_medium = device->event_new_medium = block != NULL;
    device->event_eject = block == NULL;
}
