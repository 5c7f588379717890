/* What the written part of an engine (model.c) hands to the part that is always the same. */
#ifndef PD_ENGINE_INTERNAL_H
#define PD_ENGINE_INTERNAL_H

#include "pd.h"
#include "pd_engine.h"

typedef void (*pd_step)(const pd_work *w);

/* Between the steps of a sample and those of the whole batch: `count` runs of `pixels` elements of
 * float32 a sample, from there in the sample's arena to there in the batch's. */
typedef struct {
    int count, pixels;
    size_t from, from_step, to, to_step, sample_step;
} pd_carry;

/* The steps for one batch size. More than `useful` threads are not worth waking for them. With `repeats` above 1 the first `apart` are those of one sample:
 * every thread computes whole samples in an arena of its own; the others follow once all samples
 * are there, in a further arena. `input_step` and `output_step` are a sample's bytes. */
typedef struct {
    int batch;
    int repeats;
    int count, apart;
    int useful;
    size_t arena, head; /* bytes */
    pd_carry carry;
    const size_t *input_step, *output_step;
    const pd_step *step;
    const char *const *name;
} pd_plan;

/* Instructions that are not compiled (jit.h), alone in their pages; none: 0 and 0. */
typedef struct {
    const unsigned char *from;
    size_t size;
} pd_blob;

#define PD_HIDDEN __attribute__((visibility("hidden")))

extern PD_HIDDEN const pd_model pd_this_model;
extern PD_HIDDEN const pd_plan pd_plans[]; /* one for each of pd_this_model.batch */
extern PD_HIDDEN const size_t pd_scratch;  /* bytes a thread needs for itself */
extern PD_HIDDEN const unsigned char pd_weights[];
extern PD_HIDDEN const pd_blob pd_programs;

#endif
