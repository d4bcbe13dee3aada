/* The board's drives: images are opened here, once, and given to the controllers. */
#include "machine/pc_internal.h"

#include "host/block.h"

static bool drive_open(struct pc *pc, struct pc_drive *drive, struct error *err)
{
    const struct drive_config *config = drive->config;
    const struct block_options options = {
        .read_only = config->read_only,
        .snapshot = config->snapshot,
        .unsafe = config->unsafe,
        .raw = config->raw || config->cdrom,
        .loop = pc->config.loop,
        .queue = pc->config.repeatable ? pc->config.queue : NULL,
        .log = pc->config.log,
    };
    if (config->file == NULL)
        return true;
    drive->block = block_open(config->file, &options, err);
    return drive->block != NULL;
}

bool pc_open_drives(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < pc->config.drive_count; i++) {
        pc->drives[i].config = &pc->config.drives[i];
        pc->drive_count = i + 1;
        if (!drive_open(pc, &pc->drives[i], err))
            return false;
    }
    return true;
}

const struct pc_drive *pc_drive(const struct pc *pc, enum drive_interface interface, unsigned index)
{
    for (unsigned i = 0; i < pc->drive_count; i++)
        if (pc->drives[i].config->interface == interface && pc->drives[i].config->index == index)
            return &pc->drives[i];
    return NULL;
}

void pc_close_drives(struct pc *pc)
{
    for (unsigned i = 0; i < pc->drive_count; i++)
        block_close(pc->drives[i].block);
    pc->drive_count = 0;
}
