/* winograd: PD_TILE_ROWS rows of pixels of PD_ROWS output channels, from transformed rows of the input
 * (see winograd_1d.py). A block is one segment for each point; a segment's sums are added to the rows
 * of the result with the point's factors.
 *
 * A template like block.h. All blocks read the same offsets; a record is the segment of one point: `row` the
 * block's first row, `count` its columns; PD_SHARED marks a block's last one. A segment's weights
 * begin with its PD_TILE_ROWS factors. The rows of the result are touched once a segment, and may lie
 * in memory. */
#include "conv.h"

#define PD_FULL (PD_TILE_WIDTH_X8 * 8 / PD_LANES)
#define PD_HALF (PD_TILE_WIDTH_X8 * 8 % PD_LANES != 0)

static __attribute__((noinline)) void PD_NAME(
    const pd_row_segment *segments, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *accumulators, const pd_store_to *to) {
    const uint16_t *offset = (const uint16_t *)offsets;
    const int size = PD_TILE_ROWS * PD_TILE_WIDTH_X8 * 8;
    const pd_row_segment *const end = segments + count;
    while (segments < end) {
        const uint32_t begin = segments->row;
        const int flags = segments->flags;
        const int rows = to->rows - (int)begin < PD_ROWS ? to->rows - (int)begin : PD_ROWS;
        pd_vec all[PD_ROWS][PD_TILE_ROWS][PD_FULL + 1];
        pd_half half[PD_ROWS][PD_TILE_ROWS];
        for (int m = 0; m < PD_ROWS; m++) {
            const float bias =
                flags & PD_FIRST && m < rows ? to->bias[begin + m] * to->range->scale : 0;
#pragma GCC unroll 32
            for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) all[m][r][v] = pd_splat(bias);
                if (PD_HALF) half[m][r] = pd_half_splat(bias);
            }
        }
        const uint16_t *at = offset;
        for (int more = 1; more; segments++) {
            const int n = segments->count;
            const float *factor = weights;
            more = !(segments->flags & PD_SHARED);
            weights += PD_TILE_ROWS;
            pd_vec part[PD_ROWS][PD_FULL + 1];
            pd_half rest[PD_ROWS];
#pragma GCC unroll 32
            for (int m = 0; m < PD_ROWS; m++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) part[m][v] = pd_splat(0);
                if (PD_HALF) rest[m] = pd_half_splat(0);
            }
            for (int k = 0; k < n; k++, weights += PD_ROWS) {
                const float *from = tile + ((uint32_t)at[k] << PD_LOG_UNIT);
                __builtin_prefetch(weights + PD_AHEAD);
                pd_vec x[PD_FULL + 1];
                pd_half y = {0};
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) x[v] = pd_loadu(from + v * PD_LANES);
                if (PD_HALF) y = pd_half_load(from + PD_FULL * PD_LANES);
#pragma GCC unroll 32
                for (int m = 0; m < PD_ROWS; m++) {
#pragma GCC unroll 32
                    for (int v = 0; v < PD_FULL; v++) part[m][v] += pd_splat(weights[m]) * x[v];
                    if (PD_HALF) rest[m] += weights[m] * y;
                }
            }
            at += n;
#pragma GCC unroll 32
            for (int m = 0; m < PD_ROWS; m++)
#pragma GCC unroll 32
                for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
                    for (int v = 0; v < PD_FULL; v++)
                        all[m][r][v] += pd_splat(factor[r]) * part[m][v];
                    if (PD_HALF) half[m][r] += factor[r] * rest[m];
                }
        }
        for (int m = 0; m < PD_ROWS; m++) {
            const uint32_t row = begin + m;
            pd_vec (*a)[PD_FULL + 1] = all[m];
            pd_half *b = half[m];
            float *sum = accumulators + (uint64_t)(row - first) * size;
            if (!(flags & PD_FIRST)) {
#include "reload.inc"
            }
            if (flags & PD_LAST) {
                if (m >= rows) break;
                if ((int)row < to->range->done) continue;
#include "range.inc"
#include "epilogue.inc"
            } else {
#include "spill.inc"
            }
        }
    }
}

#undef PD_FULL
#undef PD_HALF
#undef PD_NAME
#undef PD_ROWS
#undef PD_TILE_ROWS
#undef PD_PITCH
#undef PD_TILE_WIDTH_X8
#undef PD_LOG_UNIT
#undef PD_ACT
