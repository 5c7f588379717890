/* One visit of PD_AT rows that share their offsets, inside a kernel of mixed.h: the records `rows`,
 * `n` columns. Rows begin and end, each for itself. */
{
    pd_vec all[PD_AT][PD_PIECES][PD_FULL + 1];
    pd_half half[PD_AT][PD_PIECES];
#pragma GCC unroll 32
    for (int m = 0; m < PD_AT; m++) {
        const float bias = rows[m].flags & PD_FIRST ? to->bias[PD_ROW(rows[m])] : 0;
#pragma GCC unroll 32
        for (int r = 0; r < PD_PIECES; r++) {
#pragma GCC unroll 32
            for (int v = 0; v < PD_FULL; v++) all[m][r][v] = pd_splat(bias);
            if (PD_HALF) half[m][r] = pd_half_splat(bias);
        }
    }
    for (int k = 0; k < n; k++, weights += PD_AT) {
        const float *from = tile + ((uint32_t)offset[k] << PD_LOG_UNIT);
        __builtin_prefetch(weights + PD_AHEAD);
#pragma GCC unroll 32
        for (int r = 0; r < PD_PIECES; r++) {
            pd_vec x[PD_FULL + 1];
            pd_half y = {0};
#pragma GCC unroll 32
            for (int v = 0; v < PD_FULL; v++) x[v] = pd_loadu(from + r * PD_PITCH + v * PD_LANES);
            if (PD_HALF) y = pd_half_load(from + r * PD_PITCH + PD_FULL * PD_LANES);
#pragma GCC unroll 32
            for (int m = 0; m < PD_AT; m++) {
#pragma GCC unroll 32
                for (int v = 0; v < PD_FULL; v++) all[m][r][v] += pd_splat(weights[m]) * x[v];
                if (PD_HALF) half[m][r] += weights[m] * y;
            }
        }
    }
#pragma GCC unroll 32
    for (int m = 0; m < PD_AT; m++) {
        const uint32_t row = PD_ROW(rows[m]);
        pd_vec (*a)[PD_FULL + 1] = all[m];
        pd_half *b = half[m];
        if (rows[m].flags & PD_NONE) continue;
        float *sum = sums + (uint64_t)(PD_SLOT(rows[m]) - first) * size;
        if (!(rows[m].flags & PD_FIRST)) {
#include "resume.h"
        }
        if (rows[m].flags & PD_LAST) {
#ifdef PD_RASTER
#include "finish_raster.h"
#else
#include "finish.h"
#endif
        } else {
#include "keep.h"
        }
    }
}
