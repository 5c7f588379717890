/* An engine of prunedeploy: one network, compiled. It needs the C library and nothing else.
 *
 *     pd_session *session;
 *     int code = pd_create(&session, 2);
 *     if (!code) code = pd_run(session, 1, inputs, outputs);
 *     if (code) fprintf(stderr, "%s\n", pd_error(code));
 *     pd_destroy(session);
 *
 * No run depends on global state. Sessions are independent of one another; runs of one session from
 * several threads wait for each other. A session must not be used in a child of fork(). */
#ifndef PD_ENGINE_H
#define PD_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PD_ABI 1 /* changes when anything here changes its meaning */

enum {
    PD_OK = 0,
    PD_NO_MEMORY = 1,
    PD_NO_THREAD = 2,    /* the system starts no more threads */
    PD_BAD_ARGUMENT = 3, /* a null pointer, or a number of threads that makes no sense */
    PD_BAD_INDEX = 4,    /* an input holds an index that its table does not have */
    PD_BAD_BATCH = 5,    /* the engine was not built for this batch: see pd_model.batch */
    PD_BAD_CPU = 6,      /* the processor lacks the instructions the engine was built with */
    PD_NO_GPU = 7,       /* the next five of engines for GPUs: no driver, or no device */
    PD_OLD_DRIVER = 8,   /* the driver does not read the engine's code */
    PD_BAD_GPU = 9,      /* the GPU is older than what the engine was built for */
    PD_NO_GPU_MEMORY = 10,
    PD_GPU_LOST = 11     /* the GPU failed in a run; the session is of no more use */
};

/* One input or output. shape[0] is -1 where it is the batch; dtype is NumPy's name. */
typedef struct {
    const char *name;
    const char *dtype;
    int rank;
    const int64_t *shape;
} pd_tensor;

typedef struct {
    int abi;             /* PD_ABI of the engine */
    const char *version; /* of prunedeploy, which built it */
    const char *isa;     /* avx512, avx2, neon, generic, or sm_75 of a GPU */
    int inputs;
    const pd_tensor *input;
    int outputs;
    const pd_tensor *output;
    int batches; /* the batch sizes that pd_run takes */
    const int *batch;
    int threads;    /* what its layers were cut for; a session may have more or less */
    size_t arena;   /* bytes of memory of a session, without those of its threads */
    size_t weights; /* bytes of constants, shared by all sessions */
} pd_model;

typedef struct pd_session pd_session;

const pd_model *pd_info(void);

/* Start a session that computes with at most `threads` threads, the caller's own counted; 0: as many
 * as there are processors that the caller may use. A session measures its own runs and computes with
 * fewer threads for as long as that is faster: where the work is too little for more, and where other
 * programs want the processors. Returns PD_OK, or a code for pd_error. */
int pd_create(pd_session **session, int threads);

/* Compute one batch. Arrays are in C order, one pointer a tensor, in the order of pd_model, and
 * aligned to their elements at least; outputs must not overlap inputs. */
int pd_run(pd_session *session, int batch, const void *const *inputs, void *const *outputs);

/* End a session that no thread runs; null is allowed. */
void pd_destroy(pd_session *session);

/* What a code means, in English. */
const char *pd_error(int code);

/* The names of the steps that a run of `batch` takes; *count is how many. Null, 0: no such batch. */
const char *const *pd_steps(int batch, int *count);

/* How many threads the last run computed with; 0 before the first. */
int pd_threads_used(pd_session *session);

/* Whether runs from now on note how long each step takes (off at first). They use all threads then. */
int pd_set_profiling(pd_session *session, int on);

/* Seconds of each step in the last run of `batch` with profiling on, at most `count` of them. */
int pd_profile(pd_session *session, int batch, double *seconds, int count);

#ifdef __cplusplus
}
#endif
#endif
