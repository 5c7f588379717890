/* A convolution as a sum of shifted planes, tile by tile: what is the same for every kernel.
 *
 * Pixels of the output are cut into tiles. A *flat* tile is a run of pixels of the plane (1x1
 * windows); a *window* tile is whole rows of one image, its input copied with its halo and its
 * border of zeros into the thread's scratch, strides taken apart into phases, so that every tap
 * reads at a constant distance. Input channels are cut into panels that stay in the first-level
 * cache; output rows into groups, so that threads can share a tile. A kernel (rows.h, block.h)
 * computes the rows of one group from one panel. */
#ifndef PD_CONV_H
#define PD_CONV_H

#include "pd.h"

/* One output row within one panel: how many non-zeros, and whether the row begins or ends here. */
typedef struct {
    uint32_t row;
    uint16_t count;
    uint16_t flags;
} pd_row_segment;

enum { PD_FIRST = 1, PD_LAST = 2, PD_SHARED = 4 };

/* Weights of blocks come from far and are used once a tile: so many ahead of the one in use are
 * fetched, for a column's products take less time than a weight takes to come. */
enum { PD_AHEAD = 512 };

/* The segments of one group of rows in one panel, as offsets into the constants of the engine. */
typedef struct {
    uint32_t segments, first; /* how many, and the first group of rows' row */
    uint64_t segment, offset, weight; /* bytes */
} pd_part;

/* Channels [begin, end) of the input. */
typedef struct {
    int32_t begin, end;
} pd_panel;

/* One phase of a channel's halo in the packed tile: element (i, j) is the input's pixel
 * (row + i * row_step, column + j * column_step), zero outside of it. */
typedef struct {
    int32_t row, row_step, rows, column, column_step, width, position;
} pd_phase;

typedef struct {
    int32_t rows, tiles, groups, panels;
    int32_t pixels;           /* of the whole plane of y */
    int32_t tile, columns;    /* flat: pixels of a tile; window: its rows and its columns */
    int32_t block;            /* elements of a pixel: images that lie side by side */
    int32_t images, height, width;         /* of x: blocks, rows, elements of a row */
    int32_t out_height, out_width;         /* of y */
    int32_t row_step, column_step;         /* strides of the window */
    int32_t packed;           /* 0: flat tiles are read where they lie */
    int32_t channel;          /* elements of a packed channel */
    int32_t phases;           /* 0 for flat tiles */
    int32_t interleaved;             /* vectors of a row that is a interleaved; 0 elsewhere */
    int32_t winograd;         /* rows of phases are transformed (winograd.h) */
    int32_t taps;             /* of im2col: copies of a channel; 0 elsewhere */
    uint64_t x_stride, y_stride, residual_stride;
    uint64_t phase, panel, part, bias, gather, transform; /* bytes into the constants */
    float low, high;          /* of the activation */
} pd_conv;

/* How Winograd's kernels keep inputs near the end of float32 in range. Their transforms add and subtract
 * pixels, and so overflow where a direct sum does not. A row with a result that is not finite is not
 * stored; the tile is computed again from that row on, its input times a power of two. */
typedef struct {
    float scale, back;    /* of the input; of the results */
    int32_t done, failed; /* rows before `done` are stored, the row `done` is not finite */
} pd_range;

#define PD_DOWN 0x1p-64f /* what is lost by it is 1e-26 or less, beside what does not fit */
#define PD_UP 0x1p64f

/* Where a kernel writes: row r of the layer at y + r * y_stride, in pieces. */
typedef struct {
    const float *bias;
    const float *residual;
    float *y;
    uint64_t y_stride, residual_stride;
    int32_t rows;                 /* of the whole layer */
    int32_t tile_rows, width, pitch; /* pixels of a piece, and from one piece to the next */
    int32_t spill;                /* a vector may reach into the next piece */
    float low, high;
    pd_range *range;              /* of Winograd's kernel */
} pd_store_to;

typedef void (*pd_kernel)(const pd_row_segment *segments, uint32_t count, uint32_t first,
                          const void *offsets, const float *weights, const float *tile,
                          float *accumulators, const pd_store_to *to);

#if PD_LANES == 16 /* half a vector: rows of 7, tiles of 56 */
typedef float pd_half __attribute__((vector_size(32), may_alias));
typedef float pd_half_u __attribute__((vector_size(32), aligned(4), may_alias));
#else /* tiles are whole vectors: never used */
typedef pd_vec pd_half;
typedef pd_vec_u pd_half_u;
#endif

PD_INLINE pd_half pd_half_splat(float x) { return x - (pd_half){0}; }
PD_INLINE pd_half pd_half_load(const float *p) { return *(const pd_half_u *)p; }
PD_INLINE void pd_half_store(float *p, pd_half v) { *(pd_half_u *)p = v; }

/* Four weights in one load, spread over a vector each by a shuffle: loads are what limits the loop
 * over non-zeros, and a weight of its own would be one for every few of the plane. */
#if PD_LANES == 16
PD_INLINE pd_vec pd_four(const float *p) {
    return (pd_vec)_mm512_broadcast_f32x4(_mm_loadu_ps(p));
}
#define pd_nth(four, i) ((pd_vec)_mm512_permute_ps((__m512)(four), 0x55 * (i)))
#define pd_lower(v) ((pd_half)_mm512_castps512_ps256((__m512)(v)))
#elif PD_LANES == 8
PD_INLINE pd_vec pd_four(const float *p) {
    const __m128 four = _mm_loadu_ps(p);
    return (pd_vec)_mm256_broadcast_ps(&four);
}
#define pd_nth(four, i) ((pd_vec)_mm256_permute_ps((__m256)(four), 0x55 * (i)))
#define pd_lower(v) (v)
#else
#define pd_lower(v) (v)
#endif

/* Whether one of the first `count` elements is NaN; `count` may be more than a vector has. */
PD_INLINE int pd_has_nan(pd_vec v, int count) {
    const int size = count < PD_LANES ? count : PD_LANES;
#if PD_LANES == 16
    return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) & ((1 << size) - 1);
#elif PD_LANES == 8
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q)) & ((1 << size) - 1);
#else
    float all[PD_LANES];
    int any = 0;
    pd_storeu(all, v);
    for (int i = 0; i < size; i++) any |= all[i] != all[i];
    return any;
#endif
}

/* `count` elements (at most a vector), exactly. */
PD_INLINE void pd_store_part(float *to, pd_vec v, int count) {
#if PD_LANES == 16
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int i = 0; i < count; i++) to[i] = all[i];
#endif
}

#if PD_LANES == 16
/* Which of a vector's elements, the first of them `begin` in a run of rows `pitch` apart, are among
 * the first `width` of a row. */
PD_INLINE uint32_t pd_pixels_of_image(int begin, int pitch, int width) {
    uint32_t inside = 0;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) inside |= (uint32_t)((begin + i) % pitch < width) << i;
    return inside;
}

/* The elements of two vectors in turns, the first halves in `a`, the second in `b`. */
PD_INLINE void pd_interleave_pair(pd_vec *a, pd_vec *b) {
    const __m512i low =
        _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high =
        _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    const __m512 x = (__m512)*a, y = (__m512)*b;
    *a = (pd_vec)_mm512_permutex2var_ps(x, low, y);
    *b = (pd_vec)_mm512_permutex2var_ps(x, high, y);
}

/* The pixels of a interleaved of two or four vectors in their order. */
PD_INLINE void pd_deinterleave(pd_vec *v, int interleaved) {
    if (interleaved == 2) {
        pd_interleave_pair(v, v + 1);
        return;
    }
    pd_interleave_pair(v, v + 2), pd_interleave_pair(v + 1, v + 3); /* 0 2 0 2 ..., and 1 3 1 3 ... */
    pd_interleave_pair(v, v + 1), pd_interleave_pair(v + 2, v + 3);
}
#endif

/* Where a window tile begins in the result. */
typedef struct {
    int image, row, column;
} pd_tile_origin;

PD_INLINE pd_tile_origin pd_tile_origin_of(const pd_conv *c, int tile) {
    const int across = (c->out_width + c->columns - 1) / c->columns;
    const int down = (c->out_height + c->tile - 1) / c->tile;
    const pd_tile_origin at = {tile / across / down, tile / across % down * c->tile,
                        tile % across * c->columns};
    return at;
}

#include "pack.h"

/* Where tile `tile` of the result goes. */
static void pd_set_output(pd_store_to *to, const pd_conv *c, float *y, const float *residual, int tile) {
    int begin;
    if (!c->phases) {
        begin = tile * c->tile;
        to->tile_rows = 1;
        to->width = to->pitch = c->pixels - begin < c->tile ? c->pixels - begin : c->tile;
        to->spill = 0;
    } else {
        const pd_tile_origin at = pd_tile_origin_of(c, tile);
        begin = (at.image * c->out_height + at.row) * c->out_width + at.column;
        to->tile_rows = c->out_height - at.row < c->tile ? c->out_height - at.row : c->tile;
        to->width = c->out_width - at.column < c->columns ? c->out_width - at.column : c->columns;
        to->pitch = c->out_width;
        to->spill = c->columns >= c->out_width && residual != y;
    }
    to->y = y + begin;
    to->residual = residual ? residual + begin : 0;
}

/* Groups [group, last) of rows of one tile, panel by panel, until a row fails. */
static void pd_conv_tile(const pd_work *w, const pd_conv *c, const float *x, pd_kernel kernel,
                         uint64_t accumulators, int tile, int group, int last, const pd_store_to *to) {
    const pd_panel *panels = (const pd_panel *)(w->weights + c->panel);
    const pd_part *parts = (const pd_part *)(w->weights + c->part);
    for (int p = 0; p < c->panels; p++) {
        const float *from = x + (uint64_t)panels[p].begin * c->x_stride + tile * c->tile;
        if (c->packed) {
            pd_pack(w->scratch, w, c, x, panels[p], tile, to->range->scale);
            from = w->scratch;
        }
        for (int g = group; g < last && !to->range->failed; g++) {
            const pd_part *part = &parts[g * c->panels + p];
            kernel((const pd_row_segment *)(w->weights + part->segment), part->segments,
                   parts[group * c->panels].first, w->weights + part->offset,
                   (const float *)(w->weights + part->weight), from, w->scratch + accumulators, to);
        }
    }
}

/* This thread's share of a layer. Scratch: the packed panel, then the sums of unfinished rows. */
static void pd_conv_run(const pd_work *w, const pd_conv *c, const float *x, float *y,
                        const float *residual, pd_kernel kernel, uint64_t accumulators) {
    pd_range range;
    pd_store_to to = {(const float *)(w->weights + c->bias), 0, 0, c->y_stride,
                      c->residual_stride, c->rows, 0, 0, 0, 0, c->low, c->high, &range};
    int begin, end;
    pd_share(w, c->tiles * c->groups, &begin, &end);
    while (begin < end) {
        int tile = begin / c->groups, group = begin % c->groups;
        int last = end - tile * c->groups < c->groups ? end - tile * c->groups : c->groups;
        pd_set_output(&to, c, y, residual, tile);
        range = (pd_range){1, 1, 0, 0};
        pd_conv_tile(w, c, x, kernel, accumulators, tile, group, last, &to);
        if (range.failed) {
            range = (pd_range){PD_DOWN, PD_UP, range.done, 0};
            pd_conv_tile(w, c, x, kernel, accumulators, tile, group, last, &to);
        }
        begin = tile * c->groups + last;
    }
}

#endif
