/* Recurrent layers: the hidden state's part of the gates of several samples, by the non-zeros of the
 * recurrent weights. (That of one sample is narrow.h's.) */
#ifndef PD_RECURRENT_H
#define PD_RECURRENT_H

#include "functions.h"

/* A matrix of non-zeros: row r ends at entry ends[r]. */
typedef struct {
    const float *weights;
    const uint32_t *columns, *ends;
} pd_recurrent;

/* to[j] = row `row` times from[column * stride + j], for `wide` samples: more than vectors - 1
 * vectors of them; `vectors` is a constant: 1, 2 or 4. */
PD_INLINE void pd_recall_row(float *to, const pd_recurrent *m, int row, const float *from,
                             int stride, int wide, int vectors) {
    const int deep = 4 / vectors; /* sums side by side, for the latency of additions */
    const uint32_t end = m->ends[row];
    pd_vec all[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) all[i] = pd_splat(0);
    for (uint32_t k = row ? m->ends[row - 1] : 0; k < end; k += (uint32_t)deep) {
#pragma GCC unroll 4
        for (uint32_t t = 0; t < (uint32_t)deep; t++) {
            if (k + t >= end) break;
            const float *at = from + (ptrdiff_t)m->columns[k + t] * stride;
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                all[(int)t * vectors + v] += pd_splat(m->weights[k + t])
                    * pd_take(at + v * PD_LANES, wide - v * PD_LANES);
        }
    }
#pragma GCC unroll 4
    for (int i = vectors; i < 4; i++) all[i % vectors] += all[i];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) pd_give(to + v * PD_LANES, all[v], wide - v * PD_LANES);
}

/* to[i * samples + j] = row first + i times the states of sample j, for `rows` rows; `stride` is from
 * one unit's states to the next one's. */
static inline void pd_recall(float *to, const pd_recurrent *m, int first, int rows,
                             const float *from, int stride, int samples) {
    for (int i = 0; i < rows; i++, to += samples) {
        int j = 0;
        for (; samples - j >= 4 * PD_LANES; j += 4 * PD_LANES)
            pd_recall_row(to + j, m, first + i, from + j, stride, samples - j, 4);
        for (; samples - j > PD_LANES; j += 2 * PD_LANES)
            pd_recall_row(to + j, m, first + i, from + j, stride, samples - j, 2);
        if (samples > j) pd_recall_row(to + j, m, first + i, from + j, stride, samples - j, 1);
    }
}

#endif
