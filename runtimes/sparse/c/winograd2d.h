/* winograd2d: PD_ROWS output channels of the PD_TILE_WIDTH_X8 * 8 tiles of a group, PD_OUTPUTS x PD_OUTPUTS
 * pixels each, from PD_SIZE x PD_SIZE points of the transformed input (see tiles.h).
 *
 * A template like block.h. The products of one point are summed over all channels, some of them at
 * a time in registers, PD_ROWS rows of PD_TILE_WIDTH_X8 * 8 lanes; then those of all points are transformed
 * back. A block's weights are [point][channel][PD_ROWS]. */
#include "tiles.h"

#define PD_TILES (PD_TILE_WIDTH_X8 * 8)
#define PD_FULL (PD_TILES / PD_LANES)
#if PD_LANES == 16 || defined(__ARM_NEON)
#define PD_ACCUMULATORS 24 /* vectors, in 32 registers */
#else
#define PD_ACCUMULATORS 12 /* in 16 */
#endif
#define PD_SETS (2 * PD_ROWS * PD_FULL <= PD_ACCUMULATORS ? 2 : 1) /* sums of a row, in turn */
#ifdef PD_ACT
#define PD_END(v) PD_ACT(v)
#else
#define PD_END(v) pd_min(pd_max(v, pd_splat(c->low)), pd_splat(c->high))
#endif
_Static_assert(PD_GROUP % (PD_SETS * PD_CHUNK) == 0 || PD_CHUNK % PD_GROUP == 0, "a group ends");

static __attribute__((noinline)) void PD_NAME(
    const pd_tiles *c, const pd_strip *strips, int count, int first, const float *weights,
    const float *bias, float *scratch, float *y, const float *residual, pd_range *range) {
    const int last = count - 1;
    const int lanes = strips[last].lane + strips[last].count * c->batch_innermost; /* in use */
    const uint64_t point = c->point;
    float *const products = scratch + c->products, *const pixels = scratch + c->pixels;
    for (int p = 0; p < PD_SIZE * PD_SIZE; p++) {
        const float *x = scratch + p * point;
        pd_vec group[PD_ROWS][PD_FULL]; /* sums of a group's chunks; compilers want them begun */
#pragma GCC unroll 32
        for (int m = 0; m < PD_ROWS; m++)
#pragma GCC unroll 32
            for (int v = 0; v < PD_FULL; v++) group[m][v] = pd_splat(0);
        for (int k = 0; k < c->channels;) {
            const int begin = k, maximum = PD_SETS * PD_CHUNK;
            const int end = c->channels - k < 2 * maximum ? c->channels : k + maximum;
            pd_vec all[PD_SETS][PD_ROWS][PD_FULL];
#pragma GCC unroll 2
            for (int s = 0; s < PD_SETS; s++)
#pragma GCC unroll 32
                for (int m = 0; m < PD_ROWS; m++)
#pragma GCC unroll 32
                    for (int v = 0; v < PD_FULL; v++) all[s][m][v] = pd_splat(0);
            for (; k < end; k += PD_SETS)
#pragma GCC unroll 2
                for (int s = 0; s < PD_SETS; s++, weights += PD_ROWS, x += PD_TILES) {
                    if (PD_SETS > 1 && k + s == end) break;
                    pd_vec in[PD_FULL];
                    __builtin_prefetch(weights + PD_AHEAD);
#pragma GCC unroll 32
                    for (int v = 0; v < PD_FULL; v++) in[v] = pd_loadu(x + v * PD_LANES);
#pragma GCC unroll 32
                    for (int m = 0; m < PD_ROWS; m++)
#pragma GCC unroll 32
                        for (int v = 0; v < PD_FULL; v++)
                            all[s][m][v] += pd_splat(weights[m]) * in[v];
                }
            const int begins = begin % PD_GROUP == 0;
            const int ends = end % PD_GROUP == 0 || end == c->channels;
#pragma GCC unroll 32
            for (int m = 0; m < PD_ROWS; m++) {
                float *to = products + (m * PD_SIZE * PD_SIZE + p) * PD_TILES;
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++, to += PD_LANES) {
                    pd_vec sum = all[0][m][v];
                    if (PD_SETS > 1) sum += all[PD_SETS - 1][m][v];
                    if (!begins) sum += group[m][v];
                    group[m][v] = sum;
                    if (!ends) continue;
                    if (begin >= PD_GROUP) sum += pd_loadu(to);
                    pd_storeu(to, sum);
                }
            }
        }
    }
    for (int m = 0; m < PD_ROWS && first + m < c->rows; m++) {
        const float *from = products + m * PD_SIZE * PD_SIZE * PD_TILES;
        const pd_vec up = pd_splat(range->back), shift = pd_splat(bias[first + m]);
        int failed = 0;
        if (first + m < range->done) continue;
        /* pixels[row of a tile][tile][column]; side by side: [row][vector][column][lane] */
        for (int v = 0; v < PD_FULL; v++) {
            pd_vec half[PD_SIZE][PD_OUTPUTS], line[PD_SIZE], back[PD_OUTPUTS];
            pd_vec seen = pd_splat(0); /* 0 * x is NaN for infinity and NaN, 0 for others */
#pragma GCC unroll 6
            for (int j = 0; j < PD_SIZE; j++) {
#pragma GCC unroll 6
                for (int i = 0; i < PD_SIZE; i++)
                    line[i] = pd_loadu(from + (i * PD_SIZE + j) * PD_TILES + v * PD_LANES);
                pd_transform_output(line, PD_SIZE, PD_OUTPUTS, half[j]);
            }
#pragma GCC unroll 4
            for (int a = 0; a < PD_OUTPUTS; a++) {
#pragma GCC unroll 6
                for (int j = 0; j < PD_SIZE; j++) line[j] = half[j][a];
                pd_transform_output(line, PD_SIZE, PD_OUTPUTS, back);
                float *to = pixels + (a * PD_TILES + v * PD_LANES) * PD_OUTPUTS;
#pragma GCC unroll 4
                for (int b = 0; b < PD_OUTPUTS; b++) {
                    seen += pd_splat(0) * back[b];
                    back[b] = up * back[b] + shift;
                }
                if (c->batch_innermost == 1) pd_interleave(back, PD_OUTPUTS);
#pragma GCC unroll 4
                for (int b = 0; b < PD_OUTPUTS; b++) pd_storeu(to + b * PD_LANES, back[b]);
            }
            if (lanes > v * PD_LANES) failed |= pd_has_nan(seen, lanes - v * PD_LANES);
        }
        if (failed && range->scale == 1) {
            range->done = first + m, range->failed = 1;
            return;
        }
#include "epilogue_winograd2d.inc"
    }
}

#undef PD_END
#undef PD_TILES
#undef PD_FULL
#undef PD_ACCUMULATORS
#undef PD_SETS
#undef PD_NAME
#undef PD_ROWS
#undef PD_TILE_WIDTH_X8
#undef PD_OUTPUTS
#undef PD_SIZE
#undef PD_ACT
