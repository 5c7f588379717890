/* Sessions: memory, threads, and the steps one after the other. Compiled for any processor of the
 * architecture, so that one which lacks the instructions of the steps is told so. */
#define _GNU_SOURCE
#include "engine.h"
#include "adaptive.h"
#include "pages.h"
#include "threads.h"

#include <sys/mman.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define PD_API __attribute__((visibility("default")))
#define PD_PAGE 65536 /* a multiple of every page size there is */
#define PD_HUGE (2u << 20)

struct pd_session {
    pthread_mutex_t running;
    pd_pool pool;
    unsigned char *memory; /* arena, then the scratch of every thread */
    size_t size;
    int *errors;            /* one a thread */
    double *seconds;        /* one a step, of all plans */
    double *stage_seconds;  /* one a stage, of the run that is going on */
    pd_adaptive *adaptive;  /* one a plan */
    int profiling, threads_used; /* the latter of the last run */
    /* of the run that is going on */
    const pd_plan *plan;
    double *times;
    const void *const *inputs;
    void *const *outputs;
};

static size_t pd_round(size_t size, size_t to) { return (size + to - 1) / to * to; }

static const pd_plan *pd_find(int batch) {
    for (int i = 0; i < pd_this_model.batches; i++)
        if (pd_plans[i].batch == batch) return &pd_plans[i];
    return 0;
}

/* Where the times of a plan's steps begin; for one past the last plan: how many there are. */
static size_t pd_first_time(const pd_plan *plan) {
    size_t count = 0;
    for (const pd_plan *before = pd_plans; before < plan; before++) count += (size_t)before->count;
    return count;
}

/* -- the processor ------------------------------------------------------------------------------- */

#if defined(__x86_64__)
static int pd_cpu_has(const char *isa) {
    unsigned a, b, c, d, low, high;
    if (strcmp(isa, "avx2") && strcmp(isa, "avx512")) return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if ((c & (1u << 12 | 1u << 27)) != (1u << 12 | 1u << 27)) return 0; /* FMA, OSXSAVE */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(b & 1u << 5)) return 0; /* AVX2 */
    const unsigned wide = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F DQ CD BW VL */
    return !strcmp(isa, "avx2") || ((low & 0xe6) == 0xe6 && (b & wide) == wide);
}
#else
static int pd_cpu_has(const char *isa) {
    (void)isa; /* every AArch64 has NEON */
    return 1;
}
#endif

/* -- memory -------------------------------------------------------------------------------------- */

/* Zeroed memory; in huge pages, where it is large and the system has them. */
static unsigned char *pd_map(size_t size) {
    const size_t align = size >= PD_HUGE ? PD_HUGE : PD_PAGE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    unsigned char *all = mmap(0, size + align, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (all == MAP_FAILED) return 0;
    unsigned char *begin = (unsigned char *)pd_round((size_t)all, align);
    const size_t before = (size_t)(begin - all);
    if (before) munmap(all, before);
    if (align > before) munmap(begin + size, align - before);
#ifdef MADV_HUGEPAGE
    if (align == PD_HUGE) madvise(begin, size, MADV_HUGEPAGE);
#endif
    return begin;
}

/* Once, before the first session runs: programs belong to the library, not to a session. */
static pthread_once_t pd_settled = PTHREAD_ONCE_INIT;

static void pd_settle_programs(void) { pd_settle(pd_programs.from, pd_programs.size); }

static void pd_free(pd_session *s) {
    if (s->memory) munmap(s->memory, s->size);
    free(s->errors);
    free(s->seconds);
    free(s->stage_seconds);
    free(s->adaptive);
    free(s);
}

/* Where the scratch of the threads begins: behind the largest plan's arena, or arenas. */
static size_t pd_scratch_begin(int threads) {
    size_t maximum = 0;
    for (int i = 0; i < pd_this_model.batches; i++) {
        const size_t arenas = pd_plans[i].repeats > 1 ? (size_t)threads : 1;
        const size_t size = arenas * pd_round(pd_plans[i].arena, PD_PAGE)
            + pd_round(pd_plans[i].head, PD_PAGE);
        if (size > maximum) maximum = size;
    }
    return maximum;
}

static size_t pd_scratch_step(void) { return pd_round(pd_scratch + 64, PD_PAGE); }

/* -- running ------------------------------------------------------------------------------------- */

/* What thread `thread` needs to compute share `share` of `shares`. */
static pd_work pd_work_of(pd_session *s, int thread, int share, int shares) {
    const size_t scratch = pd_scratch_begin(s->pool.threads) + (size_t)thread * pd_scratch_step();
    const pd_work work = {
        .arena = (float *)s->memory,
        .inputs = s->inputs,
        .outputs = s->outputs,
        .weights = pd_weights,
        .scratch = (float *)(s->memory + scratch),
        .thread = share,
        .threads = shares,
        .error = &s->errors[thread * 32], /* a line of its own */
    };
    return work;
}

/* Where what the whole batch needs begins: behind the arenas of the threads. */
static float *pd_head(pd_session *s, const pd_plan *plan) {
    return (float *)(s->memory + (size_t)s->pool.threads * pd_round(plan->arena, PD_PAGE));
}

static void pd_carry_over(float *head, const float *arena, const pd_carry *c, int sample) {
    float *to = head + c->to + (size_t)sample * c->sample_step;
    const float *from = arena + c->from;
    for (int i = 0; i < c->count; i++, from += c->from_step, to += c->to_step)
        for (int k = 0; k < c->pixels; k++) to[k] = from[k];
}

/* One sample from beginning to end, in the thread's own arena. */
static void pd_one_sample(pd_session *s, int sample, int thread) {
    const pd_plan *plan = s->plan;
    pd_work work = pd_work_of(s, thread, 0, 1);
    const void *inputs[pd_this_model.inputs + 1];
    void *outputs[pd_this_model.outputs + 1];
    work.arena = (float *)(s->memory + (size_t)thread * pd_round(plan->arena, PD_PAGE));
    work.inputs = inputs, work.outputs = outputs;
    for (int i = 0; i < pd_this_model.inputs; i++)
        inputs[i] = (const char *)s->inputs[i] + (size_t)sample * plan->input_step[i];
    for (int i = 0; i < pd_this_model.outputs; i++)
        outputs[i] = (char *)s->outputs[i] + (size_t)sample * plan->output_step[i];
    for (int i = 0; i < plan->apart; i++) {
        const double begin = thread == 0 && s->times ? pd_now() : 0;
        plan->step[i](&work);
        if (thread == 0 && s->times) s->times[i] += pd_now() - begin;
    }
    pd_carry_over(pd_head(s, plan), work.arena, &plan->carry, sample);
}

/* A stage is a step, or all steps of all samples; then the samples are its shares. */
static void pd_one_share(void *context, int stage, int share, int thread) {
    pd_session *s = context;
    const pd_plan *plan = s->plan;
    const int samples = plan->repeats > 1;
    if (samples && stage == 0) {
        pd_one_sample(s, share, thread);
        return;
    }
    pd_work work = pd_work_of(s, thread, share, s->threads_used);
    if (samples) work.arena = pd_head(s, plan);
    plan->step[samples ? plan->apart + stage - 1 : stage](&work);
}

/* Stages of a run, and the step that the last of them is one behind of. */
static int pd_stages(const pd_plan *plan) {
    return plan->repeats > 1 ? 1 + plan->count - plan->apart : plan->count;
}

static void pd_run_plan(pd_session *s, int threads) {
    const pd_plan *plan = s->plan;
    const int samples = plan->repeats > 1, stages = pd_stages(plan);
    s->threads_used = threads;
    pd_pool_run(
        &s->pool, stages, samples ? plan->repeats : 0, threads, s->times ? s->stage_seconds : 0);
    if (s->times)
        for (int i = samples; i < stages; i++)
            s->times[samples ? plan->apart + i - 1 : i] = s->stage_seconds[i];
}

static int pd_run_locked(pd_session *s) {
    pd_adaptive *adaptive = &s->adaptive[s->plan - pd_plans];
    int code = PD_OK;
    for (int i = 0; i < s->pool.threads; i++) s->errors[i * 32] = PD_OK;
    s->times = s->profiling ? s->seconds + pd_first_time(s->plan) : 0;
    if (s->times) {
        memset(s->times, 0, (size_t)s->plan->count * sizeof *s->times);
        pd_run_plan(s, adaptive->candidate[0].threads);
    } else {
        const int chosen = pd_adaptive_pick(adaptive);
        const double begin = pd_now();
        pd_run_plan(s, adaptive->candidate[chosen].threads);
        pd_adaptive_learn(adaptive, chosen, pd_now() - begin);
    }
    for (int i = 0; i < s->pool.threads; i++)
        if (s->errors[i * 32]) code = s->errors[i * 32];
    return code;
}

/* The most threads that any plan's work is enough for. */
static int pd_useful_threads(void) {
    int maximum = 1;
#if defined(PD_ALL_THREADS)
    maximum = PD_MAX_THREADS;
#endif
    for (int i = 0; i < pd_this_model.batches; i++)
        if (pd_plans[i].useful > maximum) maximum = pd_plans[i].useful;
    return maximum;
}

static int pd_max_shares(void) {
    int maximum = 0;
    for (int i = 0; i < pd_this_model.batches; i++)
        if (pd_plans[i].repeats > maximum) maximum = pd_plans[i].repeats;
    return maximum;
}

/* -- what pd_engine.h promises -------------------------------------------------------------------- */

PD_API const pd_model *pd_info(void) { return &pd_this_model; }

PD_API int pd_create(pd_session **session, int threads) {
    if (!session || threads < 0 || threads > PD_MAX_THREADS) return PD_BAD_ARGUMENT;
    *session = 0;
    if (!pd_cpu_has(pd_this_model.isa)) return PD_BAD_CPU;
    if (threads == 0) threads = pd_processors();
    if (threads > pd_useful_threads()) threads = pd_useful_threads();
    pthread_once(&pd_settled, pd_settle_programs);
    pd_session *s = 0;
    if (posix_memalign((void **)&s, 128, sizeof *s)) return PD_NO_MEMORY;
    memset(s, 0, sizeof *s);
    s->size = pd_scratch_begin(threads) + (size_t)threads * pd_scratch_step();
    if (s->size >= PD_HUGE) s->size = pd_round(s->size, PD_HUGE);
    s->memory = pd_map(s->size);
    s->errors = calloc((size_t)threads, 32 * sizeof *s->errors);
    const size_t steps = pd_first_time(pd_plans + pd_this_model.batches) + 1;
    s->seconds = calloc(steps, sizeof *s->seconds);
    s->stage_seconds = calloc(steps + 1, sizeof *s->stage_seconds);
    s->adaptive = calloc((size_t)pd_this_model.batches, sizeof *s->adaptive);
    if (!s->memory || !s->errors || !s->seconds || !s->stage_seconds || !s->adaptive) {
        pd_free(s);
        return PD_NO_MEMORY;
    }
    for (int i = 0; i < pd_this_model.batches; i++)
        pd_adaptive_start(&s->adaptive[i], threads, pd_plans[i].useful);
    if (!pd_pool_start(&s->pool, threads, pd_max_shares(), pd_one_share, s)) {
        pd_free(s);
        return PD_NO_THREAD;
    }
    pthread_mutex_init(&s->running, 0);
    *session = s;
    return PD_OK;
}

PD_API int pd_run(pd_session *s, int batch, const void *const *inputs, void *const *outputs) {
    if (!s || (!inputs && pd_this_model.inputs) || !outputs) return PD_BAD_ARGUMENT;
    for (int i = 0; i < pd_this_model.inputs; i++)
        if (!inputs[i]) return PD_BAD_ARGUMENT;
    for (int i = 0; i < pd_this_model.outputs; i++)
        if (!outputs[i]) return PD_BAD_ARGUMENT;
    const pd_plan *plan = pd_find(batch);
    if (!plan) return PD_BAD_BATCH;
    pthread_mutex_lock(&s->running);
    s->plan = plan;
    s->inputs = inputs;
    s->outputs = outputs;
    const int code = pd_run_locked(s);
    pthread_mutex_unlock(&s->running);
    return code;
}

PD_API void pd_destroy(pd_session *s) {
    if (!s) return;
    pd_pool_stop(&s->pool);
    pthread_mutex_destroy(&s->running);
    pd_free(s);
}

PD_API const char *pd_error(int code) {
    switch (code) {
    case PD_OK: return "no error";
    case PD_NO_MEMORY: return "out of memory";
    case PD_NO_THREAD: return "the system starts no more threads";
    case PD_BAD_ARGUMENT: return "a null pointer, or an impossible number of threads";
    case PD_BAD_BATCH: return "the engine was not built for this batch size";
    case PD_BAD_INDEX: return "an input holds an index that its table does not have";
    case PD_BAD_CPU: return "this processor lacks instructions that the engine was built with";
    default: return "unknown error";
    }
}

PD_API const char *const *pd_steps(int batch, int *count) {
    const pd_plan *plan = pd_find(batch);
    if (count) *count = plan ? plan->count : 0;
    return plan ? plan->name : 0;
}

PD_API int pd_set_profiling(pd_session *s, int on) {
    if (!s) return PD_BAD_ARGUMENT;
    pthread_mutex_lock(&s->running);
    s->profiling = on;
    pthread_mutex_unlock(&s->running);
    return PD_OK;
}

PD_API int pd_profile(pd_session *s, int batch, double *seconds, int count) {
    if (!s || (!seconds && count > 0)) return PD_BAD_ARGUMENT;
    const pd_plan *plan = pd_find(batch);
    if (!plan) return PD_BAD_BATCH;
    pthread_mutex_lock(&s->running);
    for (int i = 0; i < count && i < plan->count; i++) seconds[i] = s->seconds[pd_first_time(plan) + (size_t)i];
    pthread_mutex_unlock(&s->running);
    return PD_OK;
}

PD_API int pd_threads_used(pd_session *s) {
    if (!s) return 0;
    pthread_mutex_lock(&s->running);
    const int used = s->threads_used;
    pthread_mutex_unlock(&s->running);
    return used;
}
