/* jit: scattered non-zeros as instructions. A record is a program (kernels/jit), which computes
 * some rows on one vector of pixels; it runs over the tile's vectors, one after the other.
 *
 * A template like rows.h. PD_SPILLED: where panels follow, the sums of all rows are in the scratch.
 * PD_EPILOGUE: the last program of a row finishes it, and stores exactly the tile's pixels; else the
 * scratch has the sums of one program after the other, finished as those of other kernels are. */
#include "conv.h"

#ifndef PD_JIT_H
#define PD_JIT_H

extern __attribute__((visibility("hidden"))) const unsigned char pd_code[];

/* A program: its rows; where its instructions for whole vectors are, and, from there, those for halves,
 * what the pointer to its weights is, and its end; how many bytes of what follows it fetches a run. */
typedef struct {
    uint32_t row;
    uint16_t rows, flags;
    uint64_t code;
    uint32_t half, weight, size, fetch;
} pd_program;

typedef void (*pd_instructions)(const float *tile, const float *weights, float *accumulators,
                                const float *bias, const void *fetched, float *y,
                                const float *residual, uint64_t mask);

/* One vector of a tile for a program: the `call`-th; `count` of its pixels are the tile's. */
typedef struct {
    const float *tile, *bias, *residual;
    float *accumulators, *y;
    int call, count;
} pd_vector;

/* The program, from `part` of its instructions on, over one vector. */
PD_INLINE void pd_call(const pd_program *p, uint32_t part, const pd_vector *v) {
    const unsigned char *code = pd_code + p->code, *from = code + part;
    const uint64_t fetched = (uint64_t)v->call * p->fetch;
    const uint64_t mask = v->count < PD_LANES ? (1u << v->count) - 1 : 0xffff;
    pd_instructions run;
    memcpy(&run, &from, sizeof run);
    /* what follows is mostly the next program, as large as this one */
    run(v->tile, (const float *)(const void *)(code + p->weight), v->accumulators, v->bias,
        fetched < p->size ? code + p->size + fetched : code, v->y, v->residual, mask);
}
#endif

#define PD_FULL (PD_TILE_WIDTH_X8 * 8 / PD_LANES)
#define PD_HALF (PD_TILE_WIDTH_X8 * 8 % PD_LANES != 0)

static __attribute__((noinline)) void PD_NAME(
    const pd_row_segment *segments, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *accumulators, const pd_store_to *to) {
    const pd_program *programs = (const pd_program *)(const void *)segments;
    const int size = PD_TILE_ROWS * PD_TILE_WIDTH_X8 * 8;
    (void)offsets, (void)weights;
#ifdef PD_SHARED_BORDER
    const int parts = 1, width = (to->tile_rows - 1) * PD_PITCH + PD_SHARED_BORDER;
#else
    const int parts = to->tile_rows, width = to->width;
#endif
    for (uint32_t i = 0; i < count; i++) {
        const pd_program *p = &programs[i];
        float *sum = accumulators + (PD_SPILLED ? (uint64_t)(p->row - first) * size : 0);
        float *y = to->y + p->row * to->y_stride;
        const float *residual = to->residual ? to->residual + p->row * to->residual_stride : 0;
        pd_vector now = {.bias = to->bias + p->row};
        for (int r = 0; r < parts; r++) {
            for (int v = 0; v < PD_TILE_WIDTH_X8 * 8 && v < width; v += PD_LANES, now.call++) {
                now.tile = tile + r * PD_PITCH + v, now.accumulators = sum + r * PD_TILE_WIDTH_X8 * 8 + v;
                now.y = y + r * to->pitch + v, now.count = width - v;
                now.residual = residual ? residual + r * to->pitch + v : 0;
                pd_call(p, v < PD_FULL * PD_LANES ? 0 : p->half, &now);
            }
        }
        if (PD_EPILOGUE || !(p->flags & PD_LAST)) continue;
        for (uint32_t row = p->row; row < p->row + p->rows; row++, sum += size) {
            pd_vec a[PD_TILE_ROWS][PD_FULL + 1];
            pd_half b[PD_TILE_ROWS];
            (void)b;
#pragma GCC unroll 32
            for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++)
                    a[r][v] = pd_loadu(sum + r * PD_TILE_WIDTH_X8 * 8 + v * PD_LANES);
                if (PD_HALF) b[r] = pd_half_load(sum + r * PD_TILE_WIDTH_X8 * 8 + PD_FULL * PD_LANES);
            }
#ifdef PD_SHARED_BORDER
#include "epilogue_shared_border.inc"
#else
#include "epilogue.inc"
#endif
        }
    }
#if PD_EPILOGUE
    _mm256_zeroupper(); /* compilers see no vectors here, and SSE behind them may be slow */
#endif
}

#undef PD_SPILLED
#undef PD_EPILOGUE
#undef PD_FULL
#undef PD_HALF
#undef PD_NAME
#undef PD_TILE_ROWS
#undef PD_SHARED_BORDER
#undef PD_PITCH
#undef PD_TILE_WIDTH_X8
#undef PD_ACT
