/* See crew.h for the model.
 *
 * Requests to give up plain ways to write are a short list of frames for each member. If it overflows, which takes a processor
 * that was halted for long, the member looks through all frames for those that it may write to and that are watched.
 */
#include "cpu/crew.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "mmu/access.h"

#define REQUESTS 64u
#define SPINS 4000u /* looks before a waiting thread sleeps: some 20 us, more than what is waited for mostly takes */
#define LINE_SHIFT 6
#define PAUSES 32u   /* before the host's processor is offered to another thread */

struct member {
    struct vcpu *v;
    _Atomic bool inside;
    _Atomic uint64_t done; /* requests carried out */
    pthread_mutex_t lock;  /* of what follows */
    pthread_cond_t changed;
    uint64_t asked;        /* requests ever made */
    unsigned waiting;      /* threads on `changed` */
    unsigned pauses;       /* the member's own: executed, modulo */
    unsigned count;        /* REQUESTS + 1: too many for the list */
    uint64_t frames[REQUESTS];
};

struct crew {
    struct memory *memory;
    const uint8_t *flags;
    uint64_t frames;          /* of RAM */
    unsigned count;
    pthread_mutex_t watching; /* of `watchers`, and the flag PAGE_CODE with it */
    uint8_t *watchers;        /* by frame: a bit for each member that watches it */
    uint8_t *writers;         /* by frame: a bit for each member that may have a plain way to write */
    uint64_t *lines;          /* by frame: a bit for each line that code was read from since the page is watched */
    struct member members[CREW_MAX];
};

static void *table_create(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void table_destroy(void *p, uint64_t size)
{
    if (p != NULL)
        munmap(p, size);
}

struct crew *crew_create(struct memory *memory, struct error *err)
{
    struct crew *crew = calloc(1, sizeof *crew);
    if (crew == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&crew->watching, NULL);
    crew->memory = memory;
    crew->flags = memory_page_flags(memory);
    crew->frames = memory_backing_size(memory) >> PAGE_SHIFT;
    crew->watchers = table_create(crew->frames);
    crew->writers = table_create(crew->frames);
    crew->lines = table_create(crew->frames * sizeof *crew->lines);
    if (crew->watchers == NULL || crew->writers == NULL || crew->lines == NULL) {
        error_set(err, "no memory for what processors tell each other: %m; choose a smaller -m");
        crew_destroy(crew);
        return NULL;
    }
    return crew;
}

void crew_destroy(struct crew *crew)
{
    if (crew == NULL)
        return;
    for (unsigned i = 0; i < crew->count; i++) {
        pthread_mutex_destroy(&crew->members[i].lock);
        pthread_cond_destroy(&crew->members[i].changed);
        crew->members[i].v->crew = NULL;
    }
    pthread_mutex_destroy(&crew->watching);
    table_destroy(crew->watchers, crew->frames);
    table_destroy(crew->writers, crew->frames);
    table_destroy(crew->lines, crew->frames * sizeof *crew->lines);
    free(crew);
}

void crew_join(struct crew *crew, struct vcpu *v)
{
    check(crew->count < CREW_MAX && v->crew == NULL && v->index == crew->count);
    struct member *m = &crew->members[crew->count++];
    m->v = v;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    v->crew = crew;
}

static struct member *member_of(const struct vcpu *v)
{
    return &v->crew->members[v->index];
}

static uint8_t bit_of(const struct vcpu *v)
{
    return (uint8_t)(1u << v->index);
}

/* The frame of a page of RAM; UINT64_MAX if it is none. */
static uint64_t frame_of(const struct crew *crew, uint64_t gpfn)
{
    struct page_backing page = memory_page(crew->memory, gpfn << PAGE_SHIFT);
    return page.kind == PAGE_RAM ? (uint64_t)(page.flags - crew->flags) : UINT64_MAX;
}

/* ---- plain ways to write ---- */

void crew_note_writer(struct vcpu *v, const uint8_t *flags)
{
    uint8_t *writers = &v->crew->writers[flags - v->crew->flags];
    if (!(__atomic_load_n(writers, __ATOMIC_RELAXED) & bit_of(v)))
        __atomic_fetch_or(writers, bit_of(v), __ATOMIC_SEQ_CST);
}

static void give_up(struct vcpu *v, uint64_t frame)
{
    mmu_stop_plain_writes(v, memory_frame_gpa(v->memory, frame));
    __atomic_fetch_and(&v->crew->writers[frame], (uint8_t)~bit_of(v), __ATOMIC_SEQ_CST);
}

static void give_up_all_watched(struct vcpu *v)
{
    const struct crew *crew = v->crew;
    for (uint64_t frame = 0; frame < crew->frames; frame++) {
        bool writer = __atomic_load_n(&crew->writers[frame], __ATOMIC_RELAXED) & bit_of(v);
        if (writer && (__atomic_load_n(&crew->flags[frame], __ATOMIC_RELAXED) & PAGE_WATCHED))
            give_up(v, frame);
    }
}

void crew_take_requests(struct vcpu *v)
{
    if (v->crew == NULL)
        return;
    struct member *m = member_of(v);
    uint64_t frames[REQUESTS];
    pthread_mutex_lock(&m->lock);
    uint64_t asked = m->asked;
    unsigned count = m->count;
    memcpy(frames, m->frames, sizeof frames);
    m->count = 0;
    pthread_mutex_unlock(&m->lock);
    if (count > REQUESTS)
        give_up_all_watched(v);
    else
        for (unsigned i = 0; i < count; i++)
            give_up(v, frames[i]);
    pthread_mutex_lock(&m->lock);
    atomic_store(&m->done, asked);
    if (m->waiting > 0)
        pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

void crew_enter(struct vcpu *v)
{
    if (v->crew == NULL)
        return;
    /* Before the list is looked at: who adds to it afterwards sees this, and waits. */
    atomic_store(&member_of(v)->inside, true);
    crew_take_requests(v);
}

void crew_leave(struct vcpu *v)
{
    if (v->crew == NULL)
        return;
    struct member *m = member_of(v);
    atomic_store(&m->inside, false);
    pthread_mutex_lock(&m->lock);
    if (m->waiting > 0)
        pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

/* Asks a member to give up its plain ways to write to a frame. Returns the number of the request. */
static uint64_t ask(struct member *m, uint64_t frame)
{
    pthread_mutex_lock(&m->lock);
    if (m->count < REQUESTS)
        m->frames[m->count++] = frame;
    else
        m->count = REQUESTS + 1;
    uint64_t request = ++m->asked;
    pthread_mutex_unlock(&m->lock);
    vcpu_raise(m->v, PENDING_WRITES);
    return request;
}

static bool is_settled(struct member *m, uint64_t request)
{
    return !atomic_load(&m->inside) || atomic_load(&m->done) >= request;
}

static void wait_settled(struct member *m, uint64_t request)
{
    for (unsigned n = 0; n < SPINS; n++) {
        if (is_settled(m, request))
            return;
        __builtin_ia32_pause();
    }
    pthread_mutex_lock(&m->lock);
    m->waiting++;
    while (!is_settled(m, request))
        pthread_cond_wait(&m->changed, &m->lock);
    m->waiting--;
    pthread_mutex_unlock(&m->lock);
}

static void stop_writers(struct vcpu *v, uint64_t frame, uint8_t writers)
{
    struct crew *crew = v->crew;
    uint64_t request[CREW_MAX];
    for (unsigned i = 0; i < crew->count; i++)
        if (writers >> i & 1)
            request[i] = ask(&crew->members[i], frame);
    bool inside = atomic_load(&member_of(v)->inside);
    if (inside)
        crew_leave(v);
    for (unsigned i = 0; i < crew->count; i++)
        if (writers >> i & 1)
            wait_settled(&crew->members[i], request[i]);
    if (inside)
        crew_enter(v);
}

void crew_relax(struct vcpu *v)
{
    __builtin_ia32_pause();
    if (v->crew != NULL && ++member_of(v)->pauses % PAUSES == 0)
        sched_yield();
}

/* ---- watching ---- */

void crew_watch(struct vcpu *v, uint64_t gpfn)
{
    struct crew *crew = v->crew;
    uint64_t frame = crew == NULL ? UINT64_MAX : frame_of(crew, gpfn);
    if (frame == UINT64_MAX) {
        memory_watch(v->memory, gpfn, PAGE_CODE);
        mmu_stop_plain_writes(v, gpfn << PAGE_SHIFT);
        return;
    }
    pthread_mutex_lock(&crew->watching);
    crew->watchers[frame] |= bit_of(v);
    memory_watch(v->memory, gpfn, PAGE_CODE);
    pthread_mutex_unlock(&crew->watching);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint8_t writers = __atomic_load_n(&crew->writers[frame], __ATOMIC_RELAXED);
    if (writers & bit_of(v))
        give_up(v, frame);
    if (writers & ~bit_of(v))
        stop_writers(v, frame, (uint8_t)(writers & ~bit_of(v)));
}

/* With `watching`: nobody is told of writes any more. */
static void watch_end(struct crew *crew, uint64_t frame)
{
    memory_unwatch(crew->memory, memory_frame_gpa(crew->memory, frame) >> PAGE_SHIFT, PAGE_CODE);
    __atomic_store_n(&crew->lines[frame], 0, __ATOMIC_RELAXED);
}

void crew_unwatch(struct vcpu *v, uint64_t gpfn)
{
    struct crew *crew = v->crew;
    uint64_t frame = crew == NULL ? UINT64_MAX : frame_of(crew, gpfn);
    if (frame == UINT64_MAX) {
        memory_unwatch(v->memory, gpfn, PAGE_CODE);
        return;
    }
    pthread_mutex_lock(&crew->watching);
    if (crew->watchers[frame] & bit_of(v)) {
        crew->watchers[frame] &= (uint8_t)~bit_of(v);
        if (crew->watchers[frame] == 0)
            watch_end(crew, frame);
    }
    pthread_mutex_unlock(&crew->watching);
}

static uint64_t lines_of(unsigned off, unsigned size)
{
    unsigned first = off >> LINE_SHIFT, last = (off + size - 1) >> LINE_SHIFT;
    return UINT64_MAX >> (63 - (last - first)) << first;
}

void crew_cover(struct vcpu *v, uint64_t gpfn, unsigned off, unsigned size)
{
    struct crew *crew = v->crew;
    uint64_t frame = crew == NULL ? UINT64_MAX : frame_of(crew, gpfn);
    if (frame == UINT64_MAX)
        return;
    uint64_t lines = lines_of(off, size);
    if ((__atomic_load_n(&crew->lines[frame], __ATOMIC_RELAXED) & lines) != lines)
        __atomic_fetch_or(&crew->lines[frame], lines, __ATOMIC_SEQ_CST); /* before the bytes are read */
}

void crew_written(struct crew *crew, struct vcpu *writer, gpa_t gpa, unsigned size)
{
    if (writer != NULL && writer->code != NULL) /* whatever the flag says by now */
        code_cache_written(writer, gpa, size);
    uint64_t frame = frame_of(crew, gpa >> PAGE_SHIFT);
    if (frame == UINT64_MAX)
        return;
    if (!(__atomic_load_n(&crew->lines[frame], __ATOMIC_RELAXED) & lines_of(gpa & PAGE_OFFSET_MASK, size)))
        return;
    uint8_t self = writer != NULL ? bit_of(writer) : 0;
    pthread_mutex_lock(&crew->watching);
    uint8_t others = crew->watchers[frame] & (uint8_t)~self;
    /* They hear of it before the watch ends: who then writes without anybody's notice has something pending already. */
    for (unsigned i = 0; i < crew->count; i++)
        if (others >> i & 1)
            code_cache_note_written(crew->members[i].v, gpa >> PAGE_SHIFT);
    crew->watchers[frame] &= self;
    if (crew->watchers[frame] == 0)
        watch_end(crew, frame);
    pthread_mutex_unlock(&crew->watching);
}
