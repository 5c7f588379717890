/* rows: scattered non-zeros. One output row at a time; every non-zero (weight, offset) adds the
 * tile's plane at the offset, times the weight, to the row's vectors of sums, all in registers.
 *
 * A template, included once an instance. Define before: PD_NAME; PD_TILE_ROWS rows of pixels, PD_PITCH
 * elements apart in the tile, each of PD_TILE_WIDTH_X8 times 8 pixels; PD_LOG_UNIT: offsets count units of
 * 1 << PD_LOG_UNIT elements; PD_ACT(v) where the activation is more than a clamp; PD_SHARED_BORDER where the
 * one piece is rows of so many pixels, PD_PITCH elements apart; PD_INTERLEAVED where vector v of a piece holds
 * the pixels v, v + PD_INTERLEAVED, v + 2 PD_INTERLEAVED and so on. */
#include "conv.h"

#ifndef PD_TERM
/* A weight, in every element of a vector, times the plane at an offset, added to sums a and b. */
#define PD_TERM(a, b, units, broadcast)                                                           \
    {                                                                                         \
        const float *from = tile + ((uint64_t)(units) << PD_LOG_UNIT);                        \
        const pd_vec by = broadcast;                                                             \
        _Pragma("GCC unroll 32") for (int r = 0; r < PD_TILE_ROWS; r++) {                        \
            _Pragma("GCC unroll 32") for (int v = 0; v < PD_FULL; v++)                        \
                a[r][v] += by * pd_loadu(from + r * PD_PITCH + v * PD_LANES);                 \
            if (PD_HALF)                                                                      \
                b[r] += pd_lower(by) * pd_half_load(from + r * PD_PITCH + PD_FULL * PD_LANES); \
        }                                                                                     \
    }
#endif

#define PD_FULL (PD_TILE_WIDTH_X8 * 8 / PD_LANES)        /* whole vectors of a piece */
#define PD_HALF (PD_TILE_WIDTH_X8 * 8 % PD_LANES != 0)   /* and one of half the width */

/* Where a row has few sums, every addition would wait for the one before: then a row has several
 * sets of sums, which take turns and are added up at the end of the segment. */
#define PD_COUNT (PD_TILE_ROWS * (PD_FULL + PD_HALF))
#define PD_SETS (PD_COUNT <= 2 ? 4 : PD_COUNT <= 4 ? 2 : 1)

static __attribute__((noinline)) void PD_NAME(
    const pd_row_segment *segments, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *accumulators, const pd_store_to *to) {
    const uint16_t *offset = (const uint16_t *)offsets;
    const int size = PD_TILE_ROWS * PD_TILE_WIDTH_X8 * 8;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t row = segments[i].row;
        const int flags = segments[i].flags, n = segments[i].count;
        pd_vec a[PD_TILE_ROWS][PD_FULL + 1];
        pd_half b[PD_TILE_ROWS];
        float *sum = accumulators + (uint64_t)(row - first) * size;
        const float bias = flags & PD_FIRST ? to->bias[row] : 0;
#pragma GCC unroll 32
        for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
            for (int v = 0; v < PD_FULL; v++) a[r][v] = pd_splat(bias);
            if (PD_HALF) b[r] = pd_half_splat(bias);
        }
        int k = 0;
#ifdef pd_nth
        pd_vec more[PD_SETS][PD_TILE_ROWS][PD_FULL + 1];
        pd_half rest[PD_SETS][PD_TILE_ROWS];
#pragma GCC unroll 32
        for (int s = 1; s < PD_SETS; s++)
#pragma GCC unroll 32
            for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) more[s][r][v] = pd_splat(0);
                rest[s][r] = pd_half_splat(0);
            }
        for (; k + 4 <= n; k += 4) {
            const pd_vec four = pd_four(weights + k);
            uint64_t units;
            memcpy(&units, offset + k, sizeof units);
            PD_TERM(a, b, (uint16_t)units, pd_nth(four, 0))
            if (PD_SETS == 1) {
                PD_TERM(a, b, (uint16_t)(units >> 16), pd_nth(four, 1))
                PD_TERM(a, b, (uint16_t)(units >> 32), pd_nth(four, 2))
                PD_TERM(a, b, units >> 48, pd_nth(four, 3))
            } else if (PD_SETS == 2) {
                PD_TERM(more[1], rest[1], (uint16_t)(units >> 16), pd_nth(four, 1))
                PD_TERM(a, b, (uint16_t)(units >> 32), pd_nth(four, 2))
                PD_TERM(more[1], rest[1], units >> 48, pd_nth(four, 3))
            } else {
                PD_TERM(more[1], rest[1], (uint16_t)(units >> 16), pd_nth(four, 1))
                PD_TERM(more[2], rest[2], (uint16_t)(units >> 32), pd_nth(four, 2))
                PD_TERM(more[3], rest[3], units >> 48, pd_nth(four, 3))
            }
        }
#pragma GCC unroll 32
        for (int s = 1; s < PD_SETS; s++)
#pragma GCC unroll 32
            for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) a[r][v] += more[s][r][v];
                if (PD_HALF) b[r] += rest[s][r];
            }
#endif
        for (; k < n; k++) PD_TERM(a, b, offset[k], pd_splat(weights[k]))
        offset += n;
        weights += n;
        if (!(flags & PD_FIRST)) {
#include "reload.inc"
        }
        if (!(flags & PD_LAST)) {
#include "spill.inc"
            continue;
        }
#ifdef PD_INTERLEAVED
#pragma GCC unroll 32
        for (int r = 0; r < PD_TILE_ROWS; r++) pd_deinterleave(a[r], PD_INTERLEAVED);
#endif
#ifdef PD_SHARED_BORDER
#include "epilogue_shared_border.inc"
#else
#include "epilogue.inc"
#endif
    }
}

#undef PD_COUNT
#undef PD_SETS
#undef PD_FULL
#undef PD_HALF
#undef PD_NAME
#undef PD_TILE_ROWS
#undef PD_SHARED_BORDER
#undef PD_INTERLEAVED
#undef PD_PITCH
#undef PD_TILE_WIDTH_X8
#undef PD_LOG_UNIT
#undef PD_ACT
