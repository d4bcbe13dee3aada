/* Names for guest addresses: from the symbol table of an ELF file, or a System.map.
 *
 * Only reads the file; afterwards it is not needed. A symbol reaches to the next one, or as far as its size says if the
 * table knows that. Names are cut to 128 characters, and what is not printable ASCII in them becomes '?'.
 */
#ifndef RING3_BASE_SYMBOLS_H
#define RING3_BASE_SYMBOLS_H

#include "base/error.h"
#include "base/types.h"

struct symbols;

/* NULL with a message that begins with the path, if it cannot be read or has no symbols. */
struct symbols *symbols_read(const char *path, struct error *err);
/* The same, if it is an ELF file; NULL, quickly, for anything else. */
struct symbols *symbols_read_elf(const char *path);
/* The same from memory: an ELF file, or the text of a System.map. */
struct symbols *symbols_parse(const uint8_t *bytes, size_t size, struct error *err);
void symbols_destroy(struct symbols *symbols);

/* The function that `gva` lies in, and how far behind its start; NULL if none. `symbols` may be NULL. */
const char *symbols_find(const struct symbols *symbols, gva_t gva, uint64_t *offset);
/* The address of a name. */
bool symbols_lookup(const struct symbols *symbols, const char *name, gva_t *gva);

#define SYMBOLS_TEXT 160u
/* "name+0x12", "name", or "" if there is none. Returns `text`. */
const char *symbols_text(const struct symbols *symbols, gva_t gva, char text[SYMBOLS_TEXT]);

#endif
