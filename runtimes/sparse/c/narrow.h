/* narrow: linear layers on very few pixels (a vector of features a sample), bound by memory.
 *
 * Dense rows: dot products along them with the features of each pixel, so that a weight that has come
 * serves all pixels. Sparse ones: each weight times the pixels of its column, side by side.
 *
 * A template, included once for each way to store weights. Define before: PD_KIND, one of those of
 * widen.h; PD_STORED, the type of its elements; PD_COLUMN, the type of the columns of non-zeros;
 * PD_DOTS and PD_SPARSE, the names of the functions. */
#include "conv.h"
#include "widen.h"

#ifndef PD_NARROW_H
#define PD_NARROW_H
#define PD_JOINED(a, b) a##b
#define PD_JOIN(a, b) PD_JOINED(a, b)

#if PD_LANES == 16 || defined(__ARM_NEON)
enum { PD_SIDE = 4 }; /* pixels at once: four rows of sums, in 32 registers */
#else
enum { PD_SIDE = 2 }; /* in 16 */
#endif

/* Vectors, and non-zeros, after which a sum begins anew: long sums are made of short ones, which err
 * in proportion to their length. */
enum { PD_RUN = 32, PD_SPARSE_RUN = 256 };

/* The features of each pixel side by side, in `to`: x of channel k lies at x + k * pixels. */
PD_INLINE const float *pd_narrow_turn(float *restrict to, const float *restrict x, int size,
                                      int pixels) {
    for (int j = 0; j < pixels; j++)
        for (int k = 0; k < size; k++) to[(ptrdiff_t)j * size + k] = x[(ptrdiff_t)k * pixels + j];
    return to;
}
#endif

#define PD_FETCH PD_JOIN(pd_fetch_, PD_KIND)
#define PD_WIDENED PD_JOIN(pd_widen_, PD_KIND)
#define PD_PART PD_JOIN(PD_DOTS, _part)

/* whole[r][j] += row[r] times pixel j from `begin` to `end`, whole vectors, for `pixels` (a constant,
 * at most PD_SIDE) pixels `size` apart. */
PD_INLINE void PD_PART(pd_vec (*whole)[PD_UNIT], const PD_STORED *const *row, const float *x,
                       int size, int begin, int end, int pixels) {
    pd_vec all[4][PD_SIDE];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
#pragma GCC unroll 4
        for (int j = 0; j < pixels; j++) all[r][j] = pd_splat(0);
    for (int k = begin; k < end; k += PD_LANES) {
        pd_vec v[PD_SIDE];
#pragma GCC unroll 4
        for (int j = 0; j < pixels; j++) v[j] = pd_loadu(x + (ptrdiff_t)j * size + k);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            if (pixels > 1) __builtin_prefetch(row[r] + k + PD_AHEAD); /* one alone is fast enough */
            const pd_vec by = PD_FETCH(row[r] + k);
#pragma GCC unroll 4
            for (int j = 0; j < pixels; j++) all[r][j] += by * v[j];
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
#pragma GCC unroll 4
        for (int j = 0; j < pixels; j++) whole[r][j] += all[r][j];
}

/* sums[r][j] = dot(weights row r, pixel j): `rows` (at most 4) rows and `pixels` (below PD_UNIT, a
 * constant), `size` apart and all `size` long. */
PD_INLINE void PD_DOTS(float accumulators[][PD_UNIT], const PD_STORED *weights, const float *x, int size,
                       int rows, int pixels) {
    const PD_STORED *row[4];
    pd_vec whole[4][PD_UNIT];
    for (int r = 0; r < 4; r++) {
        row[r] = weights + (r < rows ? (ptrdiff_t)r * size : 0);
        for (int j = 0; j < pixels; j++) whole[r][j] = pd_splat(0);
    }
    const int vectors = size / PD_LANES * PD_LANES;
    for (int k = 0; k < vectors; k += PD_RUN * PD_LANES) { /* so many weights stay near for all pixels */
        const int end = vectors - k < PD_RUN * PD_LANES ? vectors : k + PD_RUN * PD_LANES;
#pragma GCC unroll 8
        for (int j = 0; j < pixels; j += PD_SIDE)
            PD_PART((pd_vec(*)[PD_UNIT])(whole[0] + j), row, x + (ptrdiff_t)j * size, size, k, end,
                    pixels - j < PD_SIDE ? pixels - j : PD_SIDE);
    }
    for (int r = 0; r < rows; r++) {
        float room[PD_WIDE]; /* what lies behind a row is read, not used */
        const float *w = vectors < size ? PD_WIDENED(row[r] + vectors, room) : room;
        for (int j = 0; j < pixels; j++) {
            accumulators[r][j] = pd_sum_lanes(whole[r][j]);
            for (int i = 0; vectors + i < size; i++)
                accumulators[r][j] += x[(ptrdiff_t)j * size + vectors + i] * w[i];
        }
    }
}

/* Row `row` of a matrix of non-zeros times all pixels (a constant); ends[row] is where its entries
 * end. */
PD_INLINE void PD_SPARSE(float *accumulators, const PD_STORED *weights, const PD_COLUMN *columns,
                         const uint32_t *ends, int row, const float *x, int pixels) {
    enum { MAX_COLUMNS = (PD_UNIT + PD_LANES - 1) / PD_LANES };
    const int vectors = (pixels + PD_LANES - 1) / PD_LANES;
    uint32_t k = row ? ends[row - 1] : 0;
    float whole = 0;
    for (int j = 0; j < vectors * PD_LANES; j++) accumulators[j] = 0;
    while (k < ends[row]) {
        const uint32_t end = ends[row] - k < PD_SPARSE_RUN ? ends[row] : k + PD_SPARSE_RUN;
        float one[4] = {0, 0, 0, 0};
        pd_vec all[4][MAX_COLUMNS];
        for (int t = 0; t < 4; t++)
            for (int v = 0; v < vectors; v++) all[t][v] = pd_splat(0);
        for (; k < end; k += PD_WIDE) {
            float room[PD_WIDE];
            const float *w = PD_WIDENED(weights + k, room);
            const int n = end - k < PD_WIDE ? (int)(end - k) : PD_WIDE;
#pragma GCC unroll 4
            for (int i = 0; i < PD_WIDE; i += 4)
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++) {
                    if (i + t >= n) break;
                    const float *from = x + (ptrdiff_t)columns[k + i + t] * pixels;
                    if (pixels == 1) {
                        one[t] += w[i + t] * *from;
                        continue;
                    }
                    for (int v = 0; v < vectors; v++)
                        all[t][v] += pd_splat(w[i + t]) * pd_loadu(from + v * PD_LANES);
                }
        }
        k = end;
        whole += (one[0] + one[1]) + (one[2] + one[3]);
        if (pixels == 1) continue;
        for (int v = 0; v < vectors; v++) {
            const pd_vec sum = (all[0][v] + all[1][v]) + (all[2][v] + all[3][v]);
            pd_storeu(accumulators + v * PD_LANES, pd_loadu(accumulators + v * PD_LANES) + sum);
        }
    }
    if (pixels == 1) accumulators[0] = whole;
}

#undef PD_FETCH
#undef PD_WIDENED
#undef PD_PART
#undef PD_KIND
#undef PD_STORED
#undef PD_COLUMN
#undef PD_DOTS
#undef PD_SPARSE
