/* block: PD_ROWS output rows that share their offsets: each vector of the tile that is loaded
 * serves all of them. Dense layers, and dense patches of sparse ones.
 *
 * A template like rows.h, with PD_ROWS. A segment is a block: `row` its first row, `count` its
 * columns. The weights of a column lie side by side, PD_ROWS of them; rows beyond the layer's last
 * have zeros there and are not stored. With PD_SHARED the next segment reads the same offsets. */
#include "conv.h"

#define PD_FULL (PD_TILE_WIDTH_X8 * 8 / PD_LANES)
#define PD_HALF (PD_TILE_WIDTH_X8 * 8 % PD_LANES != 0)

static __attribute__((noinline)) void PD_NAME(
    const pd_row_segment *segments, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *accumulators, const pd_store_to *to) {
    const uint16_t *offset = (const uint16_t *)offsets;
    const int size = PD_TILE_ROWS * PD_TILE_WIDTH_X8 * 8;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t begin = segments[i].row;
        const int flags = segments[i].flags, n = segments[i].count;
        const int rows = to->rows - (int)begin < PD_ROWS ? to->rows - (int)begin : PD_ROWS;
        pd_vec all[PD_ROWS][PD_TILE_ROWS][PD_FULL + 1];
        pd_half half[PD_ROWS][PD_TILE_ROWS];
#pragma GCC unroll 32
        for (int m = 0; m < PD_ROWS; m++) {
            const float bias = flags & PD_FIRST && m < rows ? to->bias[begin + m] : 0;
#pragma GCC unroll 32
            for (int r = 0; r < PD_TILE_ROWS; r++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) all[m][r][v] = pd_splat(bias);
                if (PD_HALF) half[m][r] = pd_half_splat(bias);
            }
        }
        for (int k = 0; k < n; k++, weights += PD_ROWS) {
            const float *from = tile + ((uint32_t)offset[k] << PD_LOG_UNIT);
            __builtin_prefetch(weights + PD_AHEAD);
#pragma GCC unroll 32
            for (int r = 0; r < PD_TILE_ROWS; r++) {
                pd_vec x[PD_FULL + 1];
                pd_half y = {0};
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++)
                    x[v] = pd_loadu(from + r * PD_PITCH + v * PD_LANES);
                if (PD_HALF) y = pd_half_load(from + r * PD_PITCH + PD_FULL * PD_LANES);
#pragma GCC unroll 32
                for (int m = 0; m < PD_ROWS; m++) {
#pragma GCC unroll 32
                    for (int v = 0; v < PD_FULL; v++) all[m][r][v] += pd_splat(weights[m]) * x[v];
                    if (PD_HALF) half[m][r] += weights[m] * y;
                }
            }
        }
        if (!(flags & PD_SHARED)) offset += n;
#pragma GCC unroll 32
        for (int m = 0; m < PD_ROWS; m++) {
            const uint32_t row = begin + m;
            pd_vec (*a)[PD_FULL + 1] = all[m];
            pd_half *b = half[m];
            float *sum = accumulators + (uint64_t)(row - first) * size;
            if (!(flags & PD_FIRST)) {
#include "reload.inc"
            }
            if (flags & PD_LAST) {
                if (m >= rows) continue;
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
