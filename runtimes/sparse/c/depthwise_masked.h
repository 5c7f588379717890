/* depthwise with masked loads (AVX-512): rows are read where they lie, what is outside of the image
 * as zero. The rest is as in depthwise.h: weights in registers, four rows of pixels at once, every
 * vector that is loaded added to all sums that it is in.
 *
 * A template: PD_NAME; PD_COUNT taps in PD_ACROSS columns, which lie PD_COLUMNS from a pixel's own;
 * PD_BODY, which loads with PD_LOAD(row, column) and adds with PD_ADD(row of the result, tap);
 * PD_WIDTH of the input's rows; PD_STEP and PD_ROW_STEP, the strides; PD_EVERY, elements from one
 * that is read to the next: the stride, or 1 where a pixel is a vector; PD_TOP, rows of padding;
 * PD_ACT(v) where the activation is more than a clamp. */
#include "conv.h"

#ifndef PD_DEPTHWISE_MASKED_H
#define PD_DEPTHWISE_MASKED_H
#define PD_TALL 4 /* rows of pixels computed at once; the same in depthwise.h */

typedef void (*pd_depthwise_masked)(const float *plane, const uint32_t *masks,
                                    const float *weights, float bias, float *y,
                                    const float *residual, const pd_conv *c);

/* Which of the elements that a vector of pixels needs, `step` apart, lie in a row. */
PD_INLINE uint32_t pd_reads(int first, int step, int width) {
    uint32_t value = 0;
    for (int j = 0; j < PD_LANES; j++) {
        const int column = first + j * step;
        if (column >= 0 && column < width) value |= 1u << (j * step);
    }
    return value;
}

/* This thread's share: an item is one image of one output channel. */
PD_INLINE void pd_depthwise_masked_run(const pd_work *w, const pd_conv *c, const float *x,
                                       float *y, const float *residual, const float *weights,
                                       int taps, int multiplier, const int *columns, int across,
                                       int every, pd_depthwise_masked kernel) {
    const float *bias = (const float *)(w->weights + c->bias);
    uint32_t *masks = (uint32_t *)w->scratch;
    for (int v = 0; v < c->out_width; v += PD_LANES)
        for (int k = 0; k < across; k++)
            masks[v / PD_LANES * across + k] =
                pd_reads(v * c->column_step + columns[k], every, c->width);
    int begin, end;
    pd_share(w, c->rows * c->images, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int row = item / c->images, image = item % c->images;
        const float *plane = x + (uint64_t)(row / multiplier) * c->x_stride
            + (uint64_t)image * (uint64_t)(c->height * c->width);
        const uint64_t at = (uint64_t)image * (uint64_t)(c->out_height * c->out_width);
        kernel(plane, masks, weights + (uint64_t)row * (uint64_t)taps, bias[row],
               y + (uint64_t)row * c->y_stride + at,
               residual ? residual + (uint64_t)row * c->residual_stride + at : 0, c);
    }
}

/* Elements of `from` where `mask` has a bit; for step 2 every second one. */
PD_INLINE pd_vec pd_load_masked(const float *from, uint32_t mask, int step) {
    const __m512 a = _mm512_maskz_loadu_ps((__mmask16)mask, from);
    if (step == 1) return (pd_vec)a;
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512 b = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), from + 16);
    return (pd_vec)_mm512_permutex2var_ps(a, even, b);
}
#endif

static __attribute__((noinline)) void PD_NAME(const float *plane, const uint32_t *masks,
                                              const float *weights, float bias, float *y,
                                              const float *residual, const pd_conv *c) {
    static const int columns[PD_ACROSS] = PD_COLUMNS;
    const pd_vec minimum = pd_splat(c->low), maximum = pd_splat(c->high), start = pd_splat(bias);
    const int rows = c->out_height, width = c->out_width;
    (void)minimum, (void)maximum;
    pd_vec by[PD_COUNT];
#pragma GCC unroll 64
    for (int t = 0; t < PD_COUNT; t++) by[t] = pd_splat(weights[t]);
    for (int row = 0; row < rows; row += PD_TALL) {
        const int above = row * PD_ROW_STEP - PD_TOP; /* the input's row of the first taps */
        for (int v = 0; v < width; v += PD_LANES) {
            const uint32_t *mask = masks + v / PD_LANES * PD_ACROSS;
            const float *from = plane + (ptrdiff_t)above * PD_WIDTH + v * PD_STEP;
            pd_vec x, sum[PD_TALL];
#pragma GCC unroll 8
            for (int r = 0; r < PD_TALL; r++) sum[r] = start;
#define PD_LOAD(i, k)                                                                     \
    x = pd_load_masked(from + (i) * PD_WIDTH + columns[k],                                \
                       (unsigned)(above + (i)) < (unsigned)c->height ? mask[k] : 0, PD_EVERY); \
    PD_KEEP(x);
#define PD_ADD(row, tap) sum[row] += by[tap] * x;
            PD_BODY
#undef PD_LOAD
#undef PD_ADD
            const int left = width - v < PD_LANES ? width - v : PD_LANES;
#pragma GCC unroll 8
            for (int r = 0; r < PD_TALL; r++) {
                if (row + r >= rows) break;
                const int at = (row + r) * width + v;
                pd_vec s = sum[r];
                if (residual) s += pd_loadu(residual + at);
#ifdef PD_ACT
                s = PD_ACT(s);
#else
                s = pd_min(pd_max(s, minimum), maximum);
#endif
                pd_store_part(y + at, s, left);
            }
        }
    }
}

#undef PD_NAME
#undef PD_COUNT
#undef PD_ACROSS
#undef PD_COLUMNS
#undef PD_BODY
#undef PD_WIDTH
#undef PD_STEP
#undef PD_EVERY
#undef PD_ROW_STEP
#undef PD_TOP
#undef PD_ACT
