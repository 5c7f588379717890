/* What the written part of an engine (model.c) hands to the part that is always the same. */
#ifndef PD_ENGINE_INTERNAL_H
#define PD_ENGINE_INTERNAL_H

#include "pd.h"
#include "pd_engine.h"

typedef void (*pd_step)(const pd_work *w);

/* The steps for one batch size. */
typedef struct {
    int batch;
    int count;
    const pd_step *step;
    const char *const *name;
} pd_plan;

#define PD_HIDDEN __attribute__((visibility("hidden")))

extern PD_HIDDEN const pd_model pd_this_model;
extern PD_HIDDEN const pd_plan pd_plans[]; /* one for each of pd_this_model.batch */
extern PD_HIDDEN const size_t pd_scratch;  /* bytes a thread needs for itself */
extern PD_HIDDEN const unsigned char pd_weights[];

#endif
