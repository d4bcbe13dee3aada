/* Firmware: its ROM, shadow RAM, and what it is told of the machine.
 *
 * A machine that no kernel was given for starts like a plain PC: the first processor executes the last 16 bytes below 4 GiB,
 * where the firmware's ROM ends. Its last 128 KiB are seen below 1 MiB as well, as long as the host bridge sends accesses
 * there to the bus.
 *
 * Shadow RAM. The bridge's PAM registers say for each segment of C0000h..FFFFFh whether reads and whether writes go to RAM.
 * The four combinations are four ways to map a segment:
 *
 *     reads bus, writes bus    the ROM, or (below E0000h) nothing
 *     reads RAM, writes RAM    no mapping: RAM is below
 *     reads RAM, writes bus    RAM's own bytes as a ROM
 *     reads bus, writes RAM    a device that reads the one and writes the other
 *
 * The last one is slow, and code does not execute in it from the bus below E0000h; firmware is in this state only while it
 * copies itself. Nobody has to be told of its writes: who keeps something that he read from the segment's RAM has dropped it when
 * the mapping changed.
 *
 * SMRAM. There is no system management mode. While D_OPEN shows SMRAM to everybody, accesses to A0000h..BFFFFh are RAM's;
 * data only.
 *
 * Resets. The keyboard controller, port 92h, the soft kind of RCR and a shutdown of the processor are wired to INIT#, as on an AT:
 * memory and chips stay, and firmware goes on as byte 0Fh of CMOS says. That is how software for the 80286 leaves protected
 * mode. If the byte does not ask for it, firmware would only restart the machine; the board does that at once.
 *
 * The firmware configuration device is filled when all devices are there (pc_finish_firmware()); at resets only the boot order
 * may change (`once`). In CMOS are memory sizes, the boot order of old, diskette drives; its bytes are kept over resets.
 */
#include "machine/pc_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "boot/acpi_loader.h"
#include "boot/smbios.h"
#include "cpu/cpuid.h"
#include "device/fw_cfg.h"
#include "machine/machine.h"

#define FIRMWARE_DEFAULT "bios-256k.bin"
#define FIRMWARE_MAX (16 * MiB)
#define FIRMWARE_UNIT (64 * KiB)
#define ISA_ROM_SIZE (128 * KiB)
#define SEGMENTS_BASE 0xc0000u
#define SEGMENTS_END 0x100000u
#define ISA_ROM_BASE 0xe0000u
#define SEGMENTS 13u

#define CMOS_SHUTDOWN 0x0fu
#define CMOS_BOOT_2 0x38u /* high nibble: third choice; bit 0: diskettes need no signature to be booted */
#define CMOS_BOOT_1 0x3du /* first choice, second choice */

struct segment_map {
    struct pc *pc;
    gpa_t base;
    uint64_t size;
    bool known, read_ram, write_ram; /* as it is mapped now */
    const void *mapped;              /* memory_unmap_device()'s `dev`; NULL: not mapped */
};

struct boot_entry {
    unsigned index;
    char *path;
};

struct pc_firmware {
    uint8_t *rom;
    size_t rom_size;
    struct fw_cfg *fw_cfg;
    struct segment_map segments[SEGMENTS];
    bool smram_open;
    bool started; /* a reset is not the first */
    struct boot_entry *boot;
    unsigned boot_count;
};

/* ---- files ---- */

/* Where distributions put PC firmware. */
static const char *const directories[] = {"/usr/share/seabios", "/usr/share/qemu", "/usr/share/qemu-kvm"};

static int rom_open(const char *name, char *path, size_t path_size, struct error *err)
{
    for (unsigned i = 0; i < ARRAY_LEN(directories); i++) {
        snprintf(path, path_size, "%s/%s", directories[i], name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        if (errno != ENOENT) {
            error_set(err, "%s: %s", path, strerror(errno));
            return -1;
        }
    }
    error_set(err, "%s/%s: not found; install the package seabios", directories[0], name);
    return -1;
}

static bool read_whole(int fd, uint8_t *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

/* The bytes of a regular file, page-aligned; the caller frees them. Closes `fd`. */
static uint8_t *rom_read(int fd, const char *path, size_t limit, size_t *size, struct error *err)
{
    struct stat st;
    uint8_t *bytes = NULL;
    if (fstat(fd, &st) != 0)
        error_set(err, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        error_set(err, "%s: is not a regular file", path);
    else if (st.st_size == 0 || (uint64_t)st.st_size > limit)
        error_set(err, "%s: %lld bytes are no ROM (1 byte to %llu MiB)", path, (long long)st.st_size, limit / MiB);
    else if ((bytes = aligned_alloc(PAGE_SIZE, ((size_t)st.st_size + PAGE_SIZE - 1) & ~(size_t)PAGE_OFFSET_MASK)) == NULL)
        error_set(err, "out of memory");
    else if (!read_whole(fd, bytes, (size_t)st.st_size)) {
        error_set(err, "%s: cannot be read", path);
        free(bytes);
        bytes = NULL;
    }
    *size = bytes != NULL ? (size_t)st.st_size : 0;
    close(fd);
    return bytes;
}

static bool firmware_read(struct pc *pc, struct pc_firmware *firmware, struct error *err)
{
    char found[512];
    const char *path = pc->config.firmware_path;
    int fd;
    if (path != NULL) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return error_set(err, "--firmware: %s: %s", path, strerror(errno));
    } else {
        fd = rom_open(FIRMWARE_DEFAULT, found, sizeof found, err);
        if (fd < 0)
            return error_prefix(err, "firmware");
        path = found;
    }
    firmware->rom = rom_read(fd, path, FIRMWARE_MAX, &firmware->rom_size, err);
    if (firmware->rom == NULL)
        return error_prefix(err, "firmware");
    if (firmware->rom_size % FIRMWARE_UNIT != 0)
        return error_set(err, "firmware: %s: %zu bytes are not a PC's firmware: its size is a multiple of 64 KiB", path,
                         firmware->rom_size);
    log_info(pc->config.log, "firmware %s, %zu KiB", path, (size_t)(firmware->rom_size / KiB));
    return true;
}

bool pc_set_rom(struct pc *pc, struct pci_function *function, const char *name, struct error *err)
{
    char path[512];
    size_t size;
    if (pc->firmware == NULL)
        return true;
    int fd = rom_open(name, path, sizeof path, err);
    uint8_t *bytes = fd < 0 ? NULL : rom_read(fd, path, PCI_ROM_MAX, &size, err);
    bool ok = bytes != NULL && (pci_set_rom(function, bytes, size, err) || error_prefix(err, "%s", path));
    free(bytes);
    return ok;
}

/* ---- shadow RAM ---- */

/* What the bus shows at an address of a segment; NULL: nothing. */
static const uint8_t *bus_bytes(const struct pc_firmware *firmware, gpa_t gpa)
{
    uint64_t from_end = SEGMENTS_END - gpa;
    return gpa >= ISA_ROM_BASE && from_end <= firmware->rom_size ? firmware->rom + firmware->rom_size - from_end : NULL;
}

static uint64_t copying_read(void *dev, uint64_t offset, unsigned size)
{
    const struct segment_map *segment = dev;
    const uint8_t *bytes = bus_bytes(segment->pc->firmware, segment->base + offset);
    uint64_t value = UINT64_MAX;
    if (bytes != NULL)
        memcpy(&value, bytes, size);
    return value;
}

static void copying_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct segment_map *segment = dev;
    memcpy(memory_ram_base(segment->pc->config.memory) + segment->base + offset, &value, size);
}

static const struct io_ops copying_ops = {.read = copying_read, .write = copying_write, .name = "shadow RAM"};
static const struct io_ops empty_ops = {.name = "expansion ROM area"};

static void segment_map(struct segment_map *segment, bool read_ram, bool write_ram)
{
    struct pc *pc = segment->pc;
    struct memory *memory = pc->config.memory;
    if (segment->known && segment->read_ram == read_ram && segment->write_ram == write_ram)
        return;
    if (segment->mapped != NULL)
        memory_unmap_device(memory, segment->base, segment->mapped);
    segment->known = true;
    segment->read_ram = read_ram;
    segment->write_ram = write_ram;
    segment->mapped = NULL;
    uint8_t *bytes = read_ram ? memory_ram_base(memory) + segment->base : (uint8_t *)bus_bytes(pc->firmware, segment->base);
    bool ok = true;
    if (read_ram && write_ram)
        return;
    if (read_ram != write_ram && !read_ram) {
        segment->mapped = segment;
        ok = memory_map_mmio(memory, segment->base, segment->size, &copying_ops, segment, NULL);
    } else if (bytes != NULL) {
        segment->mapped = bytes;
        ok = memory_map_rom(memory, segment->base, segment->size, bytes, NULL);
    } else {
        segment->mapped = segment;
        ok = memory_map_mmio(memory, segment->base, segment->size, &empty_ops, segment, NULL);
    }
    if (!ok)
        segment->mapped = NULL; /* the tables are full: RAM stays */
}

static void pam_changed(void *opaque, gpa_t base, uint64_t size, bool read_ram, bool write_ram)
{
    struct pc *pc = opaque;
    for (unsigned i = 0; i < SEGMENTS; i++)
        if (pc->firmware != NULL && pc->firmware->segments[i].base == base)
            segment_map(&pc->firmware->segments[i], read_ram, write_ram);
}

static uint64_t smram_read(void *dev, uint64_t offset, unsigned size)
{
    struct pc *pc = dev;
    uint64_t value = 0;
    memcpy(&value, memory_ram_base(pc->config.memory) + VIDEO_BASE + offset, size);
    return value;
}

static void smram_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pc *pc = dev;
    memcpy(memory_ram_base(pc->config.memory) + VIDEO_BASE + offset, &value, size);
}

static const struct io_ops smram_ops = {.read = smram_read, .write = smram_write, .name = "SMRAM"};

static void smram_changed(void *opaque, bool enabled, bool open, bool closed)
{
    struct pc *pc = opaque;
    (void)closed; /* to whom nobody is: there is no system management mode */
    bool wanted = enabled && open;
    if (pc->firmware == NULL || wanted == pc->firmware->smram_open)
        return;
    if (!wanted)
        memory_unmap_device(pc->config.memory, VIDEO_BASE, pc);
    else if (!memory_map_mmio(pc->config.memory, VIDEO_BASE, VIDEO_SIZE, &smram_ops, pc, NULL))
        return;
    pc->firmware->smram_open = wanted;
}

const struct i440fx_ops pc_shadow_ops = {.pam = pam_changed, .smram = smram_changed};

static void segments_init(struct pc *pc)
{
    for (unsigned i = 0; i < SEGMENTS; i++) {
        bool last = i == SEGMENTS - 1;
        pc->firmware->segments[i] = (struct segment_map){
            .pc = pc, .base = SEGMENTS_BASE + 0x4000u * i, .size = last ? 0x10000 : 0x4000};
    }
}

static bool rom_map(struct pc *pc, struct error *err)
{
    const struct pc_firmware *firmware = pc->firmware;
    struct memory *memory = pc->config.memory;
    if (memory_ram_size(memory) < MiB)
        return error_set(err, "firmware needs at least 1 MiB of memory");
    return memory_map_rom(memory, 4 * GiB - firmware->rom_size, firmware->rom_size, firmware->rom, err) &&
           memory_map_ports(memory, PORT_FW_CFG, 2, &fw_cfg_ops, firmware->fw_cfg, err) &&
           memory_map_ports(memory, PORT_FW_CFG_DMA, 8, &fw_cfg_dma_ops, firmware->fw_cfg, err);
}

bool pc_create_firmware(struct pc *pc, struct error *err)
{
    if (!pc->config.firmware)
        return true;
    pc->firmware = calloc(1, sizeof *pc->firmware);
    if (pc->firmware == NULL || (pc->firmware->fw_cfg = fw_cfg_create(pc->config.memory)) == NULL)
        return error_set(err, "out of memory");
    segments_init(pc);
    return firmware_read(pc, pc->firmware, err) && rom_map(pc, err);
}

void pc_destroy_firmware(struct pc *pc)
{
    struct pc_firmware *firmware = pc->firmware;
    if (firmware == NULL)
        return;
    for (unsigned i = 0; i < firmware->boot_count; i++)
        free(firmware->boot[i].path);
    free(firmware->boot);
    fw_cfg_destroy(firmware->fw_cfg);
    free(firmware->rom);
    free(firmware);
    pc->firmware = NULL;
}

/* ---- what it is told ---- */

void pc_add_boot_device(struct pc *pc, unsigned bootindex, const char *path)
{
    struct pc_firmware *firmware = pc->firmware;
    if (firmware == NULL)
        return;
    struct boot_entry *boot = realloc(firmware->boot, (firmware->boot_count + 1) * sizeof *boot);
    check(boot != NULL);
    firmware->boot = boot;
    unsigned at = firmware->boot_count++;
    while (at > 0 && boot[at - 1].index > bootindex) {
        boot[at] = boot[at - 1];
        at--;
    }
    boot[at] = (struct boot_entry){.index = bootindex, .path = strdup(path)};
    check(boot[at].path != NULL);
}

/* A line for each, in order; the item ends with a NUL. */
static bool set_boot_order(struct pc_firmware *firmware, struct error *err)
{
    char *text = NULL;
    size_t size = 0;
    if (firmware->boot_count == 0)
        return true;
    FILE *out = open_memstream(&text, &size);
    check(out != NULL);
    for (unsigned i = 0; i < firmware->boot_count; i++)
        fprintf(out, "%s%s", i > 0 ? "\n" : "", firmware->boot[i].path);
    fclose(out);
    bool ok = fw_cfg_set_file(firmware->fw_cfg, "bootorder", text, size + 1, err);
    free(text);
    return ok;
}

static bool set_menu(struct pc *pc, struct error *err)
{
    struct fw_cfg *fw_cfg = pc->firmware->fw_cfg;
    const struct boot_choice *boot = &pc->config.boot;
    const uint32_t wait = boot->menu_wait_ms, retry = boot->retry_ms, never = UINT32_MAX;
    return fw_cfg_set_u16(fw_cfg, FW_CFG_BOOT_MENU, boot->menu, err) &&
           (wait == 0 || fw_cfg_set_file(fw_cfg, "etc/boot-menu-wait", &wait, sizeof wait, err)) &&
           fw_cfg_set_file(fw_cfg, "etc/boot-fail-wait", boot->retry ? &retry : &never, sizeof retry, err);
}

/* RAM, as firmware begins its memory map with. */
static bool set_memory_map(struct pc *pc, struct error *err)
{
    struct __attribute__((packed)) {
        uint64_t base, size;
        uint32_t type;
    } map[2];
    uint64_t size = memory_ram_size(pc->config.memory), low = size < MEMORY_LOW_MAX ? size : MEMORY_LOW_MAX;
    map[0].base = 0;
    map[0].size = low;
    map[1].base = MEMORY_HIGH_BASE;
    map[1].size = size - low;
    map[0].type = map[1].type = BOOT_RANGE_RAM;
    unsigned count = size > low ? 2 : 1;
    return fw_cfg_set(pc->firmware->fw_cfg, FW_CFG_RAM_SIZE, &low, sizeof low, err) &&
           fw_cfg_set_file(pc->firmware->fw_cfg, "etc/e820", map, count * sizeof map[0], err);
}

/* Without a display adapter the serial port is the screen: SeaBIOS then answers INT 10h there. */
static bool set_console(struct pc *pc, struct error *err)
{
    const uint16_t port = PORT_COM1;
    if (pc->vga != NULL)
        return fw_cfg_set_u16(pc->firmware->fw_cfg, FW_CFG_NOGRAPHIC, 0, err);
    return fw_cfg_set_u16(pc->firmware->fw_cfg, FW_CFG_NOGRAPHIC, 1, err) &&
           fw_cfg_set_file(pc->firmware->fw_cfg, "etc/sercon-port", &port, sizeof port, err);
}

/* S3 and S4 are not there; S5 has the type that the chip calls soft off. */
static bool set_system_states(struct pc *pc, struct error *err)
{
    const uint8_t states[6] = {0x80, 0, 0, 1, 2, 0x80 | PIIX4_SLP_TYP_S5};
    return fw_cfg_set_file(pc->firmware->fw_cfg, "etc/system-states", states, sizeof states, err);
}

/* The tables, and the script by which firmware places them. */
static bool set_acpi(struct pc *pc, struct error *err)
{
    struct fw_cfg *fw_cfg = pc->firmware->fw_cfg;
    struct acpi_description description;
    struct acpi_loader loader;
    pc_describe_acpi(pc, &description);
    if (!acpi_loader_build(&description, &loader, err))
        return false;
    bool ok = fw_cfg_set_file(fw_cfg, ACPI_LOADER_TABLES, loader.tables, loader.tables_size, err) &&
              fw_cfg_set_file(fw_cfg, ACPI_LOADER_RSDP, loader.rsdp, sizeof loader.rsdp, err) &&
              fw_cfg_set_file(fw_cfg, ACPI_LOADER_SCRIPT, loader.script, loader.script_size, err);
    acpi_loader_fini(&loader);
    return ok;
}

static bool set_smbios(struct pc *pc, struct error *err)
{
    struct fw_cfg *fw_cfg = pc->firmware->fw_cfg;
    const struct cpu_model *model = pc->cpus[0].vcpu->model;
    uint64_t size = memory_ram_size(pc->config.memory), low = size < MEMORY_LOW_MAX ? size : MEMORY_LOW_MAX;
    const struct smbios_description description = {
        .cpu_count = pc->cpu_count,
        .cpu_vendor = model->vendor,
        .cpu_name = model->brand,
        .cpu_signature = pc->cpu_signature,
        .cpu_features = pc->cpu_features,
        .low_ram = low,
        .high_ram = size - low,
    };
    struct smbios smbios;
    if (!smbios_build(&description, &smbios, err))
        return false;
    bool ok = fw_cfg_set_file(fw_cfg, "etc/smbios/smbios-tables", smbios.bytes, smbios.size, err) &&
              fw_cfg_set_file(fw_cfg, "etc/smbios/smbios-anchor", smbios.anchor, sizeof smbios.anchor, err);
    smbios_fini(&smbios);
    return ok;
}

bool pc_finish_firmware(struct pc *pc, struct error *err)
{
    if (pc->firmware == NULL)
        return true;
    struct fw_cfg *fw_cfg = pc->firmware->fw_cfg;
    const uint8_t irq0_is_pin_2 = 1;
    const uint64_t no_nodes[1 + MACHINE_CPUS_MAX] = {0};
    pc->firmware->started = true;
    return set_boot_order(pc->firmware, err) && set_menu(pc, err) && set_memory_map(pc, err) &&
           set_system_states(pc, err) && set_acpi(pc, err) && set_smbios(pc, err) && set_console(pc, err) &&
           fw_cfg_set_u16(fw_cfg, FW_CFG_NB_CPUS, (uint16_t)pc->cpu_count, err) &&
           fw_cfg_set_u16(fw_cfg, FW_CFG_MAX_CPUS, (uint16_t)pc->cpu_count, err) &&
           fw_cfg_set(fw_cfg, FW_CFG_NUMA, no_nodes, sizeof no_nodes, err) &&
           fw_cfg_set(fw_cfg, FW_CFG_IRQ0_OVERRIDE, &irq0_is_pin_2, sizeof irq0_is_pin_2, err);
}

/* ---- resets ---- */

/* What firmware is to do after an INIT that software has prepared: end an interrupt and jump, come back from a block move,
 * jump, return from an interrupt, return. */
static bool resume_wanted(const struct pc *pc)
{
    uint8_t code = mc146818_cmos(pc->rtc, CMOS_SHUTDOWN);
    return code == 0x05 || (code >= 0x09 && code <= 0x0c);
}

void pc_request_soft_reset(struct pc *pc)
{
    if (pc->firmware != NULL && resume_wanted(pc))
        pc_init_processors(pc);
    else
        pc_request_reset(pc);
}

bool pc_shutdown(struct pc *pc)
{
    if (pc->firmware == NULL || !resume_wanted(pc))
        return false;
    pc_init_processors(pc);
    return true;
}

bool pc_has_firmware(const struct pc *pc)
{
    return pc->firmware != NULL;
}

static unsigned boot_code(char letter)
{
    switch (letter) {
    case 'a': return 1;
    case 'c': return 2;
    case 'd': return 3;
    case 'n': return 4;
    default: return 0;
    }
}

/* The order of devices as old firmware's setup kept it. */
static void set_cmos_boot(struct pc *pc, const char *order)
{
    unsigned code[3] = {0};
    if (order[0] == '\0')
        order = "cad";
    for (unsigned i = 0; i < ARRAY_LEN(code) && order[i] != '\0'; i++)
        code[i] = boot_code(order[i]);
    mc146818_set_cmos(pc->rtc, CMOS_BOOT_1, (uint8_t)(code[1] << 4 | code[0]));
    mc146818_set_cmos(pc->rtc, CMOS_BOOT_2, (uint8_t)(code[2] << 4));
}

void pc_reset_firmware(struct pc *pc)
{
    const struct boot_choice *boot = &pc->config.boot;
    if (pc->firmware == NULL)
        return;
    fw_cfg_reset(pc->firmware->fw_cfg);
    pc_enable_ide(pc); /* OVMF does not */
    set_cmos_boot(pc, !pc->firmware->started && boot->once[0] != '\0' ? boot->once : boot->order);
}
