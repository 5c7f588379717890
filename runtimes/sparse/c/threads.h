/* The threads of one session: they run one job together, with barriers in it.
 *
 * Whoever waits spins a moment, because the next step is microseconds away, and then sleeps, so
 * that an idle session uses no processor. Where there are more threads than processors nobody
 * spins: the processor is needed by those who are waited for. Where there are not, no two threads
 * share one: systems wake a thread beside the one that woke it, and leave it there for longer than a
 * run takes. */
#ifndef PD_THREADS_H
#define PD_THREADS_H

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
#define PD_PAUSES 32       /* between two looks at the clock */
#define PD_MOST_THREADS 1024
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

/* Processors that this thread may run on. */
static inline int pd_processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
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
    syscall(SYS_futex, &e->value, FUTEX_WAKE_PRIVATE, PD_MOST_THREADS, 0, 0, 0);
#else
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
#endif
    return 1;
}

/* Return once the value is no longer `old`: whether the thread slept. */
static int pd_event_wait(pd_event *e, unsigned old, double spin, double yield) {
    if (spin > 0) {
        double end = 0, now = 0;
        do {
            for (int i = 0; i < PD_PAUSES; i++) {
                if (atomic_load_explicit(&e->value, memory_order_acquire) != old) return 0;
                pd_pause();
            }
            now = pd_now();
            if (end == 0) end = now + spin;
            if (now >= end) sched_yield();
        } while (now < end + yield);
    }
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

typedef void (*pd_job)(void *context, int thread);

typedef struct pd_pool pd_pool;
typedef struct {
    pd_pool *pool;
    int thread;
    pthread_t handle;
} pd_worker;

struct pd_pool {
    pd_event start; /* the number of runs begun */
    pd_event phase; /* the number of barriers passed */
    PD_APART atomic_int arrived;
    PD_APART int threads; /* the caller of pd_pool_run counts as thread 0 */
    int started, stop;
    double spin;
    atomic_int *where; /* the processor each thread was seen on last */
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

/* Wait until all threads of the job are here; the caller is `me`. */
static void pd_barrier(pd_pool *p, int me) {
    if (p->threads == 1) return;
    unsigned phase = atomic_load_explicit(&p->phase.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->threads - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        pd_event_set(&p->phase, phase + 1);
    } else {
        if (pd_event_wait(&p->phase, phase, p->spin, PD_YIELD)) pd_keep_apart(p, me);
    }
}

/* The job has to end with a barrier: then all of it is done when thread 0 returns. */
static void pd_pool_run(pd_pool *p) {
    if (p->threads > 1) {
#if defined(__linux__)
        atomic_store_explicit(&p->where[0], sched_getcpu(), memory_order_relaxed);
#endif
        const unsigned run = atomic_load_explicit(&p->start.value, memory_order_relaxed) + 1;
        /* who was woken on this processor has a turn, sees so, and moves */
        if (pd_event_set(&p->start, run)) sched_yield();
    }
    p->job(p->context, 0);
}

static void *pd_work_on(void *argument) {
    pd_worker *me = argument;
    pd_pool *p = me->pool;
    for (unsigned run = 0;; run++) {
        pd_event_wait(&p->start, run, p->spin, 0);
        if (p->stop) return 0;
        pd_keep_apart(p, me->thread);
        p->job(p->context, me->thread);
    }
}

static void pd_pool_stop(pd_pool *p) {
    p->stop = 1;
    if (p->started)
        pd_event_set(&p->start, atomic_load_explicit(&p->start.value, memory_order_relaxed) + 1);
    for (int i = 0; i < p->started; i++) pthread_join(p->workers[i].handle, 0);
    free(p->workers);
    free(p->where);
    pd_event_close(&p->phase);
    pd_event_close(&p->start);
}

/* 0 where the system does not give what is asked for; nothing is left then. */
static int pd_pool_start(pd_pool *p, int threads, pd_job job, void *context) {
    memset(p, 0, sizeof *p);
    p->threads = threads;
    p->spin = threads > pd_processors() ? 0 : PD_SPIN;
    p->job = job;
    p->context = context;
    atomic_init(&p->arrived, 0);
    if (!pd_event_open(&p->start)) return 0;
    if (!pd_event_open(&p->phase)) {
        pd_event_close(&p->start);
        return 0;
    }
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    p->where = calloc((size_t)threads, sizeof *p->where);
    int fine = p->workers != 0 && p->where != 0;
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
