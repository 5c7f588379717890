/* Windows by minimal filtering in both directions: what is the same for every kernel of it.
 *
 * The result is cut into tiles of m x m pixels; each is computed from (m + taps - 1)^2 products, of
 * the transformed pixels under it and transformed weights (see winograd_2d.py). Strides are taken
 * apart: each phase of a channel is a channel of its own. A lane of a vector is a tile. Tiles of the
 * whole batch, row by row, are cut into groups that a thread computes at once: their input is
 * transformed for all channels, then a kernel (winograd2d.h) multiplies and adds up, point by point,
 * and transforms back, some rows of the weights at a time. */
#ifndef PD_TILES_H
#define PD_TILES_H

#include "conv.h"
#include "lanes.h"

enum { PD_STRIP = 8, PD_MAX_LANES = 128 };

/* Products of one sum, and of a sum of sums. float32 errs in proportion to a sum's length, and most
 * where the terms are larger than what is left of them in the end: so a long sum is made of short ones.
 * A row has as many sums of PD_CHUNK as its registers allow, and the last ones may be twice as long. */
#ifndef PD_CHUNK
#define PD_CHUNK 8
#endif
enum { PD_GROUP = 128 };

typedef struct {
    int32_t rows, groups, blocks;  /* blocks of rows, and groups of them for threads */
    int32_t inputs, channels;      /* of x; and with every phase for itself */
    int32_t step, outputs, size, lanes; /* the stride; m; m + taps - 1; tiles of a group */
    int32_t tiles, down, across;   /* all of them; rows of tiles of an image, tiles of such a row */
    int32_t batch_innermost;                /* images that lie side by side: lanes of a tile */
    int32_t height, width, out_height, out_width, top, left;
    uint64_t x_stride, y_stride, residual_stride;
    uint64_t weight, block, bias;  /* bytes into the constants; floats of a block's weights */
    uint64_t point;                /* floats from one point's transformed input to the next */
    uint64_t products, patch, pixels; /* floats into the scratch: the transformed input is first */
    float low, high;
} pd_tiles;

/* Tiles side by side, at most PD_STRIP: the first one's lane, image, row and column of tiles. */
typedef struct {
    int lane, count, image, row, column;
} pd_strip;

typedef void (*pd_tiles_kernel)(const pd_tiles *c, const pd_strip *strips, int count, int first,
                                const float *weights, const float *bias, float *scratch, float *y,
                                const float *residual, pd_range *range);

/* The strips of a group of tiles. */
static int pd_strips(const pd_tiles *c, int group, pd_strip *strips) {
    const int size = c->lanes / c->batch_innermost, begin = group * size;
    const int maximum = c->batch_innermost > 1 ? 1 : PD_STRIP;
    const int end = c->tiles - begin < size ? c->tiles : begin + size;
    int value = 0;
    for (int tile = begin; tile < end; value++) {
        const int column = tile % c->across, row = tile / c->across % c->down;
        int count = c->across - column < maximum ? c->across - column : maximum;
        if (count > end - tile) count = end - tile;
        strips[value] = (pd_strip){(tile - begin) * c->batch_innermost, count, tile / c->across / c->down, row,
                               column};
        tile += count;
    }
    return value;
}

/* Pixels of a row under a strip of tiles: `from` is pixel `column` of a row of `width`, and
 * patch[j][tile] becomes pixel column + step * (outputs * tile + j), zero outside of the row, for
 * j < size; a plane of `pitch` floats for each j. */
#if PD_LANES == 16
PD_INLINE __mmask16 pd_seen(int column, int width) {
    const int low = column < 0 ? -column : 0;
    const int high = width - column < 16 ? width - column : 16;
    return low < high ? (__mmask16)((1u << high) - (1u << low)) : 0;
}

/* Sixteen pixels, `step` (1 or 2) apart. */
PD_INLINE __m512 pd_sixteen(const float *from, int column, int width, int step) {
    const __m512 near = _mm512_maskz_loadu_ps(pd_seen(column, width), from);
    if (step == 1) return near;
    const __m512 far = _mm512_maskz_loadu_ps(pd_seen(column + 16, width), from + 16);
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(near, even, far);
}

/* Two planes of eight. */
PD_INLINE void pd_store_planes(float *to, int pitch, int planes, __m512 both) {
    _mm256_storeu_ps(to, _mm512_castps512_ps256(both));
    if (planes > 1)
        _mm256_storeu_pd((double *)(to + pitch),
                         _mm512_extractf64x4_pd(_mm512_castps_pd(both), 1));
}

PD_INLINE void pd_patch_row(const float *from, int column, int width, int step, int outputs,
                            int size, int count, float *patch, int pitch) {
    (void)count; /* what is written behind the strip is overwritten or not looked at */
    const __m512i tile = _mm512_set_epi32(7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i second = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i pairs =
        _mm512_add_epi32(_mm512_mullo_epi32(tile, _mm512_set1_epi32(outputs)), second);
    const __m512i others = _mm512_add_epi32(pairs, _mm512_set1_epi32(2));
#pragma GCC unroll 3
    for (int j = 0; j < size; j += outputs) {
        const int planes = size - j < outputs ? size - j : outputs;
        const __m512 low = pd_sixteen(from + j * step, column + j * step, width, step);
        const __m512 high = pd_sixteen(from + (j + 16) * step, column + (j + 16) * step, width, step);
        float *to = patch + j * pitch;
        pd_store_planes(to, pitch, planes, _mm512_permutex2var_ps(low, pairs, high));
        if (planes > 2)
            pd_store_planes(to + 2 * pitch, pitch, planes - 2,
                            _mm512_permutex2var_ps(low, others, high));
    }
}
#else
PD_INLINE void pd_patch_row(const float *from, int column, int width, int step, int outputs,
                            int size, int count, float *patch, int pitch) {
    for (int j = 0; j < size; j++)
        for (int tile = 0; tile < count; tile++) {
            const int at = step * (tile * outputs + j);
            patch[j * pitch + tile] = column + at >= 0 && column + at < width ? from[at] : 0;
        }
}
#endif

/* The same where images lie side by side: one tile, a lane an image. */
PD_INLINE void pd_patch_batch_innermost(const float *from, int column, int width, int step, int size,
                               int batch_innermost, float *patch, int pitch) {
    for (int j = 0; j < size; j++) {
        const int at = j * step, inside = column + at >= 0 && column + at < width;
        for (int i = 0; i < batch_innermost; i += PD_LANES)
            pd_storeu(patch + j * pitch + i,
                      inside ? pd_loadu(from + (at * batch_innermost + i)) : pd_splat(0));
    }
}

/* The pixels under all tiles of a group, of one phase (down, across) of a channel. */
PD_INLINE void pd_patches(const pd_tiles *c, const pd_strip *strips, int count, const float *plane,
                          int down, int across, int outputs, int size, float *patch) {
    const int pitch = c->lanes + PD_STRIP;
    for (int r = 0; r < count; r++) {
        const pd_strip *strip = &strips[r];
        const int column = strip->column * outputs * c->step + across - c->left;
        for (int i = 0; i < size; i++) {
            const int row = (strip->row * outputs + i) * c->step + down - c->top;
            const int outside = row < 0 || row >= c->height;
            const int64_t line = (int64_t)strip->image * c->height + (outside ? 0 : row);
            const float *from = plane + (line * c->width + column) * c->batch_innermost;
            float *to = patch + i * size * pitch + strip->lane;
            const int width = outside ? INT32_MIN / 2 : c->width;
            if (c->batch_innermost > 1)
                pd_patch_batch_innermost(from, column, width, c->step, size, c->batch_innermost, to, pitch);
            else pd_patch_row(from, column, width, c->step, outputs, size, strip->count, to, pitch);
        }
    }
}

/* The transforms, B^T and A^T of Winograd's construction with the points of winograd_2d.py: 0, 1, -1
 * and infinity for size 4; 5/16, 5/4, their negatives and infinity for 5; 0, 5/8, 3/2, their
 * negatives and infinity for 6. Of a pair of points the even powers are the same, the odd ones differ
 * in their sign. */
PD_INLINE void pd_transform_four(pd_vec *d) {
    const pd_vec a = d[1], b = d[2];
    d[0] = b - d[0], d[1] = a + b, d[2] = b - a, d[3] = d[3] - a;
}

/* Of `point` and its negative. */
PD_INLINE void pd_transform_pair(pd_vec even, pd_vec odd, float point, pd_vec *to) {
    to[0] = odd + pd_splat(point) * even, to[1] = odd - pd_splat(point) * even;
}

PD_INLINE void pd_transform_five(pd_vec *d) {
    const float a = 0.3125f, b = 1.25f;
    const pd_vec aa = pd_splat(a * a), bb = pd_splat(b * b);
    const pd_vec last = (d[4] - pd_splat(a * a + b * b) * d[2]) + pd_splat(a * a * b * b) * d[0];
    pd_vec to[4];
    pd_transform_pair(d[2] - bb * d[0], d[3] - bb * d[1], a, to);
    pd_transform_pair(d[2] - aa * d[0], d[3] - aa * d[1], b, to + 2);
    d[0] = to[0], d[1] = to[1], d[2] = to[2], d[3] = to[3], d[4] = last;
}

PD_INLINE void pd_transform_six(pd_vec *d) {
    const float a = 0.625f, b = 1.5f;
    const pd_vec aa = pd_splat(a * a), bb = pd_splat(b * b);
    const pd_vec sum = pd_splat(a * a + b * b), product = pd_splat(a * a * b * b);
    pd_vec to[4];
    pd_transform_pair(d[3] - bb * d[1], d[4] - bb * d[2], a, to);
    pd_transform_pair(d[3] - aa * d[1], d[4] - aa * d[2], b, to + 2);
    d[0] = (d[4] - sum * d[2]) + product * d[0];
    d[5] = (d[5] - sum * d[3]) + product * d[1];
    d[1] = to[0], d[2] = to[1], d[3] = to[2], d[4] = to[3];
}

PD_INLINE void pd_transform_input(pd_vec *d, int size) {
    if (size == 4) pd_transform_four(d);
    else if (size == 5) pd_transform_five(d);
    else pd_transform_six(d);
}

/* Pixels of a tile's row or column from the products of its points. */
PD_INLINE void pd_transform_output(const pd_vec *m, int size, int outputs, pd_vec *y) {
    if (size == 4) {
        y[0] = m[0] + m[1] + m[2];
        y[1] = m[1] - m[2] + m[3];
        return;
    }
    const float a = size == 6 ? 0.625f : 0.3125f, b = size == 6 ? 1.5f : 1.25f;
    const pd_vec *pair = size == 6 ? m + 1 : m;
    const pd_vec sum = pair[0] + pair[1], less = pair[0] - pair[1];
    const pd_vec sum2 = pair[2] + pair[3], less2 = pair[2] - pair[3];
    y[0] = sum + sum2;
    if (size == 6) y[0] += m[0]; /* the point 0 */
    y[1] = pd_splat(a) * less + pd_splat(b) * less2;
    if (outputs > 2) y[2] = pd_splat(a * a) * sum + pd_splat(b * b) * sum2;
    if (outputs > 3) y[3] = pd_splat(a * a * a) * less + pd_splat(b * b * b) * less2;
    y[outputs - 1] += m[size - 1]; /* infinity */
}

/* The pixels of a row of tiles in their order, from vectors of first, second, ... pixels. */
#if PD_LANES == 16
PD_INLINE void pd_interleave(pd_vec *v, int outputs) {
    if (outputs != 3) {
        pd_deinterleave(v, outputs);
        return;
    }
    const __m512i index[3] = {
        _mm512_set_epi32(5, 4, 20, 4, 3, 19, 3, 2, 18, 2, 1, 17, 1, 0, 16, 0),
        _mm512_set_epi32(26, 10, 9, 25, 9, 8, 24, 8, 7, 23, 7, 6, 22, 6, 5, 21),
        _mm512_set_epi32(15, 31, 15, 14, 30, 14, 13, 29, 13, 12, 28, 12, 11, 27, 11, 10)};
    const __m512 first = (__m512)v[0], next = (__m512)v[1], third = (__m512)v[2];
    v[0] = (pd_vec)_mm512_mask_permutexvar_ps(_mm512_permutex2var_ps(first, index[0], next),
                                              0x4924, index[0], third);
    v[1] = (pd_vec)_mm512_mask_permutexvar_ps(_mm512_permutex2var_ps(first, index[1], next),
                                              0x2492, index[1], third);
    v[2] = (pd_vec)_mm512_mask_permutexvar_ps(_mm512_permutex2var_ps(first, index[2], next),
                                              0x9249, index[2], third);
}
#else
PD_INLINE void pd_interleave(pd_vec *v, int outputs) {
    float all[4 * PD_LANES], each[PD_LANES];
    for (int b = 0; b < outputs; b++) {
        pd_storeu(each, v[b]);
        for (int i = 0; i < PD_LANES; i++) all[i * outputs + b] = each[i];
    }
    for (int b = 0; b < outputs; b++) v[b] = pd_loadu(all + b * PD_LANES);
}
#endif

/* From patches to the transformed input of one channel, [point][tile]. */
PD_INLINE void pd_turn(const pd_tiles *c, const float *patch, int size, float *to) {
    const int pitch = c->lanes + PD_STRIP;
    const uint64_t point = c->point;
    for (int v = 0; v < c->lanes; v += PD_LANES) {
        pd_vec all[6][6], line[6];
#pragma GCC unroll 6
        for (int i = 0; i < size; i++) {
#pragma GCC unroll 6
            for (int j = 0; j < size; j++) all[i][j] = pd_loadu(patch + (i * size + j) * pitch + v);
            pd_transform_input(all[i], size);
        }
#pragma GCC unroll 6
        for (int j = 0; j < size; j++) {
#pragma GCC unroll 6
            for (int i = 0; i < size; i++) line[i] = all[i][j];
            pd_transform_input(line, size);
#pragma GCC unroll 6
            for (int i = 0; i < size; i++) pd_storeu(to + (i * size + j) * point + v, line[i]);
        }
    }
}

/* Phase (down, across) of a channel, transformed for all tiles of a group. */
#define PD_TURNED(name, outputs, size)                                                          \
    static __attribute__((noinline)) void name(const pd_tiles *c, const pd_strip *strips,       \
                                               int count, const float *plane, int down,         \
                                               int across, float *patch, float *to,             \
                                               float scale) {                                   \
        pd_patches(c, strips, count, plane, down, across, outputs, size, patch);                \
        if (scale < 1)                                                                          \
            for (int i = 0; i < size * size * (c->lanes + PD_STRIP); i++) patch[i] *= scale;    \
        pd_turn(c, patch, size, to);                                                            \
    }
PD_TURNED(pd_turned_two_four, 2, 4)
PD_TURNED(pd_turned_two_five, 2, 5)
PD_TURNED(pd_turned_three_six, 3, 6)
PD_TURNED(pd_turned_four_six, 4, 6)

/* All channels, and of each all phases: `step` squared of them. */
static void pd_transform_all(const pd_tiles *c, const pd_strip *strips, int count, const float *x,
                             float *scratch, float scale) {
    float *to = scratch, *patch = scratch + c->patch;
    for (int k = 0; k < c->inputs; k++, x += c->x_stride)
        for (int down = 0; down < c->step; down++)
            for (int across = 0; across < c->step; across++, to += c->lanes) {
                if (c->size == 4) pd_turned_two_four(c, strips, count, x, down, across, patch, to, scale);
                else if (c->size == 5)
                    pd_turned_two_five(c, strips, count, x, down, across, patch, to, scale);
                else if (c->outputs == 3)
                    pd_turned_three_six(c, strips, count, x, down, across, patch, to, scale);
                else pd_turned_four_six(c, strips, count, x, down, across, patch, to, scale);
            }
}

/* This thread's share of a layer. */
static void pd_tiles_run(const pd_work *w, const pd_tiles *c, const float *x, float *y,
                         const float *residual, int rows, pd_tiles_kernel kernel) {
    const float *weights = (const float *)(w->weights + c->weight);
    const float *bias = (const float *)(w->weights + c->bias);
    const int size = c->lanes / c->batch_innermost, all = (c->tiles + size - 1) / size;
    pd_strip strips[PD_MAX_LANES];
    int begin, end;
    pd_share(w, all * c->groups, &begin, &end);
    while (begin < end) {
        const int tile = begin / c->groups, group = begin % c->groups;
        const int last = end - tile * c->groups < c->groups ? end - tile * c->groups : c->groups;
        const int count = pd_strips(c, tile, strips);
        pd_range range = {1, 1, 0, 0};
        pd_transform_all(c, strips, count, x, w->scratch, 1);
        for (int b = c->blocks * group / c->groups; b < c->blocks * last / c->groups; b++) {
            kernel(c, strips, count, b * rows, weights + b * c->block, bias, w->scratch, y, residual,
                   &range);
            if (!range.failed) continue;
            range = (pd_range){PD_DOWN, PD_UP, range.done, 0};
            pd_transform_all(c, strips, count, x, w->scratch, PD_DOWN);
            b--; /* once more, from row `done` on */
        }
        begin = tile * c->groups + last;
    }
}

#endif
