/* unrolled: scattered non-zeros as instructions. A visit is a program (unrolled.py), which computes
 * some rows on one vector of pixels; it runs over the tile's vectors, one after the other, then the
 * rows are finished as those of the other kernels are.
 *
 * A template like rows.h. PD_ROOM rows of sums are in the scratch: those of one program, or those of
 * all where panels follow. */
#include "conv.h"

#ifndef PD_UNROLLED_H
#define PD_UNROLLED_H

extern __attribute__((visibility("hidden"))) const unsigned char pd_code[];

/* A program: its rows, where its weights are, and its instructions for whole vectors and halves. */
typedef struct {
    uint32_t row;
    uint16_t rows, flags;
    uint64_t weight, code[2];
} pd_program;

typedef void (*pd_instructions)(const float *tile, const float *weights, float *sums,
                                const float *bias);

PD_INLINE pd_instructions pd_at_code(uint64_t place) {
    const unsigned char *from = pd_code + place;
    pd_instructions found;
    memcpy(&found, &from, sizeof found);
    return found;
}
#endif

#define PD_FULL (PD_EIGHTS * 8 / PD_LANES)
#define PD_HALF (PD_EIGHTS * 8 % PD_LANES != 0)

static __attribute__((noinline)) void PD_NAME(
    const pd_visit *visits, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *sums, const pd_store_to *to) {
    const pd_program *programs = (const pd_program *)(const void *)visits;
    const int size = PD_PIECES * PD_EIGHTS * 8;
    (void)offsets;
#ifdef PD_RASTER
    const int pieces = 1, width = (to->pieces - 1) * PD_PITCH + PD_RASTER;
#else
    const int pieces = to->pieces, width = to->width;
#endif
    for (uint32_t i = 0; i < count; i++) {
        const pd_program *p = &programs[i];
        const float *own = weights + p->weight, *bias = to->bias + p->row;
        float *sum = sums + (PD_KEPT ? (uint64_t)(p->row - first) * size : 0);
        for (int r = 0; r < pieces; r++) {
            const float *from = tile + r * PD_PITCH;
            float *end = sum + r * PD_EIGHTS * 8;
            for (int v = 0; v < PD_FULL && v * PD_LANES < width; v++)
                pd_at_code(p->code[0])(from + v * PD_LANES, own, end + v * PD_LANES, bias);
            if (PD_HALF && PD_FULL * PD_LANES < width)
                pd_at_code(p->code[1])(from + PD_FULL * PD_LANES, own, end + PD_FULL * PD_LANES,
                                       bias);
        }
        if (!(p->flags & PD_LAST)) continue;
        for (uint32_t row = p->row; row < p->row + p->rows; row++, sum += size) {
            pd_vec a[PD_PIECES][PD_FULL + 1];
            pd_half b[PD_PIECES];
            (void)b;
#pragma GCC unroll 32
            for (int r = 0; r < PD_PIECES; r++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++)
                    a[r][v] = pd_loadu(sum + r * PD_EIGHTS * 8 + v * PD_LANES);
                if (PD_HALF) b[r] = pd_half_load(sum + r * PD_EIGHTS * 8 + PD_FULL * PD_LANES);
            }
#ifdef PD_RASTER
#include "finish_raster.h"
#else
#include "finish.h"
#endif
        }
    }
}

#undef PD_KEPT
#undef PD_FULL
#undef PD_HALF
#undef PD_NAME
#undef PD_PIECES
#undef PD_RASTER
#undef PD_PITCH
#undef PD_EIGHTS
#undef PD_LOG_UNIT
#undef PD_ACT
