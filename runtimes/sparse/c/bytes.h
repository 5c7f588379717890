/* Everything on bytes but layers: to bytes and back, sums, pools, and planes taken apart. */
#ifndef PD_BYTES_H
#define PD_BYTES_H

#include "nest.h"

/* The byte nearest to `steps` from the byte of zero; halves go to the even number. */
PD_INLINE uint8_t pd_byte(float steps, float low, float high, int zero) {
    steps = steps > low ? steps : low; /* NaN becomes the lower bound */
    steps = steps < high ? steps : high;
    return (uint8_t)((int)rintf(steps) + zero);
}

enum { PD_BYTES = 4096 }; /* elements of a row that a thread takes at once */

static __attribute__((noinline, unused)) void pd_quantise(const pd_work *w, int rank, const int *shape, const ptrdiff_t *ys, const ptrdiff_t *xs,
                               int count, ptrdiff_t y_step, ptrdiff_t x_step, float scale, int zero, const float *x,
                               uint8_t *y) {
    const int parts = (count + PD_BYTES - 1) / PD_BYTES;
    const float low = (float)-zero, high = (float)(255 - zero);
    int begin, end;
    pd_share(w, pd_items(rank, shape) * parts, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int row = item / parts, first = item % parts * PD_BYTES;
        const int last = count - first < PD_BYTES ? count : first + PD_BYTES;
        const float *from = x + pd_at(row, rank, shape, xs);
        uint8_t *to = y + pd_at(row, rank, shape, ys);
        int i = first;
#if PD_LANES == 16
        for (; x_step == 1 && y_step == 1 && i < last; i += 16) {
            const __mmask16 some = (__mmask16)(last - i < 16 ? (1u << (last - i)) - 1 : 0xffff);
            __m512 v = _mm512_div_ps(_mm512_maskz_loadu_ps(some, from + i), _mm512_set1_ps(scale));
            v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(low)), _mm512_set1_ps(high));
            const __m512i r = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero));
            _mm512_mask_cvtepi32_storeu_epi8(to + i, some, r);
        }
#endif
        for (; i < last; i++) to[i * y_step] = pd_byte(from[i * x_step] / scale, low, high, zero);
    }
}

static __attribute__((noinline, unused)) void pd_dequantise(const pd_work *w, int rank, const int *shape, const ptrdiff_t *ys,
                                 const ptrdiff_t *xs, int count, ptrdiff_t y_step, ptrdiff_t x_step, float scale,
                                 int zero, const uint8_t *x, float *y) {
    const int parts = (count + PD_BYTES - 1) / PD_BYTES;
    int begin, end;
    pd_share(w, pd_items(rank, shape) * parts, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int row = item / parts, first = item % parts * PD_BYTES;
        const int last = count - first < PD_BYTES ? count : first + PD_BYTES;
        const uint8_t *from = x + pd_at(row, rank, shape, xs);
        float *to = y + pd_at(row, rank, shape, ys);
        if (x_step == 1 && y_step == 1)
            for (int i = first; i < last; i++) to[i] = (float)(from[i] - zero) * scale;
        else
            for (int i = first; i < last; i++) to[i * y_step] = (float)(from[i * x_step] - zero) * scale;
    }
}

/* A sum: factors of both, what is added, and how much higher each is stored. */
typedef struct {
    float a, b, fixed;
    int offset_a, offset_b, offset_y, low, high;
} pd_add8;

static __attribute__((noinline, unused)) void pd_add8_run(const pd_work *w, int rank, const int *shape, const ptrdiff_t *ys, const ptrdiff_t *as,
                               const ptrdiff_t *bs, int count, ptrdiff_t y_step, ptrdiff_t a_step, ptrdiff_t b_step,
                               const pd_add8 *p, const uint8_t *a, const uint8_t *b, uint8_t *y) {
    const int parts = (count + PD_BYTES - 1) / PD_BYTES;
    int begin, end;
    pd_share(w, pd_items(rank, shape) * parts, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int row = item / parts, first = item % parts * PD_BYTES;
        const int last = count - first < PD_BYTES ? count : first + PD_BYTES;
        const uint8_t *from = a + pd_at(row, rank, shape, as), *other = b + pd_at(row, rank, shape, bs);
        uint8_t *to = y + pd_at(row, rank, shape, ys);
        int i = first;
#if PD_LANES == 16
        for (; a_step == 1 && b_step == 1 && y_step == 1 && i < last; i += 16) {
            const __mmask16 some = (__mmask16)(last - i < 16 ? (1u << (last - i)) - 1 : 0xffff);
            __m512i u = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, from + i));
            __m512i v = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, other + i));
            u = _mm512_sub_epi32(u, _mm512_set1_epi32(p->offset_a));
            v = _mm512_sub_epi32(v, _mm512_set1_epi32(p->offset_b));
            __m512 s = _mm512_fmadd_ps(_mm512_cvtepi32_ps(v), _mm512_set1_ps(p->b), _mm512_set1_ps(p->fixed));
            s = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), _mm512_set1_ps(p->a), s);
            __m512i r = _mm512_add_epi32(_mm512_cvtps_epi32(s), _mm512_set1_epi32(p->offset_y));
            r = _mm512_min_epi32(_mm512_max_epi32(r, _mm512_set1_epi32(p->low)), _mm512_set1_epi32(p->high));
            _mm512_mask_cvtepi32_storeu_epi8(to + i, some, r);
        }
#endif
        for (; i < last; i++) {
            float s = fmaf((float)(other[i * b_step] - p->offset_b), p->b, p->fixed);
            s = fmaf((float)(from[i * a_step] - p->offset_a), p->a, s);
            int r = (int)rintf(s) + p->offset_y;
            r = r < p->low ? p->low : r;
            to[i * y_step] = (uint8_t)(r > p->high ? p->high : r);
        }
    }
}

/* A pool. `x_image`, `x_channel` and so on are bytes; rows follow one another. */
typedef struct {
    int images, channels, height, width, out_height, out_width, kernel_height, kernel_width;
    int row_step, column_step, row_dilation, column_dilation, top, left, padded_height, padded_width;
    uint64_t x_image, x_channel, y_image, y_channel;
    float x_scale, y_scale;
    int x_zero, zero, counted;
} pd_pool8;

/* Where a window's taps are inside of the image, along one axis: [*first, *last). */
PD_INLINE void pd_inside8(int begin, int step, int kernel, int size, int *first, int *last) {
    *first = begin < 0 ? (-begin + step - 1) / step : 0;
    *last = kernel;
    while (*last > *first && begin + (*last - 1) * step >= size) (*last)--;
}

static __attribute__((noinline, unused)) void pd_pool8_max(const pd_work *w, const pd_pool8 *p, const uint8_t *x, uint8_t *y) {
    uint8_t *row = (uint8_t *)w->scratch; /* the largest of the window's rows */
    int begin, end;
    pd_share(w, p->images * p->channels, &begin, &end);
    for (int item = begin; item < end; item++) {
        const uint8_t *plane = x + item / p->channels * p->x_image + item % p->channels * p->x_channel;
        uint8_t *to = y + item / p->channels * p->y_image + item % p->channels * p->y_channel;
        for (int i = 0; i < p->out_height; i++, to += p->out_width) {
            const int from = i * p->row_step - p->top;
            int first, last;
            pd_inside8(from, p->row_dilation, p->kernel_height, p->height, &first, &last);
            memset(row, 0, p->width);
            for (int r = first; r < last; r++) {
                const uint8_t *line = plane + (from + r * p->row_dilation) * p->width;
                for (int c = 0; c < p->width; c++) row[c] = row[c] > line[c] ? row[c] : line[c];
            }
            for (int j = 0; j < p->out_width; j++) {
                const int at = j * p->column_step - p->left;
                uint8_t best = 0;
                int left, right;
                pd_inside8(at, p->column_dilation, p->kernel_width, p->width, &left, &right);
                for (int c = left; c < right; c++) {
                    const uint8_t v = row[at + c * p->column_dilation];
                    best = v > best ? v : best;
                }
                to[j] = best;
            }
        }
    }
}

/* How many of a window's taps count along one axis: those of the image, or of it and its border. */
PD_INLINE int pd_count8(int begin, int step, int kernel, int size, int padded, int before, int counted) {
    int first, last;
    if (counted) pd_inside8(begin + before, step, kernel, padded, &first, &last);
    else pd_inside8(begin, step, kernel, size, &first, &last);
    return last - first;
}

static __attribute__((noinline, unused)) void pd_pool8_average(const pd_work *w, const pd_pool8 *p, const uint8_t *x, uint8_t *y) {
    const float low = (float)-p->zero, high = (float)(255 - p->zero);
    int begin, end;
    pd_share(w, p->images * p->channels, &begin, &end);
    for (int item = begin; item < end; item++) {
        const uint8_t *plane = x + item / p->channels * p->x_image + item % p->channels * p->x_channel;
        uint8_t *to = y + item / p->channels * p->y_image + item % p->channels * p->y_channel;
        for (int i = 0; i < p->out_height; i++) {
            const int from = i * p->row_step - p->top;
            const int rows = pd_count8(from, p->row_dilation, p->kernel_height, p->height, p->padded_height, p->top,
                                       p->counted);
            int first, last;
            pd_inside8(from, p->row_dilation, p->kernel_height, p->height, &first, &last);
            for (int j = 0; j < p->out_width; j++) {
                const int at = j * p->column_step - p->left;
                const int columns = pd_count8(at, p->column_dilation, p->kernel_width, p->width, p->padded_width,
                                              p->left, p->counted);
                int left, right, sum = 0;
                pd_inside8(at, p->column_dilation, p->kernel_width, p->width, &left, &right);
                for (int r = first; r < last; r++) {
                    const uint8_t *line = plane + (from + r * p->row_dilation) * p->width + at;
                    for (int c = left; c < right; c++) sum += line[c * p->column_dilation];
                }
                sum -= p->x_zero * (last - first) * (right - left);
                const float factor = p->x_scale / (p->y_scale * (float)(rows * columns));
                to[i * p->out_width + j] = pd_byte((float)sum * factor, low, high, p->zero);
            }
        }
    }
}

/* Every second byte of a row. */
PD_INLINE void pd_every_second(uint8_t *to, const uint8_t *from, int count) {
    int i = 0;
#if PD_LANES == 16
    const __m512i low = _mm512_set1_epi16(255), order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (; i < count; i += 64) {
        const int left = count - i;
        const uint64_t some = left < 64 ? ((uint64_t)1 << left) - 1 : ~(uint64_t)0;
        const uint64_t a = left < 32 ? ((uint64_t)1 << (2 * left - 1)) - 1 : ~(uint64_t)0;
        const uint64_t b = left <= 32 ? 0 : left < 64 ? ((uint64_t)1 << (2 * left - 65)) - 1 : ~(uint64_t)0;
        const __m512i u = _mm512_and_si512(_mm512_maskz_loadu_epi8(a, from + 2 * i), low);
        const __m512i v = _mm512_and_si512(_mm512_maskz_loadu_epi8(b, from + 2 * i + 64), low);
        _mm512_mask_storeu_epi8(to + i, some, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(u, v)));
    }
#endif
    for (; i < count; i++) to[i] = from[2 * i];
}

/* Planes taken apart: rows of every phase, for every column of the window (plan/unfold.py). */
typedef struct {
    int images, channels, height, width, out_width, kernel_width, row_step, column_step, column_dilation, top, left;
    int phases;
    uint64_t x_image, x_channel, y_channel;
    uint8_t fill;
} pd_unfold;

static __attribute__((noinline, unused)) void pd_unfold_run(const pd_work *w, const pd_unfold *p, const int *phase, const uint8_t *x,
                                 uint8_t *y) {
    int begin, end, rows = 0;
    for (int f = 0; f < p->phases; f++) rows += phase[3 * f + 2];
    pd_share(w, p->channels * p->images, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int channel = item / p->images, image = item % p->images;
        const uint8_t *plane = x + image * p->x_image + channel * p->x_channel;
        uint8_t *to = y + channel * p->y_channel + (uint64_t)image * rows * p->out_width * p->kernel_width;
        for (int k = 0; k < p->kernel_width; k++) {
            const int at = k * p->column_dilation - p->left;
            int first = at < 0 ? (-at + p->column_step - 1) / p->column_step : 0;
            int last = at < p->width ? (p->width - at + p->column_step - 1) / p->column_step : 0;
            last = last < p->out_width ? last : p->out_width;
            first = first < last ? first : last;
            for (int f = 0; f < p->phases; f++) {
                for (int r = 0; r < phase[3 * f + 2]; r++, to += p->out_width) {
                    const int line = phase[3 * f] + r * p->row_step - p->top;
                    if (line < 0 || line >= p->height) {
                        memset(to, p->fill, p->out_width);
                        continue;
                    }
                    const uint8_t *from = plane + line * p->width + at;
                    memset(to, p->fill, first);
                    if (p->column_step == 1) memcpy(to + first, from + first, last - first);
                    else if (p->column_step == 2) pd_every_second(to + first, from + 2 * first, last - first);
                    else for (int i = first; i < last; i++) to[i] = from[i * p->column_step];
                    memset(to + last, p->fill, p->out_width - last);
                }
            }
        }
    }
}

#endif
