/* The input of a tile, copied together: halos with their border of zeros, strides taken apart, pixels
 * from a plane apart. A part of conv.h, which has the records. */
#ifndef PD_PACK_H
#define PD_PACK_H

/* The rows i of a phase whose pixel row + i * step lies in the input, and likewise its columns. */
PD_INLINE void pd_inside(int first, int step, int count, int size, int *begin, int *end) {
    *begin = first < 0 ? (-first + step - 1) / step : 0;
    *end = first < size ? (size - first + step - 1) / step : 0;
    if (*end > count) *end = count;
    if (*begin > *end) *begin = *end;
}

#if PD_LANES == 16
/* One vector of every row of a phase; bits of `mask` and `reads` say what lies in the input. */
PD_INLINE void pd_pack_column(float *to, const float *from, ptrdiff_t pitch, int step, int above,
                              int inside, int rows, ptrdiff_t to_pitch, int low, int high) {
    const __mmask16 mask = high > low ? (__mmask16)((0xffffu >> (16 - (high - low))) << low) : 0;
    const uint32_t reads = high > low
        ? (uint32_t)((1ull << (2 * high - 1)) - 1) & ~(uint32_t)((1ull << (2 * low)) - 1) : 0;
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    int i = 0;
    for (; i < above; i++, to += to_pitch) _mm512_storeu_ps(to, _mm512_setzero_ps());
    if (step == 1) {
        for (; i < inside; i++, to += to_pitch, from += pitch)
            _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(mask, from));
    } else if (step == 2) {
        for (; i < inside; i++, to += to_pitch, from += pitch) {
            const __m512 a = _mm512_maskz_loadu_ps((__mmask16)reads, from);
            const __m512 b = _mm512_maskz_loadu_ps((__mmask16)(reads >> 16), from + 16);
            _mm512_storeu_ps(to, _mm512_permutex2var_ps(a, even, b));
        }
    } else {
        for (; i < inside; i++, to += to_pitch, from += pitch)
            for (int j = 0; j < 16; j++)
                to[j] = j >= low && j < high ? from[(ptrdiff_t)step * j] : 0;
    }
    for (; i < rows; i++, to += to_pitch) _mm512_storeu_ps(to, _mm512_setzero_ps());
}
#else
PD_INLINE void pd_copy_row(float *restrict to, const float *restrict from, int step, int begin,
                           int end, int width) {
    for (int j = 0; j < begin; j++) to[j] = 0;
    if (step == 1) {
        for (int j = begin; j < end; j++) to[j] = from[j];
    } else {
        for (int j = begin; j < end; j++) to[j] = from[(ptrdiff_t)step * j];
    }
    for (int j = end; j < width; j++) to[j] = 0;
}
#endif

/* to[j] = from[j * step] for j < count. */
PD_INLINE void pd_take_every(float *restrict to, const float *restrict from, int step, int count) {
#if PD_LANES == 16
    if (step == 2) {
        const __m512i even =
            _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        for (int j = 0; j < count; j += 16) {
            const int left = count - j < 16 ? count - j : 16;
            const uint32_t reads = (uint32_t)((1ull << (2 * left - 1)) - 1);
            const __m512 a = _mm512_maskz_loadu_ps((__mmask16)reads, from + 2 * j);
            const __m512 b = _mm512_maskz_loadu_ps((__mmask16)(reads >> 16), from + 2 * j + 16);
            _mm512_mask_storeu_ps(to + j, (__mmask16)((1u << left) - 1),
                                  _mm512_permutex2var_ps(a, even, b));
        }
        return;
    }
#endif
    for (int j = 0; j < count; j++) to[j] = from[(ptrdiff_t)step * j];
}

/* One phase of one channel whose pixels are `block` elements, with a stride. */
static void pd_pack_blocks(float *to, const float *plane, const pd_phase *f, int row, int column,
                           int height, int width, int block) {
    for (int i = 0; i < f->rows; i++, to += f->width) {
        const int from = row + i * f->row_step;
        const float *source = plane + (ptrdiff_t)from * width;
        for (int j = 0; j < f->width; j += block) {
            const int at = column + j * f->column_step;
            const int there = from >= 0 && from < height && at >= 0 && at < width;
            const int size = f->width - j < block ? f->width - j : block;
            if (there) memcpy(to + j, source + at, sizeof(float) * (size_t)size);
            else memset(to + j, 0, sizeof(float) * (size_t)size);
        }
    }
}

#if PD_LANES == 16
/* Which of sixteen columns from `first` on lie in an image of `width`. */
PD_INLINE __mmask16 pd_columns_inside(int first, int width) {
    const int low = first < 0 ? -first : 0, high = width - first < 16 ? width - first : 16;
    return high > low ? (__mmask16)((0xffffu >> (16 - (high - low))) << low) : 0;
}

/* The even elements of two vectors in `a`, the odd ones in `b`. */
PD_INLINE void pd_part_turns(__m512 *a, __m512 *b) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512 x = *a, y = *b;
    *a = _mm512_permutex2var_ps(x, even, y);
    *b = _mm512_permutex2var_ps(x, odd, y);
}

/* `vectors` of a row as a interleaved of `interleaved`, at most twice as many: of columns from `from` on. */
PD_INLINE void pd_interleaved_row(float *to, const float *from, const __mmask16 *inside, int interleaved,
                           int vectors) {
    const __m512i next = _mm512_set_epi32(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    const __m512i step = _mm512_maskz_set1_epi32(0x8000, 1);
    __m512 v[4];
    for (int k = 0; k < interleaved; k++) v[k] = _mm512_maskz_loadu_ps(inside[k], from + 16 * k);
    pd_part_turns(&v[0], &v[1]);
    if (interleaved == 4) { /* 0 2 ... of the first half, 1 3 ...; then each apart again */
        pd_part_turns(&v[2], &v[3]);
        pd_part_turns(&v[0], &v[2]), pd_part_turns(&v[1], &v[3]);
    }
    for (int k = 0; k < interleaved; k++) _mm512_store_ps(to + 16 * k, v[k]);
    if (vectors == interleaved) return;
    /* the next ones are these, moved by an element, with one of the following columns */
    const __m512 after = _mm512_maskz_loadu_ps(inside[interleaved], from + 16 * interleaved);
    __m512i index = next;
    for (int k = 0; k < interleaved; k++, index = _mm512_add_epi32(index, step))
        if (interleaved + k < vectors)
            _mm512_store_ps(to + 16 * (interleaved + k), _mm512_permutex2var_ps(v[k], index, after));
}

/* The rows of one channel as combs: vector t has the columns t, t + interleaved, t + 2 interleaved and so on,
 * counted from the border's beginning. */
PD_INLINE void pd_pack_interleaved(float *to, const float *plane, const pd_phase *f, int row, int height,
                            int width, int interleaved) {
    int above, below;
    row += f->row;
    pd_inside(row, 1, f->rows, height, &above, &below);
    for (int i = 0; i < f->rows; i++)
        if (i < above || i >= below)
            memset(to + (ptrdiff_t)i * f->width, 0, sizeof(float) * (size_t)f->width);
    for (int t = 0; t < f->width / 16; t += 2 * interleaved) {
        const int first = f->column + t;
        const int left = f->width / 16 - t, vectors = left < 2 * interleaved ? left : 2 * interleaved;
        const float *from = plane + (row + above) * (ptrdiff_t)width + first;
        float *at = to + (ptrdiff_t)above * f->width + 16 * t;
        __mmask16 inside[5];
        for (int k = 0; k <= interleaved; k++) inside[k] = pd_columns_inside(first + 16 * k, width);
        for (int i = above; i < below; i++, at += f->width, from += width)
            pd_interleaved_row(at, from, inside, interleaved, vectors);
    }
}
#endif

/* One phase of one channel, zero where it lies outside of the input. */
static void pd_pack_phase(float *to, const float *plane, const pd_phase *f, int row, int column,
                          int height, int width, int block) {
    if (block > 1 && f->column_step > 1) {
        pd_pack_blocks(to, plane, f, row + f->row, column + f->column, height, width, block);
        return;
    }
    int above, inside, begin, end;
    row += f->row, column += f->column;
    pd_inside(row, f->row_step, f->rows, height, &above, &inside);
    pd_inside(column, f->column_step, f->width, width, &begin, &end);
    const ptrdiff_t pitch = (ptrdiff_t)f->row_step * width;
    const float *from = plane + (row + above * f->row_step) * (ptrdiff_t)width + column;
#if PD_LANES == 16
    /* the last first: what it writes behind its row is the beginning of the next one */
    for (int j = (f->width - 1) / 16 * 16; j >= 0; j -= 16) {
        const int low = begin > j ? begin - j : 0, high = end < j + 16 ? end - j : 16;
        pd_pack_column(to + j, from + (ptrdiff_t)f->column_step * j, pitch, f->column_step, above,
                       inside, f->rows, f->width, low > 16 ? 16 : low, high);
    }
#else
    for (int i = 0; i < f->rows; i++, to += f->width) {
        if (i < above || i >= inside) {
            memset(to, 0, sizeof(float) * (size_t)f->width);
        } else {
            pd_copy_row(to, from, f->column_step, begin, end, f->width);
            from += pitch;
        }
    }
#endif
}

enum { PD_MAX_ROWS = 7 }; /* of a phase: F(4, 4) */

/* The rows of a phase times the matrix `by` [rows, rows] and `scale`, in place (winograd_1d.py). */
static void pd_winograd_rows(float *x, const float *by, int rows, int pitch, float scale) {
    for (int j = 0; j < pitch; j += PD_LANES, x += PD_LANES) {
        pd_vec from[PD_MAX_ROWS];
        for (int i = 0; i < rows; i++) from[i] = scale * pd_load(x + i * pitch);
        const float *factor = by;
        for (int i = 0; i < rows; i++, factor += rows) {
            pd_vec sum = factor[0] * from[0];
            for (int k = 1; k < rows; k++) sum += factor[k] * from[k];
            pd_store(x + i * pitch, sum);
        }
    }
}

/* A copy for every tap: `gather` holds, for each tap and pixel of the result, the input's pixel
 * under it, or -1 outside of the image. */
static void pd_pack_im2col(float *to, const pd_work *w, const pd_conv *c, const float *x,
                           pd_panel p, int begin, int size) {
    const int32_t *gather = (const int32_t *)(w->weights + c->gather);
    const int pixels = (c->pixels + PD_UNIT - 1) / PD_UNIT * PD_UNIT;
    const int tap_size = c->channel / c->taps;
    for (int k = p.begin; k < p.end; k++) {
        const float *plane = x + (uint64_t)k * c->x_stride;
        for (int t = 0; t < c->taps; t++, to += tap_size) {
            const int32_t *from = gather + (ptrdiff_t)t * pixels + begin;
#if PD_LANES == 16
            for (int j = 0; j < size; j += 16) {
                const int left = size - j < 16 ? size - j : 16;
                const __m512i index = _mm512_loadu_si512(from + j);
                const __mmask16 inside =
                    (__mmask16)(~_mm512_movepi32_mask(index) & ((1u << left) - 1));
                _mm512_storeu_ps(to + j, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside,
                                                                  index, plane, 4));
            }
#else
            for (int j = 0; j < size; j++) to[j] = from[j] < 0 ? 0 : plane[from[j]];
#endif
        }
    }
}

/* A flat tile of a layer with strides: pixels [begin, begin + size) of the result. */
static void pd_pack_strided(float *to, const pd_conv *c, const float *x, pd_panel p, int begin,
                            int size) {
    for (int at = 0; at < size;) {
        const int row = (begin + at) / c->out_width, column = (begin + at) % c->out_width;
        const int left = c->out_width - column < size - at ? c->out_width - column : size - at;
        const uint64_t first = (uint64_t)(row / c->out_height) * (uint64_t)(c->height * c->width)
            + (uint64_t)(row % c->out_height * c->row_step * c->width + column * c->column_step);
        const float *from = x + (uint64_t)p.begin * c->x_stride + first;
        float *target = to + at;
        for (int k = p.begin; k < p.end; k++, target += c->channel, from += c->x_stride) {
            if (c->block == 1) {
                pd_take_every(target, from, c->column_step, left);
                continue;
            }
            for (int j = 0; j < left; j += c->block)
                memcpy(target + j, from + j * c->column_step, sizeof(float) * (size_t)c->block);
        }
        at += left;
    }
}

/* The panel's channels of one tile, into the thread's scratch; `scale` is Winograd's. */
static void pd_pack(float *to, const pd_work *w, const pd_conv *c, const float *x, pd_panel p,
                    int tile, float scale) {
    if (!c->phases) {
        int begin = tile * c->tile;
        int size = c->pixels - begin < c->tile ? c->pixels - begin : c->tile;
        if (c->taps) {
            pd_pack_im2col(to, w, c, x, p, begin, size);
            return;
        }
        if (c->row_step > 1 || c->column_step > 1) {
            pd_pack_strided(to, c, x, p, begin, size);
            return;
        }
        const float *from = x + (uint64_t)p.begin * c->x_stride + begin;
        for (int k = p.begin; k < p.end; k++, to += c->channel, from += c->x_stride) {
            for (int j = 0; j < size; j += PD_LANES) pd_store(to + j, pd_loadu(from + j));
        }
        return;
    }
    const pd_phase *phases = (const pd_phase *)(w->weights + c->phase);
    const pd_tile_origin at = pd_tile_origin_of(c, tile);
    const float *image = x + (uint64_t)at.image * (uint64_t)(c->height * c->width);
    for (int k = p.begin; k < p.end; k++, to += c->channel) {
        const float *plane = image + (uint64_t)k * c->x_stride;
        const float *by = (const float *)(w->weights + c->transform);
#if PD_LANES == 16
        if (c->interleaved) {
            if (c->interleaved == 2)
                pd_pack_interleaved(to, plane, phases, at.row, c->height, c->width, 2);
            else
                pd_pack_interleaved(to, plane, phases, at.row, c->height, c->width, 4);
            continue;
        }
#endif
        for (int f = 0; f < c->phases; f++) {
            pd_pack_phase(to + phases[f].position, plane, &phases[f], at.row * c->row_step,
                          at.column * c->column_step, c->height, c->width, c->block);
            if (!c->winograd) continue;
            pd_winograd_rows(to + phases[f].position, by, phases[f].rows, phases[f].width,
                             scale);
            by += phases[f].rows * phases[f].rows;
        }
    }
}

#endif
