/* Max and average over windows: down the rows of a window into one row of scratch, which has its
 * border around it, then across that row. Rows with strides are taken apart first, so that every
 * column of the window reads whole vectors. */
#ifndef PD_POOL_H
#define PD_POOL_H

#include "nest.h"

typedef struct {
    int images, channels, height, width, out_height, out_width;
    int kernel_height, kernel_width, row_step, column_step, row_dilation, column_dilation;
    int top, left;
    int pitch;                 /* elements of a padded row, or of one phase of it: room for vectors */
    int reach;                 /* elements of a padded row that windows read */
    int exact;                 /* x may not be read beyond its end */
    ptrdiff_t x_image, x_channel, x_row, y_image, y_channel, y_row;
    const float *row_counts, *column_counts; /* average: elements in a window are their product */
} pd_pool;

/* Whether NaN is in one of them, it is in the result. */
PD_INLINE pd_vec pd_pool_join(pd_vec a, pd_vec b, int max) {
    if (max) return pd_maximum(a, b);
    return a + b;
}

/* The rows [first, last) of a window, `step` apart, joined; `to` has room for whole vectors. */
PD_INLINE void pd_pool_down(float *to, const float *from, ptrdiff_t step, int rows, int width,
                            int exact, int max) {
    for (int j = 0; j < width; j += PD_LANES) {
        const int part = exact ? width - j : PD_LANES;
        const float *at = from + j;
        pd_vec v = pd_take(at, part);
        for (int i = 1; i < rows; i++) v = pd_pool_join(v, pd_take(at += step, part), max);
        pd_storeu(to + j, v);
    }
}

/* Every `step`th element, from each of the first `step`: phases one after the other. */
PD_INLINE void pd_pool_part(float *to, const float *from, int step, int pitch, int reach) {
    const int count = (reach + step - 1) / step;
    if (step != 2) {
        for (int f = 0; f < step; f++)
            for (int j = 0; j < count; j++) to[f * pitch + j] = from[f + j * step];
        return;
    }
    for (int j = 0; j < count; j += PD_LANES) {
#if PD_LANES == 16
        const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4,
                                              2, 0);
        const __m512 a = _mm512_loadu_ps(from + 2 * j), b = _mm512_loadu_ps(from + 2 * j + 16);
        _mm512_storeu_ps(to + j, _mm512_permutex2var_ps(a, even, b));
        _mm512_storeu_ps(to + pitch + j, _mm512_permutex2var_ps(
            a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b));
#elif PD_LANES == 8
        const __m256 a = _mm256_loadu_ps(from + 2 * j), b = _mm256_loadu_ps(from + 2 * j + 8);
        const __m256d low = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
        const __m256d high = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
        _mm256_storeu_pd((double *)(to + j), _mm256_permute4x64_pd(low, 0xd8));
        _mm256_storeu_pd((double *)(to + pitch + j), _mm256_permute4x64_pd(high, 0xd8));
#else
        for (int i = 0; i < PD_LANES; i++) {
            to[j + i] = from[2 * (j + i)];
            to[pitch + j + i] = from[2 * (j + i) + 1];
        }
#endif
    }
}

/* The columns of each window of a row, which starts at its left border. */
PD_INLINE void pd_pool_across(float *y, const float *row, const pd_pool *p, int width, int step,
                              int dilation, float rows, int max) {
    for (int j = 0; j < p->out_width; j += PD_LANES) {
        pd_vec v = pd_loadu(row + j);
        for (int k = 1; k < width; k++) {
            const int at = k * dilation;
            v = pd_pool_join(v, pd_loadu(row + at % step * p->pitch + at / step + j), max);
        }
        if (!max) v /= pd_loadu(p->column_counts + j) * rows;
        pd_give(y + j, v, p->out_width - j);
    }
}

/* The window's size, strides and dilation as arguments, so that the usual ones are constants. */
PD_INLINE void pd_pool_planes(const pd_work *w, const pd_pool *p, const float *x, float *y, int max,
                              int height, int width, int row_step, int column_step,
                              int row_dilation, int column_dilation) {
    const float fill = max ? -__builtin_inff() : 0.0f;
    float *row = w->scratch, *parts = column_step > 1 ? row + column_step * p->pitch : row;
    float *data = row + p->left;
    const pd_lines part = pd_share_lines(w, p->images * p->out_height, p->out_width, p->channels);
    for (int j = 0; j < p->left; j++) row[j] = fill;
    for (int channel = part.plane; channel < part.last_plane; channel++) {
        for (int line = part.line; line < part.last_line; line++) {
            const int image = line / p->out_height, i = line % p->out_height;
            const float *from = x + channel * p->x_channel + image * p->x_image;
            float *to = y + channel * p->y_channel + image * p->y_image;
            int first = i * row_step - p->top, last = first + (height - 1) * row_dilation + 1;
            if (first < 0) first += (-first + row_dilation - 1) / row_dilation * row_dilation;
            if (last > p->height) last = p->height;
            const int rows = last > first ? (last - first + row_dilation - 1) / row_dilation : 0;
            if (rows) pd_pool_down(data, from + first * p->x_row, row_dilation * p->x_row, rows,
                                   p->width, p->exact, max);
            for (int j = p->left + (rows ? p->width : 0); j < p->reach; j++) row[j] = fill;
            if (column_step > 1) pd_pool_part(parts, row, column_step, p->pitch, p->reach);
            pd_pool_across(to + i * p->y_row, parts, p, width, column_step, column_dilation,
                           max ? 1.0f : p->row_counts[i], max);
        }
    }
}

/* The usual windows, and all others. */
#define PD_POOL_IF(h, w_, s)                                                                     \
    if (p->kernel_height == (h) && p->kernel_width == (w_) && p->row_step == (s)                 \
        && p->column_step == (s) && p->row_dilation == 1 && p->column_dilation == 1) {           \
        pd_pool_planes(w, p, x, y, max, h, w_, s, s, 1, 1);                                      \
        return;                                                                                  \
    }
#define PD_POOL(name, max_)                                                                      \
    static __attribute__((noinline, unused)) void name(const pd_work *w, const pd_pool *p,       \
                                                       const float *x, float *y) {               \
        enum { max = max_ };                                                                     \
        PD_POOL_IF(3, 3, 2)                                                                      \
        PD_POOL_IF(2, 2, 2)                                                                      \
        PD_POOL_IF(3, 3, 1)                                                                      \
        pd_pool_planes(w, p, x, y, max, p->kernel_height, p->kernel_width, p->row_step,          \
                       p->column_step, p->row_dilation, p->column_dilation);                     \
    }
PD_POOL(pd_pool_max, 1)
PD_POOL(pd_pool_average, 0)

#endif
