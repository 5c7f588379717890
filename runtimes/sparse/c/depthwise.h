/* depthwise: every output channel reads one input channel. The taps' weights stay in registers, and
 * four rows of pixels are computed at once, so that a loaded vector serves all windows it is in.
 *
 * A template: PD_NAME; PD_COUNT taps; PD_PITCH from one row of the packed channel to the next;
 * PD_BODY, which loads with PD_LOAD(place) and adds with PD_ADD(row, tap), each place once;
 * PD_ACT(v) where the activation is more than a clamp. */
#include "conv.h"

#ifndef PD_DEPTHWISE_H
#define PD_DEPTHWISE_H
#define PD_TALL 4 /* rows of pixels computed at once; the same in depthwise_masked.h */

typedef void (*pd_depthwise)(const float *tile, const float *weights, float bias, float *y,
                             const float *residual, int rows, int width, float low, float high);

/* This thread's share: an item is a band of rows of one image of one output channel. */
static void pd_depthwise_run(const pd_work *w, const pd_conv *c, const float *x, float *y,
                             const float *residual, const float *weights, int taps, int multiplier,
                             pd_depthwise kernel) {
    const pd_phase *phases = (const pd_phase *)(w->weights + c->phase);
    const float *bias = (const float *)(w->weights + c->bias);
    const int bands = (c->out_height + c->tile - 1) / c->tile;
    int begin, end;
    pd_share(w, c->rows * c->images * bands, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int band = item % bands, image = item / bands % c->images;
        const int row = item / bands / c->images, first = band * c->tile;
        const float *plane = x + (uint64_t)(row / multiplier) * c->x_stride
            + (uint64_t)image * (uint64_t)(c->height * c->width);
        for (int f = 0; f < c->phases; f++) {
            pd_pack_phase(w->scratch + phases[f].position, plane, &phases[f], first * c->row_step,
                          0, c->height, c->width, c->block);
        }
        const int rows = c->out_height - first < c->tile ? c->out_height - first : c->tile;
        const uint64_t at = (uint64_t)(image * c->out_height + first) * (uint64_t)c->out_width;
        kernel(w->scratch, weights + (uint64_t)row * (uint64_t)taps, bias[row],
               y + (uint64_t)row * c->y_stride + at,
               residual ? residual + (uint64_t)row * c->residual_stride + at : 0, rows,
               c->out_width, c->low, c->high);
    }
}
#endif

static __attribute__((noinline)) void PD_NAME(const float *tile, const float *weights, float bias,
                                              float *y, const float *residual, int rows, int width,
                                              float low, float high) {
    const pd_vec minimum = pd_splat(low), maximum = pd_splat(high), start = pd_splat(bias);
    (void)minimum, (void)maximum;
    pd_vec by[PD_COUNT];
#pragma GCC unroll 64
    for (int t = 0; t < PD_COUNT; t++) by[t] = pd_splat(weights[t]);
    for (int row = 0; row < rows; row += PD_TALL) {
        for (int v = 0; v < width; v += PD_LANES) {
            const float *from = tile + row * PD_PITCH + v;
            pd_vec sum[PD_TALL];
#pragma GCC unroll 8
            for (int r = 0; r < PD_TALL; r++) sum[r] = start;
            pd_vec x;
#define PD_LOAD(offset) x = pd_loadu(from + (offset)); PD_KEEP(x);
#define PD_ADD(row, tap) sum[row] += by[tap] * x;
            PD_BODY
#undef PD_LOAD
#undef PD_ADD
#pragma GCC unroll 8
            for (int r = 0; r < PD_TALL; r++) {
                if (row + r >= rows) break;
                const int at = (row + r) * width + v, left = width - v;
                pd_vec s = sum[r];
                if (residual) s += pd_loadu(residual + at);
#ifdef PD_ACT
                s = PD_ACT(s);
#else
                s = pd_min(pd_max(s, minimum), maximum);
#endif
                if (left >= PD_LANES) pd_storeu(y + at, s);
                else pd_store_part(y + at, s, left);
            }
        }
    }
}

#undef PD_NAME
#undef PD_COUNT
#undef PD_BODY
#undef PD_PITCH
#undef PD_ACT
