/* Pictures into files. */
#ifndef RING3_HOST_PICTURE_H
#define RING3_HOST_PICTURE_H

#include "base/error.h"
#include "base/screen.h"

/* Writes the picture to `path`, which is created or replaced: as PNG, or as a portable pixmap if the name ends with .ppm. False
 * with a message; then no half-written file is left. A picture without pixels is refused. */
bool picture_write(const struct screen_picture *picture, const char *path, struct error *err);

#endif
