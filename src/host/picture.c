/* See picture.h. PNG by libpng: 8 bits each of red, green and blue, no time stamp, so that the same picture makes the same file.
 * The file is written beside its place and moved there when it is whole. */
#include "host/picture.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_SIZE 4096

static void row_bytes(const struct screen_picture *picture, unsigned y, uint8_t *bytes)
{
    const uint32_t *pixels = picture->pixels + (size_t)y * picture->width;
    for (unsigned x = 0; x < picture->width; x++) {
        *bytes++ = (uint8_t)(pixels[x] >> 16);
        *bytes++ = (uint8_t)(pixels[x] >> 8);
        *bytes++ = (uint8_t)pixels[x];
    }
}

static bool write_ppm(const struct screen_picture *picture, FILE *file, uint8_t *row)
{
    fprintf(file, "P6\n%u %u\n255\n", picture->width, picture->height);
    for (unsigned y = 0; y < picture->height; y++) {
        row_bytes(picture, y, row);
        fwrite(row, 3, picture->width, file);
    }
    return !ferror(file);
}

static void png_failed(png_structp png, png_const_charp message)
{
    longjmp(png_jmpbuf(png), 1);
}

static void png_warned(png_structp png, png_const_charp message)
{
}

/* Nothing that changes after setjmp() is used behind it but through pointers. */
static bool write_png(const struct screen_picture *picture, FILE *file, uint8_t *row)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, png_failed, png_warned);
    png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
    if (info == NULL || setjmp(png_jmpbuf(png)) != 0) {
        if (errno == 0)
            errno = ENOMEM;
        png_destroy_write_struct(&png, &info);
        return false;
    }
    png_init_io(png, file);
    png_set_IHDR(png, info, picture->width, picture->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, 3); /* whoever asks waits, and the machine's devices with him */
    png_write_info(png, info);
    for (unsigned y = 0; y < picture->height; y++) {
        row_bytes(picture, y, row);
        png_write_row(png, row);
    }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return true;
}

static bool ends_with_ppm(const char *path)
{
    size_t length = strlen(path);
    return length >= 4 && strcasecmp(path + length - 4, ".ppm") == 0;
}

/* A file that is not a regular one, such as /dev/stdout, cannot be replaced: it is written to. */
static bool is_special(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

bool picture_write(const struct screen_picture *picture, const char *path, struct error *err)
{
    char part[PATH_SIZE];
    bool special = is_special(path);
    if (picture->width == 0 || picture->height == 0)
        return error_set(err, "%s: there is no picture to write", path);
    if ((size_t)snprintf(part, sizeof part, "%s%s", path, special ? "" : ".part") >= sizeof part)
        return error_set(err, "%.80s...: the name is too long", path);
    uint8_t *row = malloc((size_t)picture->width * 3);
    FILE *file = row != NULL ? fopen(part, "wbe") : NULL;
    if (file == NULL) {
        free(row);
        return error_set(err, "%s: %s", path, strerror(row == NULL ? ENOMEM : errno));
    }
    errno = 0;
    bool written = ends_with_ppm(path) ? write_ppm(picture, file, row) : write_png(picture, file, row);
    int cause = errno;
    free(row);
    if (fclose(file) != 0 && written) {
        written = false;
        cause = errno;
    }
    if (written && !special && rename(part, path) != 0) {
        written = false;
        cause = errno;
    }
    if (!written && !special)
        unlink(part);
    return written || error_set(err, "%s: %s", path, strerror(cause != 0 ? cause : EIO));
}
