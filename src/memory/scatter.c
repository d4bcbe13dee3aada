/* Scatter lists of guest memory. See scatter.h. */
#include "memory/scatter.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* What is mapped at one go, and in how many pieces that can be: one a page. */
#define PART (16u * PAGE_SIZE)
#define PART_PIECES (PART / PAGE_SIZE + 1)

void scatter_clear(struct scatter *scatter)
{
    scatter->count = 0;
    scatter->size = 0;
}

void scatter_free(struct scatter *scatter)
{
    free(scatter->iov);
    *scatter = (struct scatter){0};
}

static void append(struct scatter *scatter, struct iovec piece)
{
    struct iovec *last = scatter->count > 0 ? &scatter->iov[scatter->count - 1] : NULL;
    scatter->size += piece.iov_len;
    if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == (uint8_t *)piece.iov_base) {
        last->iov_len += piece.iov_len;
        return;
    }
    if (scatter->count == scatter->capacity) {
        scatter->capacity = scatter->capacity == 0 ? 16 : scatter->capacity * 2;
        scatter->iov = realloc(scatter->iov, scatter->capacity * sizeof *scatter->iov);
        check(scatter->iov != NULL);
    }
    scatter->iov[scatter->count++] = piece;
}

bool scatter_add(struct scatter *scatter, struct memory *memory, gpa_t gpa, uint64_t size, bool write)
{
    struct scatter before = *scatter;
    uint64_t last_length = before.count > 0 ? before.iov[before.count - 1].iov_len : 0;
    struct iovec pieces[PART_PIECES];
    while (size > 0) {
        uint64_t n = size < PART ? size : PART;
        unsigned count = dma_map(memory, gpa, n, write, pieces, PART_PIECES);
        if (count == 0) {
            scatter->count = before.count;
            scatter->size = before.size;
            if (before.count > 0)
                scatter->iov[before.count - 1].iov_len = last_length;
            return false;
        }
        for (unsigned i = 0; i < count; i++)
            append(scatter, pieces[i]);
        gpa += n;
        size -= n;
    }
    return true;
}

void scatter_written(const struct scatter *scatter, struct memory *memory, uint64_t size)
{
    for (unsigned i = 0; i < scatter->count && size > 0; i++) {
        uint64_t n = scatter->iov[i].iov_len < size ? scatter->iov[i].iov_len : size;
        dma_written(memory, scatter->iov[i].iov_base, n);
        size -= n;
    }
}

void scatter_copy_out(const struct scatter *scatter, void *buffer, uint64_t size)
{
    check(size <= scatter->size);
    uint8_t *to = buffer;
    for (unsigned i = 0; size > 0; i++) {
        uint64_t n = scatter->iov[i].iov_len < size ? scatter->iov[i].iov_len : size;
        memcpy(to, scatter->iov[i].iov_base, n);
        to += n;
        size -= n;
    }
}

void scatter_copy_in(const struct scatter *scatter, struct memory *memory, const void *buffer, uint64_t size)
{
    check(size <= scatter->size);
    const uint8_t *from = buffer;
    uint64_t left = size;
    for (unsigned i = 0; left > 0; i++) {
        uint64_t n = scatter->iov[i].iov_len < left ? scatter->iov[i].iov_len : left;
        memcpy(scatter->iov[i].iov_base, from, n);
        from += n;
        left -= n;
    }
    scatter_written(scatter, memory, size);
}
