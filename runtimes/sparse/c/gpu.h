/* What the written part of a GPU engine (model.c) hands to the part that is always the same. */
#ifndef PD_GPU_H
#define PD_GPU_H

#include "pd_engine.h"

/* One launch of a plan: an entry of the module, and the offsets of its pointers in bytes. */
typedef struct {
    const char *entry;
    unsigned grid_x, grid_y, block;
    int pointers;
    const size_t *offset;
} pd_launch;

/* The launches for one batch size. Memory is constants, arena, inputs, outputs, the word for errors. */
typedef struct {
    int batch;
    int count;
    size_t memory;
    size_t error; /* where the word for errors lies */
    int checks;   /* whether a kernel may write it */
    const pd_launch *launch;
    const char *const *name;                    /* of the step that a launch computes */
    const size_t *input, *input_size;           /* bytes */
    const size_t *output, *output_size;
} pd_gpu_plan;

#define PD_HIDDEN __attribute__((visibility("hidden")))

extern PD_HIDDEN const pd_model pd_this_model;
extern PD_HIDDEN const pd_gpu_plan pd_gpu_plans[]; /* one for each of pd_this_model.batch */
extern PD_HIDDEN const int pd_capability;           /* 75: the GPU has to be of 7.5 or newer */
extern PD_HIDDEN const unsigned char pd_weights[];  /* the constants */
extern PD_HIDDEN const unsigned char pd_code[];     /* the module: PTX, and a zero behind it; cubins */
extern PD_HIDDEN const int pd_cubin_count;
extern PD_HIDDEN const size_t pd_cubin_begin[];     /* in pd_code */
extern PD_HIDDEN const int pd_cubin_of[];           /* of each launch, of all plans in order */

#endif
