/* Intel 82441FX host bridge. See i440fx.h.
 *
 * Model. A PCI function (8086:1237) whose device-specific registers firmware programs: DRAM timing and sizes, which
 * have no effect here and are only remembered, PAM0..6 and SMRAM, which have and are reported to the board.
 *
 * PAM: seven registers, 13 segments. The high nibble of PAM0 is F0000h..FFFFFh; from the low nibble of PAM1 on each
 * nibble is 16 KiB, rising from C0000h. In a nibble bit 0 is read enable, bit 1 write enable.
 *
 * SMRAM: D_LCK, once set, stays until reset, clears D_OPEN and freezes D_OPEN, D_LCK and G_SMRAME. C_BASE_SEG reads
 * 010, the only base that the chip has (A0000h).
 *
 * Registers of this chip live in configuration space, which pci.c keeps: there is no other state.
 *
 * Not emulated: ECC and parity errors, DRAM row detection (firmware is told the memory size by other ways), the hole
 * of FDHC, turbo reset control (the PIIX3's is used by everybody).
 */
#include "device/i440fx.h"

#include <stdlib.h>

#define PMCCFG 0x50
#define DETURBO 0x52
#define DBC 0x53
#define AXC 0x54
#define DRT 0x55
#define DRAMC 0x57
#define DRAMT 0x58
#define PAM0 0x59
#define PAM6 0x5f
#define DRB0 0x60
#define FDHC 0x68
#define MTT 0x70
#define CLT 0x71
#define SMRAM 0x72
#define ERRCMD 0x90

#define SMRAM_D_OPEN 0x40
#define SMRAM_D_CLS 0x20
#define SMRAM_D_LCK 0x10
#define SMRAM_G_SMRAME 0x08
#define SMRAM_C_BASE_SEG 0x02

#define PAM_RE 1
#define PAM_WE 2

struct i440fx {
    struct pci_function *function;
    const struct i440fx_ops *ops;
    void *opaque;
};

static void pam_report(struct i440fx *i440fx, unsigned offset)
{
    uint8_t value = pci_config(i440fx->function)[offset];
    if (i440fx->ops->pam == NULL)
        return;
    for (unsigned half = 0; half < 2; half++) {
        uint8_t nibble = value >> (4 * half) & 0xf;
        gpa_t base = 0xc0000 + 0x8000 * (gpa_t)(offset - PAM0 - 1) + 0x4000 * half;
        uint64_t size = 0x4000;
        if (offset == PAM0) {
            if (half == 0)
                continue;
            base = 0xf0000;
            size = 0x10000;
        }
        i440fx->ops->pam(i440fx->opaque, base, size, nibble & PAM_RE, nibble & PAM_WE);
    }
}

static void smram_report(struct i440fx *i440fx)
{
    uint8_t value = pci_config(i440fx->function)[SMRAM];
    if (i440fx->ops->smram != NULL)
        i440fx->ops->smram(i440fx->opaque, value & SMRAM_G_SMRAME, value & SMRAM_D_OPEN, value & SMRAM_D_CLS);
}

static void smram_set_writable(struct i440fx *i440fx, bool locked)
{
    pci_config_writable(i440fx->function)[SMRAM] =
        SMRAM_D_CLS | (locked ? 0 : SMRAM_D_OPEN | SMRAM_D_LCK | SMRAM_G_SMRAME);
}

static void i440fx_config_written(void *dev, unsigned offset, unsigned size)
{
    struct i440fx *i440fx = dev;
    uint8_t *config = pci_config(i440fx->function);
    for (unsigned i = offset; i < offset + size; i++) {
        if (i >= PAM0 && i <= PAM6)
            pam_report(i440fx, i);
        if (i == SMRAM) {
            if (config[SMRAM] & SMRAM_D_LCK) {
                config[SMRAM] &= (uint8_t)~SMRAM_D_OPEN;
                smram_set_writable(i440fx, true);
            }
            smram_report(i440fx);
        }
    }
}

static void i440fx_reset(void *dev)
{
    struct i440fx *i440fx = dev;
    uint8_t *config = pci_config(i440fx->function);
    /* The bridge always answers memory cycles and is always a master. */
    pci_config_set16(i440fx->function, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    for (unsigned i = PMCCFG; i <= CLT; i++)
        config[i] = 0;
    config[PMCCFG + 1] = 0x01;
    config[DBC] = 0x80;
    config[DRAMC] = 0x01;
    config[DRAMT] = 0x10;
    for (unsigned i = 0; i < 8; i++)
        config[DRB0 + i] = 0x01;
    config[SMRAM] = SMRAM_C_BASE_SEG;
    smram_set_writable(i440fx, false);
    for (unsigned i = PAM0; i <= PAM6; i++)
        pam_report(i440fx, i);
    smram_report(i440fx);
}

static const struct pci_function_ops i440fx_pci_ops = {.config_written = i440fx_config_written, .reset = i440fx_reset};

static void writable_init(uint8_t *writable)
{
    static const struct {
        uint8_t offset, mask;
    } rows[] = {
        {PMCCFG, 0x60},   {PMCCFG + 1, 0xff}, {DETURBO, 0xff},  {DBC, 0xf7},      {AXC, 0x02},      {DRT, 0xff},
        {DRT + 1, 0xff},  {DRAMC, 0x3f},      {DRAMT, 0x77},    {PAM0, 0x70},     {PAM0 + 1, 0x77}, {PAM0 + 2, 0x77},
        {PAM0 + 3, 0x77}, {PAM0 + 4, 0x77},   {PAM0 + 5, 0x77}, {PAM6, 0x77},     {DRB0, 0xff},     {DRB0 + 1, 0xff},
        {DRB0 + 2, 0xff}, {DRB0 + 3, 0xff},   {DRB0 + 4, 0xff}, {DRB0 + 5, 0xff}, {DRB0 + 6, 0xff}, {DRB0 + 7, 0xff},
        {FDHC, 0xc0},     {MTT, 0xf8},        {CLT, 0xf8},      {ERRCMD, 0xff},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        writable[rows[i].offset] = rows[i].mask;
    /* Hard-wired command bits; the latency timer is there, the cache line size is not. */
    writable[PCI_COMMAND] = PCI_COMMAND_PARITY;
    writable[PCI_COMMAND + 1] = PCI_COMMAND_SERR >> 8;
    writable[PCI_CACHE_LINE] = 0;
}

struct i440fx *i440fx_create(struct pci_host *host, const struct i440fx_ops *ops, void *opaque, struct error *err)
{
    static const struct pci_function_desc desc = {
        .vendor_id = 0x8086, .device_id = 0x1237, .revision = 2, .class_code = 0x060000,
        .subsystem_vendor_id = 0x1af4, .subsystem_id = 0x1100, .ops = &i440fx_pci_ops};
    static const struct i440fx_ops no_ops;
    struct i440fx *i440fx = calloc(1, sizeof *i440fx);
    if (i440fx == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    i440fx->ops = ops != NULL ? ops : &no_ops;
    i440fx->opaque = opaque;
    i440fx->function = pci_add_function(host, 0, 0, &desc, i440fx, err);
    if (i440fx->function == NULL) {
        free(i440fx);
        return NULL;
    }
    writable_init(pci_config_writable(i440fx->function));
    i440fx_reset(i440fx);
    return i440fx;
}

void i440fx_destroy(struct i440fx *i440fx)
{
    free(i440fx);
}
