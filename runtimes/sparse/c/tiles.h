/* A 3x3 window by minimal filtering in both directions: what is the same for every kernel of it.
 *
 * The result is cut into tiles of m x m pixels; each is computed from (m + 2)^2 products, of the
 * transformed pixels under it and transformed weights (see winograd2d.py). A lane of a vector is a
 * tile. Tiles of the whole batch, row by row, are cut into groups that a thread computes at once:
 * their input is transformed for all channels, then a kernel (winograd2d.h) multiplies and adds up,
 * point by point, and transforms back, some rows of the weights at a time. */
#ifndef PD_TILES_H
#define PD_TILES_H

#include "conv.h"
#include "lanes.h"

enum { PD_STRIP = 8, PD_MOST_LANES = 128, PD_STAGGER = 16 };

typedef struct {
    int32_t rows, channels, groups, blocks; /* blocks of rows, and groups of them for threads */
    int32_t outputs, lanes;        /* m; tiles of a group */
    int32_t tiles, down, across;   /* all of them; rows of tiles of an image, tiles of such a row */
    int32_t beside;                /* images that lie side by side: lanes of a tile */
    int32_t height, width, out_height, out_width, top, left;
    uint64_t x_stride, y_stride, residual_stride;
    uint64_t weight, block, bias;  /* bytes into the constants; floats of a block's weights */
    uint64_t products, patch, pixels; /* floats into the scratch: the transformed input is first */
    float low, high;
} pd_tiles;

/* Tiles side by side, at most PD_STRIP: the first one's lane, image, row and column of tiles. */
typedef struct {
    int lane, count, image, row, column;
} pd_strip;

typedef void (*pd_tiles_kernel)(const pd_tiles *c, const pd_strip *strips, int count, int first,
                                const float *weights, const float *bias, float *scratch, float *y,
                                const float *residual);

/* Floats from one point's transformed input to the next: not a power of two, for then all points
 * of a pixel would want the same place in the cache. */
PD_INLINE uint64_t pd_point(const pd_tiles *c) {
    return (uint64_t)c->channels * c->lanes + PD_STAGGER;
}

/* The strips of a group of tiles. */
static int pd_strips(const pd_tiles *c, int group, pd_strip *strips) {
    const int size = c->lanes / c->beside, begin = group * size;
    const int most = c->beside > 1 ? 1 : PD_STRIP;
    const int end = c->tiles - begin < size ? c->tiles : begin + size;
    int found = 0;
    for (int tile = begin; tile < end; found++) {
        const int column = tile % c->across, row = tile / c->across % c->down;
        int count = c->across - column < most ? c->across - column : most;
        if (count > end - tile) count = end - tile;
        strips[found] = (pd_strip){(tile - begin) * c->beside, count, tile / c->across / c->down, row,
                               column};
        tile += count;
    }
    return found;
}

/* Row `from` of the input under a strip of tiles, from column `column` on: patch[j][tile] is pixel
 * (outputs * tile + j) of it, for j < outputs + 2; a plane of `pitch` for each j. */
#if PD_LANES == 16
PD_INLINE void pd_store_upper(float *to, __m512 v) {
    _mm256_storeu_pd((double *)to, _mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
}

PD_INLINE void pd_patch_row(const float *from, int column, int width, int outputs, int count,
                            float *patch, int pitch) {
    (void)count; /* what is written behind the strip is overwritten or not looked at */
    const int end = width - column < 48 ? width - column : 48;
    const uint64_t seen = end > 0 ? ((uint64_t)1 << end) - 1 : 0;
    const uint64_t inside = column < 0 ? seen & ~(((uint64_t)1 << -column) - 1) : seen;
    const int step = outputs == 4 ? 4 : 2;
    const __m512i pairs = outputs == 4
        ? _mm512_set_epi32(29, 25, 21, 17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8, 4, 0)
        : _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i others = _mm512_add_epi32(pairs, _mm512_set1_epi32(2));
    for (int shift = 0; shift <= step; shift += step) { /* pixels 0 to step, then step and step + 1 */
        const __m512 low = _mm512_maskz_loadu_ps((__mmask16)(inside >> shift), from + shift);
        const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(inside >> (shift + 16)),
                                                  from + shift + 16);
        float *to = patch + shift * pitch;
        const __m512 two = _mm512_permutex2var_ps(low, pairs, high);
        _mm256_storeu_ps(to, _mm512_castps512_ps256(two));
        pd_store_upper(to + pitch, two);
        if (outputs == 4 && !shift) {
            const __m512 more = _mm512_permutex2var_ps(low, others, high);
            _mm256_storeu_ps(to + 2 * pitch, _mm512_castps512_ps256(more));
            pd_store_upper(to + 3 * pitch, more);
        }
    }
}
#else
PD_INLINE void pd_patch_row(const float *from, int column, int width, int outputs, int count,
                            float *patch, int pitch) {
    for (int j = 0; j < outputs + 2; j++)
        for (int tile = 0; tile < count; tile++) {
            const int at = tile * outputs + j;
            patch[j * pitch + tile] =
                column + at >= 0 && column + at < width ? from[at] : 0;
        }
}
#endif

/* The same where images lie side by side: one tile, a lane an image. */
PD_INLINE void pd_patch_beside(const float *from, int column, int width, int outputs, int beside,
                               float *patch, int pitch) {
    for (int j = 0; j < outputs + 2; j++) {
        const int inside = column + j >= 0 && column + j < width;
        for (int i = 0; i < beside; i += PD_LANES)
            pd_storeu(patch + j * pitch + i,
                      inside ? pd_loadu(from + (j * beside + i)) : pd_splat(0));
    }
}

/* The pixels under all tiles of a group, of one channel. */
PD_INLINE void pd_patches(const pd_tiles *c, const pd_strip *strips, int count, const float *plane,
                          int outputs, float *patch) {
    const int size = outputs + 2, pitch = c->lanes + PD_STRIP;
    for (int r = 0; r < count; r++) {
        const pd_strip *strip = &strips[r];
        const int column = strip->column * outputs - c->left;
        for (int i = 0; i < size; i++) {
            const int row = strip->row * outputs + i - c->top;
            const int outside = row < 0 || row >= c->height;
            const int64_t line = (int64_t)strip->image * c->height + (outside ? 0 : row);
            const float *from = plane + (line * c->width + column) * c->beside;
            float *to = patch + i * size * pitch + strip->lane;
            const int width = outside ? -PD_MOST_LANES : c->width;
            if (c->beside > 1)
                pd_patch_beside(from, column, width, outputs, c->beside, to, pitch);
            else pd_patch_row(from, column, width, outputs, strip->count, to, pitch);
        }
    }
}

/* The transforms, B^T and A^T of Winograd's construction with the points 0, 1, -1 and infinity
 * for two outputs, and 0, 5/8, -5/8, 3/2, -3/2 and infinity for four. */
#define PD_A 0.625f
#define PD_B 1.5f

PD_INLINE void pd_turn_input(pd_vec *d, int outputs) {
    if (outputs == 2) {
        const pd_vec a = d[1], b = d[2];
        d[0] = b - d[0], d[1] = a + b, d[2] = b - a, d[3] = d[3] - a;
        return;
    }
    const pd_vec a = pd_splat(PD_A), b = pd_splat(PD_B);
    const pd_vec aa = pd_splat(PD_A * PD_A), bb = pd_splat(PD_B * PD_B);
    const pd_vec both = pd_splat(PD_A * PD_A + PD_B * PD_B);
    const pd_vec all = pd_splat(PD_A * PD_A * PD_B * PD_B);
    const pd_vec even = d[4] - bb * d[2], odd = a * (d[3] - bb * d[1]);
    const pd_vec even2 = d[4] - aa * d[2], odd2 = b * (d[3] - aa * d[1]);
    d[0] = (d[4] - both * d[2]) + all * d[0];
    d[5] = (d[5] - both * d[3]) + all * d[1];
    d[1] = even + odd, d[2] = even - odd, d[3] = even2 + odd2, d[4] = even2 - odd2;
}

/* y[0 .. outputs) of the products m[0], m[step], ... */
PD_INLINE void pd_turn_output(const pd_vec *m, int outputs, pd_vec *y) {
    if (outputs == 2) {
        y[0] = m[0] + m[1] + m[2];
        y[1] = m[1] - m[2] + m[3];
        return;
    }
    const pd_vec sum = m[1] + m[2], less = m[1] - m[2];
    const pd_vec sum2 = m[3] + m[4], less2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = pd_splat(PD_A) * less + pd_splat(PD_B) * less2;
    y[2] = pd_splat(PD_A * PD_A) * sum + pd_splat(PD_B * PD_B) * sum2;
    y[3] = m[5] + pd_splat(PD_A * PD_A * PD_A) * less + pd_splat(PD_B * PD_B * PD_B) * less2;
}

/* From patches to the transformed input of one channel, [point][tile]. */
PD_INLINE void pd_turn(const pd_tiles *c, const float *patch, int outputs, float *to) {
    const int size = outputs + 2, pitch = c->lanes + PD_STRIP;
    const uint64_t point = pd_point(c);
    for (int v = 0; v < c->lanes; v += PD_LANES) {
        pd_vec all[6][6], line[6];
#pragma GCC unroll 6
        for (int i = 0; i < size; i++) {
#pragma GCC unroll 6
            for (int j = 0; j < size; j++) all[i][j] = pd_loadu(patch + (i * size + j) * pitch + v);
            pd_turn_input(all[i], outputs);
        }
#pragma GCC unroll 6
        for (int j = 0; j < size; j++) {
#pragma GCC unroll 6
            for (int i = 0; i < size; i++) line[i] = all[i][j];
            pd_turn_input(line, outputs);
#pragma GCC unroll 6
            for (int i = 0; i < size; i++) pd_storeu(to + (i * size + j) * point + v, line[i]);
        }
    }
}

static __attribute__((noinline)) void pd_turn_two(const pd_tiles *c, const pd_strip *strips, int count,
                                                  const float *plane, float *patch, float *to) {
    pd_patches(c, strips, count, plane, 2, patch);
    pd_turn(c, patch, 2, to);
}

static __attribute__((noinline)) void pd_turn_four(const pd_tiles *c, const pd_strip *strips, int count,
                                                   const float *plane, float *patch, float *to) {
    pd_patches(c, strips, count, plane, 4, patch);
    pd_turn(c, patch, 4, to);
}

/* This thread's share of a layer. */
static void pd_tiles_run(const pd_work *w, const pd_tiles *c, const float *x, float *y,
                         const float *residual, int rows, pd_tiles_kernel kernel) {
    const float *weights = (const float *)(w->weights + c->weight);
    const float *bias = (const float *)(w->weights + c->bias);
    const int size = c->lanes / c->beside, all = (c->tiles + size - 1) / size;
    pd_strip strips[PD_MOST_LANES];
    int begin, end;
    pd_share(w, all * c->groups, &begin, &end);
    while (begin < end) {
        const int tile = begin / c->groups, group = begin % c->groups;
        const int last = end - tile * c->groups < c->groups ? end - tile * c->groups : c->groups;
        const int count = pd_strips(c, tile, strips);
        for (int k = 0; k < c->channels; k++)
            (c->outputs == 2 ? pd_turn_two : pd_turn_four)(
                c, strips, count, x + k * c->x_stride, w->scratch + c->patch,
                w->scratch + (uint64_t)k * c->lanes);
        for (int b = c->blocks * group / c->groups; b < c->blocks * last / c->groups; b++)
            kernel(c, strips, count, b * rows, weights + b * c->block, bias, w->scratch, y, residual);
        begin = tile * c->groups + last;
    }
}

#endif
