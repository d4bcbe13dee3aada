/* Disk images. See block.h for the contract.
 *
 * Model. With threads: a request goes into the list `waiting`; a worker takes it, does it with plain blocking system
 * calls, and puts it into `finished`; the first one there wakes the loop through an eventfd, and the loop calls `done`
 * for all. Threads are started as they are needed, up to WORKERS_MAX, and stay. `mutex` guards the lists and nothing
 * else; it is taken within the device lock, and never held during a system call that may take time.
 *
 * Repeatable: `waiting` is in order of due times, and a guest timer does what is due.
 *
 * Snapshots. `overlay` is a sparse file as large as the image; a bit for each sector of 512 bytes says that it is there
 * and not in the image. Sectors that are only partly written are filled from the image first, so bits are exact.
 * Overlapping requests in flight at one time have no order, here as on disks; the bits are set atomically, after the
 * data, so that the worst they can give is old or new bytes.
 *
 * Deliberately not here: image formats with a structure of their own (refused by their magic, with the way to convert
 * them), growing and shrinking, O_DIRECT (the host's page cache is wanted: it is shared between machines and survives a
 * killed monitor).
 *
 * open(2), pread(2), fallocate(2), fcntl(2) "Open file description locks". */
#include "host/block.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "host/loop.h"

#define WORKERS_MAX 4u
#define CHUNK_IOVS 64u         /* of one system call */
#define CHUNK_BYTES (16 * MiB) /* likewise */
#define ZEROES_SIZE (64 * KiB)
#define TROUBLES_TOLD 8u /* lines in the log for one image */
/* What a repeatable disk takes, in guest time: as a good one, so that time limits of drivers hold. */
#define REPEATABLE_LATENCY_NS 50000u
#define REPEATABLE_NS_PER_BYTE 1u
#define REPEATABLE_TRANSFER_MAX_NS (100 * 1000000u) /* however large: discards */

struct block {
    char *path;
    int fd;
    uint64_t file_size; /* as the host says */
    uint64_t size;      /* rounded up */
    struct block_options options;
    unsigned troubles;
    int overlay;           /* -1: no snapshot */
    uint64_t *overlay_map; /* a bit for each sector */
    uint64_t overlay_map_size;

    /* Lists of requests. */
    struct block_request *waiting, **waiting_end;
    struct block_request *finished, **finished_end;

    /* With threads. */
    pthread_mutex_t mutex;
    pthread_cond_t work; /* for workers */
    pthread_cond_t rest; /* for block_cancel(): `busy` has become 0 */
    pthread_t worker[WORKERS_MAX];
    unsigned worker_count, idle, busy;
    bool closing;
    int event_fd;
    struct loop_source *source;

    /* Repeatable. */
    struct timer timer;
    uint64_t last_due_ns;
};

/* ---- pieces of a request's memory ---- */

struct cursor {
    const struct iovec *iov;
    unsigned count;
    size_t skip; /* bytes of iov[0] that are behind us */
};

/* The next at most `limit` bytes as an array; returns its length, and how many bytes it has. */
static unsigned cursor_gather(const struct cursor *cursor, struct iovec out[CHUNK_IOVS], uint64_t limit,
                              uint64_t *bytes)
{
    unsigned n = 0;
    size_t skip = cursor->skip;
    *bytes = 0;
    for (unsigned i = 0; i < cursor->count && n < CHUNK_IOVS && *bytes < limit; i++) {
        uint64_t length = cursor->iov[i].iov_len - skip;
        if (length > limit - *bytes)
            length = limit - *bytes;
        if (length > 0)
            out[n++] = (struct iovec){.iov_base = (char *)cursor->iov[i].iov_base + skip, .iov_len = length};
        *bytes += length;
        skip = 0;
    }
    return n;
}

static void cursor_advance(struct cursor *cursor, uint64_t bytes)
{
    while (bytes > 0) {
        check(cursor->count > 0);
        uint64_t length = cursor->iov->iov_len - cursor->skip;
        if (bytes < length) {
            cursor->skip += bytes;
            return;
        }
        bytes -= length;
        cursor->iov++;
        cursor->count--;
        cursor->skip = 0;
    }
}

static void cursor_zero(struct cursor *cursor, uint64_t bytes)
{
    while (bytes > 0) {
        struct iovec piece[CHUNK_IOVS];
        uint64_t n;
        unsigned count = cursor_gather(cursor, piece, bytes, &n);
        for (unsigned i = 0; i < count; i++)
            memset(piece[i].iov_base, 0, piece[i].iov_len);
        check(n > 0);
        cursor_advance(cursor, n);
        bytes -= n;
    }
}

/* ---- the host's file ---- */

/* `end` is where the file ended when it was opened: behind it there are zeros, before it there must be data. */
static int file_read(int fd, struct cursor *cursor, uint64_t offset, uint64_t size, uint64_t end, uint64_t *transferred)
{
    while (size > 0) {
        struct iovec piece[CHUNK_IOVS];
        uint64_t wanted;
        unsigned count = cursor_gather(cursor, piece, size < CHUNK_BYTES ? size : CHUNK_BYTES, &wanted);
        ssize_t n = preadv(fd, piece, (int)count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0 && offset < end)
            return -EIO; /* somebody has made it shorter */
        if (n == 0) {
            cursor_zero(cursor, size);
            n = (ssize_t)size;
        } else {
            cursor_advance(cursor, (uint64_t)n);
        }
        offset += (uint64_t)n;
        size -= (uint64_t)n;
        *transferred += (uint64_t)n;
    }
    return 0;
}

static int file_write(int fd, struct cursor *cursor, uint64_t offset, uint64_t size, uint64_t *transferred)
{
    while (size > 0) {
        struct iovec piece[CHUNK_IOVS];
        uint64_t wanted;
        unsigned count = cursor_gather(cursor, piece, size < CHUNK_BYTES ? size : CHUNK_BYTES, &wanted);
        ssize_t n = pwritev(fd, piece, (int)count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        cursor_advance(cursor, (uint64_t)n);
        offset += (uint64_t)n;
        size -= (uint64_t)n;
        *transferred += (uint64_t)n;
    }
    return 0;
}

static int file_write_zeroes(int fd, uint64_t offset, uint64_t size, bool may_unmap)
{
    int mode = may_unmap ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
    if (fallocate(fd, mode, (off_t)offset, (off_t)size) == 0)
        return 0;
    if (errno == ENOSPC || errno == EIO || errno == EFBIG)
        return -errno;
    static const uint8_t zeroes[ZEROES_SIZE];
    while (size > 0) { /* the file system cannot */
        uint64_t n = size < ZEROES_SIZE ? size : ZEROES_SIZE, done = 0;
        const struct iovec iov = {.iov_base = (void *)zeroes, .iov_len = n};
        struct cursor cursor = {.iov = &iov, .count = 1};
        int result = file_write(fd, &cursor, offset, n, &done);
        if (result != 0)
            return result;
        offset += n;
        size -= n;
    }
    return 0;
}

static void file_discard(int fd, uint64_t offset, uint64_t size)
{
    int ignored = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
    (void)ignored; /* a hint */
}

/* ---- the snapshot's overlay ---- */

static bool overlay_has(const struct block *block, uint64_t sector)
{
    return __atomic_load_n(&block->overlay_map[sector / 64], __ATOMIC_ACQUIRE) >> sector % 64 & 1;
}

static void overlay_mark(struct block *block, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t low = first % 64, high = end - (first - low) < 64 ? end - (first - low) : 64;
        uint64_t bits = (high == 64 ? UINT64_MAX : (1ull << high) - 1) & ~((1ull << low) - 1);
        __atomic_fetch_or(&block->overlay_map[first / 64], bits, __ATOMIC_RELEASE);
        first += high - low;
    }
}

/* Where the run of sectors that are all there, or all not, ends. */
static uint64_t overlay_run(const struct block *block, uint64_t sector, uint64_t end, bool there)
{
    while (sector < end) {
        uint64_t word = __atomic_load_n(&block->overlay_map[sector / 64], __ATOMIC_ACQUIRE);
        if (sector % 64 == 0 && word == (there ? UINT64_MAX : 0))
            sector += 64;
        else if ((word >> sector % 64 & 1) == there)
            sector++;
        else
            break;
    }
    return sector < end ? sector : end;
}

static int overlay_read(struct block *block, struct cursor *cursor, uint64_t offset, uint64_t size,
                        uint64_t *transferred)
{
    uint64_t end = offset + size, last = (end + BLOCK_SECTOR - 1) / BLOCK_SECTOR;
    while (offset < end) {
        uint64_t sector = offset / BLOCK_SECTOR;
        bool there = overlay_has(block, sector);
        uint64_t until = overlay_run(block, sector, last, there) * BLOCK_SECTOR;
        uint64_t n = (until < end ? until : end) - offset;
        int result = there ? file_read(block->overlay, cursor, offset, n, block->size, transferred)
                           : file_read(block->fd, cursor, offset, n, block->file_size, transferred);
        if (result != 0)
            return result;
        offset += n;
    }
    return 0;
}

/* Fetches a sector that will only partly be written. */
static int overlay_fill(struct block *block, uint64_t sector)
{
    if (overlay_has(block, sector))
        return 0;
    uint8_t bytes[BLOCK_SECTOR];
    uint64_t done = 0;
    const struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct cursor from = {.iov = &iov, .count = 1}, to = from;
    int result = file_read(block->fd, &from, sector * BLOCK_SECTOR, sizeof bytes, block->file_size, &done);
    return result != 0 ? result : file_write(block->overlay, &to, sector * BLOCK_SECTOR, sizeof bytes, &done);
}

static int overlay_fill_ends(struct block *block, uint64_t offset, uint64_t size)
{
    uint64_t end = offset + size;
    int result = offset % BLOCK_SECTOR != 0 ? overlay_fill(block, offset / BLOCK_SECTOR) : 0;
    return result == 0 && end % BLOCK_SECTOR != 0 ? overlay_fill(block, end / BLOCK_SECTOR) : result;
}

static int overlay_write(struct block *block, struct cursor *cursor, uint64_t offset, uint64_t size,
                         uint64_t *transferred)
{
    int result = overlay_fill_ends(block, offset, size);
    if (result == 0)
        result = file_write(block->overlay, cursor, offset, size, transferred);
    if (result == 0)
        overlay_mark(block, offset / BLOCK_SECTOR, (offset + size + BLOCK_SECTOR - 1) / BLOCK_SECTOR);
    return result;
}

static int overlay_zero(struct block *block, uint64_t offset, uint64_t size)
{
    int result = overlay_fill_ends(block, offset, size);
    if (result == 0)
        result = file_write_zeroes(block->overlay, offset, size, true);
    if (result == 0)
        overlay_mark(block, offset / BLOCK_SECTOR, (offset + size + BLOCK_SECTOR - 1) / BLOCK_SECTOR);
    return result;
}

/* ---- carrying out ---- */

static int carry_out_write(struct block *block, struct block_request *request)
{
    struct cursor cursor = {.iov = request->iov, .count = request->iov_count};
    int result;
    if (request->op == BLOCK_WRITE && block->overlay >= 0)
        return overlay_write(block, &cursor, request->offset, request->size, &request->transferred);
    if (block->overlay >= 0)
        return overlay_zero(block, request->offset, request->size);
    if (request->op == BLOCK_WRITE)
        result = file_write(block->fd, &cursor, request->offset, request->size, &request->transferred);
    else
        result = file_write_zeroes(block->fd, request->offset, request->size, request->may_unmap);
    if (result == 0 && request->durable && !block->options.unsafe && fdatasync(block->fd) != 0)
        result = -errno;
    return result;
}

static int carry_out(struct block *block, struct block_request *request)
{
    if (request->op == BLOCK_FLUSH) {
        bool nothing = block->options.unsafe || block->overlay >= 0 || block->options.read_only;
        return nothing || fdatasync(block->fd) == 0 ? 0 : -errno;
    }
    if (request->offset > block->size || request->size > block->size - request->offset)
        return -EINVAL;
    if (request->size == 0)
        return 0;
    if (request->op == BLOCK_READ) {
        struct cursor cursor = {.iov = request->iov, .count = request->iov_count};
        return block->overlay >= 0 ? overlay_read(block, &cursor, request->offset, request->size, &request->transferred)
                                   : file_read(block->fd, &cursor, request->offset, request->size, block->file_size,
                                               &request->transferred);
    }
    if (block->options.read_only)
        return -EROFS;
    if (request->op != BLOCK_DISCARD)
        return carry_out_write(block, request);
    if (block->overlay < 0)
        file_discard(block->fd, request->offset, request->size);
    return 0;
}

static void finish(struct block *block, struct block_request *request)
{
    static const char *const what[] = {"read", "write", "flush", "discard", "write zeroes"};
    int result = request->result;
    if (result != 0 && result != -EINVAL && result != -EROFS && block->troubles < TROUBLES_TOLD) {
        /* The first one always: it is the host's, and the guest cannot say what it was. */
        enum log_level level = block->troubles == 0 ? LOG_OFF : LOG_WARN;
        block->troubles++;
        log_write(block->options.log, level, "%s: %s of %" PRIu64 " bytes at %" PRIu64 ": %s%s", block->path,
                  what[request->op], request->size, request->offset, strerror(-result),
                  block->troubles == TROUBLES_TOLD ? "; further errors of this image are not told" : "");
    }
    request->done(request, result);
}

/* ---- lists ---- */

static void list_append(struct block_request ***end, struct block_request *request)
{
    request->next = NULL;
    **end = request;
    *end = &request->next;
}

static struct block_request *list_take(struct block_request **first, struct block_request ***end)
{
    struct block_request *request = *first;
    *first = request->next;
    if (*first == NULL)
        *end = first;
    return request;
}

/* ---- worker threads ---- */

static void *worker_run(void *opaque)
{
    struct block *block = opaque;
    pthread_mutex_lock(&block->mutex);
    for (;;) {
        while (block->waiting == NULL && !block->closing) {
            block->idle++;
            pthread_cond_wait(&block->work, &block->mutex);
            block->idle--;
        }
        if (block->waiting == NULL)
            break;
        struct block_request *request = list_take(&block->waiting, &block->waiting_end);
        block->busy++;
        pthread_mutex_unlock(&block->mutex);
        request->result = carry_out(block, request);
        pthread_mutex_lock(&block->mutex);
        block->busy--;
        bool first = block->finished == NULL;
        list_append(&block->finished_end, request);
        if (block->busy == 0)
            pthread_cond_broadcast(&block->rest);
        uint64_t one = 1;
        if (first && write(block->event_fd, &one, sizeof one) < 0)
            check(errno == EAGAIN); /* full: a wake is pending anyway */
    }
    pthread_mutex_unlock(&block->mutex);
    return NULL;
}

/* With the mutex. Signals stay with the threads that expect them. */
static int worker_start(struct block *block)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&block->worker[block->worker_count], NULL, worker_run, block);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    block->worker_count += code == 0;
    return code;
}

/* On the loop's thread, under the device lock. `done` may submit, and cancel. */
static void requests_finished(void *opaque, unsigned events)
{
    struct block *block = opaque;
    uint64_t count;
    ssize_t got = read(block->event_fd, &count, sizeof count);
    (void)got;
    for (;;) {
        pthread_mutex_lock(&block->mutex);
        struct block_request *request =
            block->finished != NULL ? list_take(&block->finished, &block->finished_end) : NULL;
        pthread_mutex_unlock(&block->mutex);
        if (request == NULL)
            return;
        finish(block, request);
    }
}

static bool workers_create(struct block *block, struct error *err)
{
    block->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (block->event_fd < 0)
        return error_set(err, "%s: no eventfd: %s", block->path, strerror(errno));
    pthread_mutex_lock(&block->mutex);
    int code = worker_start(block);
    pthread_mutex_unlock(&block->mutex);
    if (code != 0)
        return error_set(err, "%s: no thread can be started for it: %s", block->path, strerror(code));
    block->source = loop_add(block->options.loop, block->event_fd, LOOP_READ, requests_finished, block);
    return true;
}

static void workers_destroy(struct block *block)
{
    pthread_mutex_lock(&block->mutex);
    block->closing = true;
    pthread_cond_broadcast(&block->work);
    pthread_mutex_unlock(&block->mutex);
    for (unsigned i = 0; i < block->worker_count; i++)
        pthread_join(block->worker[i], NULL);
    loop_remove(block->source);
    if (block->event_fd >= 0)
        close(block->event_fd);
}

/* ---- repeatable ---- */

static void requests_due(void *opaque)
{
    struct block *block = opaque;
    while (block->waiting != NULL && block->waiting->due_ns <= timer_now_ns(block->options.queue)) {
        struct block_request *request = list_take(&block->waiting, &block->waiting_end);
        request->result = carry_out(block, request);
        finish(block, request);
    }
    if (block->waiting != NULL)
        timer_arm(&block->timer, block->waiting->due_ns);
}

static void submit_repeatable(struct block *block, struct block_request *request)
{
    uint64_t transfer_ns = request->op == BLOCK_FLUSH ? 0 : request->size * REPEATABLE_NS_PER_BYTE;
    if (request->size > REPEATABLE_TRANSFER_MAX_NS / REPEATABLE_NS_PER_BYTE)
        transfer_ns = REPEATABLE_TRANSFER_MAX_NS;
    uint64_t due_ns = timer_now_ns(block->options.queue) + REPEATABLE_LATENCY_NS + transfer_ns;
    if (due_ns < block->last_due_ns)
        due_ns = block->last_due_ns;
    block->last_due_ns = request->due_ns = due_ns;
    bool first = block->waiting == NULL;
    list_append(&block->waiting_end, request);
    if (first)
        timer_arm(&block->timer, due_ns);
}

/* ---- requests ---- */

void block_submit(struct block *block, struct block_request *request)
{
    request->transferred = 0;
    if (block->options.queue != NULL) {
        submit_repeatable(block, request);
        return;
    }
    pthread_mutex_lock(&block->mutex);
    list_append(&block->waiting_end, request);
    if (block->idle == 0 && block->worker_count < WORKERS_MAX)
        worker_start(block); /* if it cannot, there is another one */
    pthread_cond_signal(&block->work);
    pthread_mutex_unlock(&block->mutex);
}

void block_cancel(struct block *block)
{
    pthread_mutex_lock(&block->mutex);
    block->waiting = NULL;
    block->waiting_end = &block->waiting;
    while (block->busy > 0)
        pthread_cond_wait(&block->rest, &block->mutex);
    block->finished = NULL;
    block->finished_end = &block->finished;
    pthread_mutex_unlock(&block->mutex);
    if (block->options.queue != NULL)
        timer_disarm(&block->timer);
}

/* ---- opening ---- */

static const struct {
    const char *name;
    unsigned offset, length;
    const char *magic;
} formats[] = {
    {"qcow2", 0, 4, "QFI\xfb"}, {"vmdk", 0, 4, "KDMV"},    {"vmdk", 0, 4, "COWD"}, {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
    {"vhdx", 0, 8, "vhdxfile"}, {"vpc", 0, 8, "conectix"}, {"qed", 0, 4, "QED\0"},
};

static bool format_check(const struct block *block, struct error *err)
{
    uint8_t head[BLOCK_SECTOR] = {0};
    ssize_t n = pread(block->fd, head, sizeof head, 0);
    if (n < 0)
        return error_set(err, "%s: cannot be read: %s", block->path, strerror(errno));
    for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
        const char *name = formats[i].name;
        if (memcmp(head + formats[i].offset, formats[i].magic, formats[i].length) != 0)
            continue;
        return error_set(err,
                         "%s: is a %s image, and only raw images can be used: convert it with "
                         "'qemu-img convert -O raw %s disk.raw' (or say format=raw if its bytes are the disk's)",
                         block->path, name, block->path);
    }
    return true;
}

static bool size_find(struct block *block, const struct stat *st, struct error *err)
{
    if (S_ISBLK(st->st_mode)) {
        if (ioctl(block->fd, BLKGETSIZE64, &block->file_size) != 0)
            return error_set(err, "%s: its size cannot be found out: %s", block->path, strerror(errno));
    } else {
        block->file_size = (uint64_t)st->st_size;
    }
    if (block->file_size == 0)
        return error_set(err, "%s: is empty; make an image with 'truncate -s 8G %s'", block->path, block->path);
    if (block->file_size > INT64_MAX - BLOCK_SECTOR)
        return error_set(err, "%s: is too large", block->path);
    block->size = (block->file_size + BLOCK_SECTOR - 1) & ~(uint64_t)(BLOCK_SECTOR - 1);
    return true;
}

static bool file_lock(struct block *block, bool writing, struct error *err)
{
    struct flock lock = {.l_type = writing ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    if (fcntl(block->fd, F_OFD_SETLK, &lock) == 0)
        return true;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, "%s: is in use by another machine%s; end that one, or use a copy of the image%s",
                         block->path, writing ? "" : ", which may write to it",
                         writing ? " (readonly=on and snapshot=on can share it)" : "");
    log_info(block->options.log, "%s: cannot be locked (%s): nothing keeps others from using it", block->path,
             strerror(errno));
    return true;
}

static bool file_open(struct block *block, struct error *err)
{
    const struct block_options *options = &block->options;
    bool writing = !options->read_only && !options->snapshot;
    struct stat st;
    if (stat(block->path, &st) != 0)
        return error_set(err, "%s: %s", block->path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error_set(err, "%s: is neither a regular file nor a block device", block->path);
    int flags = (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    block->fd = open(block->path, flags | (writing && S_ISBLK(st.st_mode) ? O_EXCL : 0));
    if (block->fd < 0 && errno == EBUSY)
        return error_set(err, "%s: is in use by the host (mounted?); unmount it, or use snapshot=on", block->path);
    if (block->fd < 0 && writing && (errno == EACCES || errno == EROFS || errno == EPERM))
        return error_set(err, "%s: may not be written: %s; use readonly=on or snapshot=on", block->path,
                         strerror(errno));
    if (block->fd < 0)
        return error_set(err, "%s: %s", block->path, strerror(errno));
    if (fstat(block->fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
        return error_set(err, "%s: is not what it was", block->path);
    return file_lock(block, writing, err) && size_find(block, &st, err) && (options->raw || format_check(block, err));
}

static bool overlay_create(struct block *block, struct error *err)
{
    const char *directory = getenv("TMPDIR");
    if (directory == NULL || *directory == 0)
        directory = "/var/tmp";
    block->overlay = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (block->overlay < 0)
        block->overlay = memfd_create("ring3-snapshot", MFD_CLOEXEC);
    if (block->overlay < 0 || ftruncate(block->overlay, (off_t)block->size) != 0)
        return error_set(err, "%s: a snapshot of it cannot be kept in %s: %s", block->path, directory, strerror(errno));
    block->overlay_map_size = (block->size / BLOCK_SECTOR + 63) / 64 * sizeof(uint64_t);
    block->overlay_map =
        mmap(NULL, block->overlay_map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block->overlay_map == MAP_FAILED) {
        block->overlay_map = NULL;
        return error_set(err, "%s: is too large for a snapshot: %s", block->path, strerror(errno));
    }
    return true;
}

struct block *block_open(const char *path, const struct block_options *options, struct error *err)
{
    struct block *block = calloc(1, sizeof *block);
    if (block == NULL || (block->path = strdup(path)) == NULL) {
        free(block);
        error_set(err, "out of memory");
        return NULL;
    }
    block->options = *options;
    block->fd = block->overlay = block->event_fd = -1;
    block->waiting_end = &block->waiting;
    block->finished_end = &block->finished;
    pthread_mutex_init(&block->mutex, NULL);
    pthread_cond_init(&block->work, NULL);
    pthread_cond_init(&block->rest, NULL);
    if (options->queue != NULL)
        timer_init(&block->timer, options->queue, requests_due, block);
    bool overlay = options->snapshot && !options->read_only;
    if (!file_open(block, err) || (overlay && !overlay_create(block, err)) ||
        (options->queue == NULL && !workers_create(block, err))) {
        block_close(block);
        return NULL;
    }
    return block;
}

void block_close(struct block *block)
{
    if (block == NULL)
        return;
    block_cancel(block);
    if (block->options.queue == NULL)
        workers_destroy(block);
    if (block->overlay_map != NULL)
        munmap(block->overlay_map, block->overlay_map_size);
    if (block->overlay >= 0)
        close(block->overlay);
    if (block->fd >= 0)
        close(block->fd);
    pthread_cond_destroy(&block->rest);
    pthread_cond_destroy(&block->work);
    pthread_mutex_destroy(&block->mutex);
    free(block->path);
    free(block);
}

const char *block_path(const struct block *block)
{
    return block->path;
}

uint64_t block_size(const struct block *block)
{
    return block->size;
}

bool block_read_only(const struct block *block)
{
    return block->options.read_only;
}
