/* DMA of devices. See dma.h.
 *
 * Who watches a page sets its flag first and reads then; a device writes first and looks at the flag then, with a fence
 * between: one of the two sees the other. So a write that was under way while somebody decoded is noticed at its end.
 *
 * Device RAM (memory.h) is never watched. A page of the memfd below it is seen at one address only, which follows from where it
 * lies.
 */
#include "memory/dma.h"

static bool pieces_add(struct iovec *pieces, unsigned *count, unsigned max, uint8_t *hva, uint64_t size)
{
    if (*count == max)
        return false;
    pieces[(*count)++] = (struct iovec){.iov_base = hva, .iov_len = size};
    return true;
}

unsigned dma_map(struct memory *memory, gpa_t gpa, uint64_t size, bool write, struct iovec *pieces, unsigned max)
{
    unsigned count = 0;
    if (size == 0 || gpa + (size - 1) < gpa)
        return 0;
    uint64_t offset = gpa & PAGE_OFFSET_MASK;
    if (size <= PAGE_SIZE - offset) { /* most: within one page */
        struct page_backing page = memory_page(memory, gpa);
        if (page.kind != PAGE_RAM && (write || page.kind != PAGE_ROM))
            return 0;
        return pieces_add(pieces, &count, max, page.hva + offset, size) ? count : 0;
    }
    uint8_t *whole = memory_ram(memory, gpa, size);
    if (whole != NULL)
        return pieces_add(pieces, &count, max, whole, size) ? count : 0;
    while (size > 0) {
        struct memory_piece piece;
        if (!memory_next_piece(memory, gpa, &piece) || piece.base > gpa || (write && piece.kind != PAGE_RAM))
            return 0;
        uint64_t in = gpa - piece.base, n = piece.size - in < size ? piece.size - in : size;
        if (!pieces_add(pieces, &count, max, piece.hva + in, n))
            return 0;
        gpa += n;
        size -= n;
    }
    return count;
}

void dma_written(struct memory *memory, const void *hva, uint64_t size)
{
    const uint8_t *flags = memory_page_flags(memory);
    uint64_t offset = (uint64_t)((const uint8_t *)hva - memory_ram_base(memory));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    while (size > 0) {
        uint64_t in = offset & PAGE_OFFSET_MASK, n = PAGE_SIZE - in < size ? PAGE_SIZE - in : size;
        if (__atomic_load_n(&flags[offset >> PAGE_SHIFT], __ATOMIC_RELAXED) & PAGE_WATCHED)
            memory_notify_written(memory, offset < MEMORY_LOW_MAX ? offset : offset - MEMORY_LOW_MAX + MEMORY_HIGH_BASE,
                                  (unsigned)n);
        offset += n;
        size -= n;
    }
}
