/* The threads of one session: they compute one run together, stage by stage.
 *
 * A run is a sequence of stages, a stage a number of shares, and nobody begins a stage before all
 * shares of the one before are done. A share is claimed before it is computed: thread t claims share
 * t where it can, so that data stay in its caches, and then what nobody has claimed. So a thread that
 * the system does not schedule holds nobody up unless it is in the middle of a share, and one that
 * wakes late joins at whatever stage the others are.
 *
 * Whoever waits spins a moment, because the next stage is microseconds away, and then sleeps, so
 * that an idle session uses no processor. Where there are more threads than processors nobody
 * spins: the processor is needed by those who are waited for. Where there are not, no two threads
 * share one: systems wake a thread beside the one that woke it, and leave it there for longer than a
 * run takes. */
#ifndef PD_THREADS_H
#define PD_THREADS_H

#include "processors.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(PD_NO_FUTEX)
#include <linux/futex.h>
#include <sys/syscall.h>
#define PD_FUTEX 1
#endif

#define PD_SPIN 40e-6      /* seconds */
#define PD_YIELD 1e-3      /* and within a run so long again, but giving way to others */
#define PD_PATIENCE 2e-6   /* before a share that nobody has claimed is taken from its thread */
#define PD_PAUSES 32       /* between two looks at the clock */
#define PD_MAX_THREADS 1024
#define PD_APART _Alignas(128) /* bytes: no two processors write to one line, or to a pair */

static inline double pd_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void pd_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* yield does nothing on the cores we know */
#endif
}

/* -- a number that threads wait on to change ---------------------------------------------------- */

typedef struct {
    PD_APART atomic_uint value;
    atomic_int sleepers;
#if !defined(PD_FUTEX)
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
} pd_event;

static int pd_event_open(pd_event *e) {
    atomic_init(&e->value, 0);
    atomic_init(&e->sleepers, 0);
#if !defined(PD_FUTEX)
    if (pthread_mutex_init(&e->mutex, 0)) return 0;
    if (pthread_cond_init(&e->changed, 0)) {
        pthread_mutex_destroy(&e->mutex);
        return 0;
    }
#endif
    return 1;
}

static void pd_event_close(pd_event *e) {
#if !defined(PD_FUTEX)
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
#else
    (void)e;
#endif
}

/* Store before looking for sleepers; they count themselves before looking at the value. Both
 * sequentially consistent: one of the two sees the other. Returns whether somebody was woken. */
static int pd_event_set(pd_event *e, unsigned value) {
    atomic_store(&e->value, value);
    if (atomic_load(&e->sleepers) == 0) return 0;
#if defined(PD_FUTEX)
    syscall(SYS_futex, &e->value, FUTEX_WAKE_PRIVATE, PD_MAX_THREADS, 0, 0, 0);
#else
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
#endif
    return 1;
}

/* Wait at most so many seconds for the value to be no longer `old`: whether it is. With `yield` other
 * programs get a turn at every look at the clock. */
static int pd_event_spin(pd_event *e, unsigned old, double seconds, int yield) {
    double end = 0, now = 0;
    do {
        for (int i = 0; i < PD_PAUSES; i++) {
            if (atomic_load_explicit(&e->value, memory_order_acquire) != old) return 1;
            pd_pause();
        }
        if (yield) sched_yield();
        now = pd_now();
        if (end == 0) end = now + seconds;
    } while (now < end);
    return 0;
}

/* Return once the value is no longer `old`: whether the thread slept. */
static int pd_event_wait(pd_event *e, unsigned old, double spin, double yield) {
    if (spin > 0 && pd_event_spin(e, old, spin, 0)) return 0;
    if (spin > 0 && yield > 0 && pd_event_spin(e, old, yield, 1)) return 0;
    atomic_fetch_add(&e->sleepers, 1);
#if defined(PD_FUTEX)
    while (atomic_load(&e->value) == old)
        syscall(SYS_futex, &e->value, FUTEX_WAIT_PRIVATE, old, 0, 0, 0);
#else
    pthread_mutex_lock(&e->mutex);
    while (atomic_load(&e->value) == old) pthread_cond_wait(&e->changed, &e->mutex);
    pthread_mutex_unlock(&e->mutex);
#endif
    atomic_fetch_sub(&e->sleepers, 1);
    return 1;
}

/* -- the pool ------------------------------------------------------------------------------------ */

/* Compute one share of one stage, on a thread that computes one share at a time. */
typedef void (*pd_job)(void *context, int stage, int share, int thread);

typedef struct pd_pool pd_pool;
typedef struct {
    pd_pool *pool;
    int thread;
    pthread_t handle;
} pd_worker;

/* The clock of the last stage whose share of this number was claimed. */
typedef struct {
    PD_APART atomic_uint clock;
} pd_claim;

/* The clock is odd while a stage is open, another odd number for every stage there ever was, and even
 * between runs. Two readings are compared by their difference modulo 2^32. */
struct pd_pool {
    pd_event start; /* the number of runs begun with more threads than the caller's */
    pd_event clock;
    PD_APART atomic_int remaining; /* shares of the open stage that are not done */
    PD_APART atomic_int active;    /* threads of the run; the caller is thread 0 */
    atomic_int shares;             /* of the open stage */
    int stage, stages, first;      /* the open stage, all of the run, shares of the first one */
    double *times, opened;         /* seconds of every stage, where they are wanted */
    PD_APART int threads;          /* all there are */
    int started, max_shares;
    atomic_int stop;
    double spin;
    atomic_int *where; /* the processor each thread was seen on last */
    pd_claim *claims;
    pd_job job;
    void *context;
    pd_worker *workers;
};

/* Say where thread `me` is, and move to a processor that no other thread was seen on if one was seen
 * here. What it may run on is the same afterwards. */
static void pd_keep_apart(pd_pool *p, int me) {
#if defined(__linux__)
    if (p->spin == 0) return;
    const int here = sched_getcpu();
    atomic_store_explicit(&p->where[me], here, memory_order_relaxed);
    int shared = 0;
    for (int i = 0; i < p->threads; i++)
        shared |= i != me && atomic_load_explicit(&p->where[i], memory_order_relaxed) == here;
    cpu_set_t allowed, others;
    if (!shared || sched_getaffinity(0, sizeof allowed, &allowed)) return;
    others = allowed;
    for (int i = 0; i < p->threads; i++) {
        const int taken = atomic_load_explicit(&p->where[i], memory_order_relaxed);
        if (i != me && taken >= 0 && taken < CPU_SETSIZE) CPU_CLR(taken, &others);
    }
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others)) return;
    atomic_store_explicit(&p->where[me], sched_getcpu(), memory_order_relaxed);
    sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)p, (void)me;
#endif
}

static int pd_shares_of(const pd_pool *p, int stage, int active) {
    return stage == 0 && p->first ? p->first : active;
}

/* Note when a stage begins, and with it how long the one before took. */
static void pd_note_time(pd_pool *p) {
    if (!p->times) return;
    const double now = pd_now();
    if (p->stage > 0) p->times[p->stage - 1] = now - p->opened;
    p->opened = now;
}

/* Open a stage when the clock is at `clock`. Only who closed the stage before may do so, or the caller
 * of a run between runs. */
static void pd_open_stage(pd_pool *p, unsigned clock, int active) {
    const int count = pd_shares_of(p, p->stage, active);
    /* A thread that is late reads the number of shares before it reads a claim: the claims of shares
     * that the stage before did not have must be of now before the number says that they count. */
    for (int i = atomic_load_explicit(&p->shares, memory_order_relaxed); i < count; i++)
        atomic_store_explicit(&p->claims[i].clock, clock, memory_order_release);
    atomic_store_explicit(&p->shares, count, memory_order_release);
    atomic_store_explicit(&p->remaining, count, memory_order_relaxed);
    pd_note_time(p);
    pd_event_set(&p->clock, clock + (clock & 1 ? 2 : 1));
}

/* Claim a share of the stage that is open at `clock`. After a success the stage stays open until the
 * share is done; 0: the share was claimed before, or the stage is over. */
static int pd_claim_share(pd_pool *p, int share, unsigned clock) {
    atomic_uint *claim = &p->claims[share].clock;
    unsigned last = atomic_load_explicit(claim, memory_order_acquire);
    return (int)(last - clock) < 0
        && atomic_compare_exchange_strong_explicit(
            claim, &last, clock, memory_order_acq_rel, memory_order_relaxed);
}

/* Compute a share, if it can be claimed. Who does the last share of a stage opens the next one, or
 * ends the run. */
static int pd_try_share(pd_pool *p, int share, int me, unsigned clock) {
    if (!pd_claim_share(p, share, clock)) return 0;
    p->job(p->context, p->stage, share, me);
    if (atomic_fetch_sub_explicit(&p->remaining, 1, memory_order_acq_rel) > 1) return 1;
    if (++p->stage < p->stages) {
        pd_open_stage(p, clock, atomic_load_explicit(&p->active, memory_order_relaxed));
    } else {
        pd_note_time(p);
        pd_event_set(&p->clock, clock + 1);
    }
    return 1;
}

/* What thread `me` can do for the stage open at `clock`: its own shares, then those of threads that
 * are late. Whether there were such; they are waited for a moment unless they were late before. */
static int pd_take_part(pd_pool *p, int me, unsigned clock, int late) {
    const int count = atomic_load_explicit(&p->shares, memory_order_acquire);
    const int active = atomic_load_explicit(&p->active, memory_order_relaxed);
    int taken = 0;
    for (int share = me; share < count; share += active) pd_try_share(p, share, me, clock);
    if (!late && p->spin > 0 && pd_event_spin(&p->clock, clock, PD_PATIENCE, 0)) return 0;
    for (int i = 1; i < count; i++) taken |= pd_try_share(p, (me + i) % count, me, clock);
    return taken;
}

/* Compute with the caller alone. */
static void pd_pool_run_alone(pd_pool *p, int stages) {
    for (p->stage = 0; p->stage < stages; p->stage++) {
        pd_note_time(p);
        for (int i = 0; i < pd_shares_of(p, p->stage, 1); i++) p->job(p->context, p->stage, i, 0);
    }
    pd_note_time(p);
}

/* One run of `stages` stages on the first `active` threads, with `first` shares in the first stage and
 * one share a thread in the others, and in the first where that is 0. All is done when it returns;
 * `times`, if not null, then holds the seconds of each stage. */
static void pd_pool_run(pd_pool *p, int stages, int first, int active, double *times) {
    p->first = first, p->times = times;
    if (active == 1 || stages == 0) {
        pd_pool_run_alone(p, stages);
        return;
    }
    unsigned clock = atomic_load_explicit(&p->clock.value, memory_order_relaxed);
    p->stage = 0, p->stages = stages;
    /* all claims are brought up to date: no stage of long ago may be taken for one to come */
    atomic_store_explicit(&p->shares, 0, memory_order_relaxed);
    for (int i = 0; i < p->max_shares; i++)
        atomic_store_explicit(&p->claims[i].clock, clock, memory_order_release);
    atomic_store_explicit(&p->active, active, memory_order_release);
#if defined(__linux__)
    atomic_store_explicit(&p->where[0], sched_getcpu(), memory_order_relaxed);
#endif
    pd_open_stage(p, clock, active);
    const unsigned run = atomic_load_explicit(&p->start.value, memory_order_relaxed) + 1;
    /* who was woken on this processor has a turn, sees so, and moves */
    if (pd_event_set(&p->start, run)) sched_yield();
    for (int late = 0;;) {
        clock = atomic_load_explicit(&p->clock.value, memory_order_acquire);
        if (!(clock & 1)) return;
        late = pd_take_part(p, 0, clock, late);
        if (pd_event_wait(&p->clock, clock, p->spin, PD_YIELD)) pd_keep_apart(p, 0);
    }
}

static void *pd_work_on(void *argument) {
    const pd_worker *worker = argument;
    pd_pool *p = worker->pool;
    const int me = worker->thread;
    for (unsigned run = 0;;) {
        pd_event_wait(&p->start, run, p->spin, 0);
        if (atomic_load_explicit(&p->stop, memory_order_acquire)) return 0;
        run = atomic_load_explicit(&p->start.value, memory_order_acquire);
        pd_keep_apart(p, me);
        for (int late = 0;;) {
            const unsigned clock = atomic_load_explicit(&p->clock.value, memory_order_acquire);
            const int active = atomic_load_explicit(&p->active, memory_order_relaxed);
            if (!(clock & 1) || me >= active) break;
            late = pd_take_part(p, me, clock, late);
            if (pd_event_wait(&p->clock, clock, p->spin, PD_YIELD)) pd_keep_apart(p, me);
        }
    }
}

static void pd_pool_stop(pd_pool *p) {
    atomic_store_explicit(&p->stop, 1, memory_order_release);
    if (p->started)
        pd_event_set(&p->start, atomic_load_explicit(&p->start.value, memory_order_relaxed) + 1);
    for (int i = 0; i < p->started; i++) pthread_join(p->workers[i].handle, 0);
    free(p->workers);
    free(p->claims);
    free(p->where);
    pd_event_close(&p->clock);
    pd_event_close(&p->start);
}

/* Threads for runs whose stages have at most `max_shares` shares, or one a thread. 0 where the system
 * does not give what is asked for; nothing is left then. */
static int pd_pool_start(pd_pool *p, int threads, int max_shares, pd_job job, void *context) {
    memset(p, 0, sizeof *p);
    p->threads = threads;
    p->max_shares = max_shares > threads ? max_shares : threads;
    p->spin = threads > pd_processors() ? 0 : PD_SPIN;
    p->job = job;
    p->context = context;
    atomic_init(&p->remaining, 0);
    atomic_init(&p->active, 0);
    atomic_init(&p->shares, 0);
    atomic_init(&p->stop, 0);
    if (!pd_event_open(&p->start)) return 0;
    if (!pd_event_open(&p->clock)) {
        pd_event_close(&p->start);
        return 0;
    }
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    p->where = calloc((size_t)threads, sizeof *p->where);
    const size_t size = (size_t)p->max_shares * sizeof *p->claims;
    int fine = p->workers != 0 && p->where != 0
        && posix_memalign((void **)&p->claims, _Alignof(pd_claim), size) == 0;
    for (int i = 0; fine && i < p->max_shares; i++) atomic_init(&p->claims[i].clock, 0);
    for (int i = 0; fine && i < threads; i++) atomic_init(&p->where[i], -1);
    /* signals are for the program's own threads */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; fine && i < threads; i++) {
        pd_worker *worker = &p->workers[p->started];
        worker->pool = p;
        worker->thread = i;
        fine = pthread_create(&worker->handle, 0, pd_work_on, worker) == 0;
        p->started += fine;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
    if (!fine) pd_pool_stop(p);
    return fine;
}

#endif
