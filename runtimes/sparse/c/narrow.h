/* narrow: linear layers on very few pixels (a vector of features a sample), bound by memory.
 *
 * One pixel: dot products along the weights' rows. A few: each weight times one short vector. The
 * result of row m lies at y + m * pixels, x of channel k at x + k * pixels. */
#ifndef PD_NARROW_H
#define PD_NARROW_H

#include "conv.h"

PD_INLINE float pd_sum(pd_vec v) {
#if PD_LANES == 1
    return v;
#else
    float total = 0;
    for (int i = 0; i < PD_LANES; i++) total += v[i];
    return total;
#endif
}

/* sums[r] = dot(weights row r, x), `rows` (at most 4) rows `size` apart, all `size` long. */
PD_INLINE void pd_dots(float *sums, const float *weights, const float *x, int size, int rows) {
    const float *w1 = weights + (rows > 1 ? size : 0), *w2 = weights + (rows > 2 ? 2 * size : 0);
    const float *w3 = weights + (rows > 3 ? 3 * size : 0);
    pd_vec a = {0}, b = {0}, c = {0}, d = {0};
    int k = 0;
    for (; k + PD_LANES <= size; k += PD_LANES) {
        const pd_vec v = pd_loadu(x + k);
        a += v * pd_loadu(weights + k);
        b += v * pd_loadu(w1 + k);
        c += v * pd_loadu(w2 + k);
        d += v * pd_loadu(w3 + k);
    }
    float total[4] = {pd_sum(a), pd_sum(b), pd_sum(c), pd_sum(d)};
    for (; k < size; k++) {
        total[0] += x[k] * weights[k];
        total[1] += x[k] * w1[k];
        total[2] += x[k] * w2[k];
        total[3] += x[k] * w3[k];
    }
    for (int r = 0; r < rows; r++) sums[r] = total[r];
}

/* Row `row` of a matrix of non-zeros times all pixels; ends[row] is where its entries end. */
PD_INLINE void pd_narrow_sparse(float *sums, const float *weights, const uint32_t *columns,
                                const uint32_t *ends, int row, const float *x, int pixels) {
    uint32_t k = row ? ends[row - 1] : 0;
    const uint32_t end = ends[row];
    if (pixels == 1) {
        float a = 0, b = 0, c = 0, d = 0;
        for (; k + 4 <= end; k += 4) {
            a += weights[k] * x[columns[k]];
            b += weights[k + 1] * x[columns[k + 1]];
            c += weights[k + 2] * x[columns[k + 2]];
            d += weights[k + 3] * x[columns[k + 3]];
        }
        for (; k < end; k++) a += weights[k] * x[columns[k]];
        sums[0] = (a + b) + (c + d);
        return;
    }
    for (int j = 0; j < pixels; j++) sums[j] = 0;
    for (; k < end; k++)
        for (int j = 0; j < pixels; j++) sums[j] += weights[k] * x[columns[k] * pixels + j];
}

/* Four rows of a dense matrix, stored column by column, times 2 to 15 pixels. */
PD_INLINE void pd_narrow_dense(float *sums, const float *weights, const float *x, int size,
                               int pixels) {
    enum { VECTORS = (PD_UNIT + PD_LANES - 1) / PD_LANES };
    pd_vec sum[4][VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) sum[r][v] = pd_splat(0);
    for (int k = 0; k < size; k++) {
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) {
            const pd_vec from = pd_loadu(x + k * pixels + v * PD_LANES);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) sum[r][v] += pd_splat(weights[4 * k + r]) * from;
        }
    }
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < VECTORS; v++)
            pd_storeu(sums + r * PD_UNIT + v * PD_LANES, sum[r][v]);
}

#endif
