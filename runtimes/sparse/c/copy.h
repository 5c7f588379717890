/* Copies between views: rows, transpositions, anything else; borders; integers to float32. */
#ifndef PD_COPY_H
#define PD_COPY_H

#include "nest.h"

enum { PD_PIECE = 4096 }; /* elements: a longer row is shared by threads */

PD_INLINE void pd_copy_row_exact(float *restrict to, const float *restrict from, int count) {
    int i = 0;
    for (; i + PD_LANES <= count; i += PD_LANES) pd_storeu(to + i, pd_loadu(from + i));
    if (i < count) pd_store_n(to + i, pd_load_n(from + i, count - i, 0), count - i);
}

PD_INLINE void pd_fill_row(float *to, float value, int count) {
    const pd_vec v = pd_splat(value);
    int i = 0;
    for (; i + PD_LANES <= count; i += PD_LANES) pd_storeu(to + i, v);
    if (i < count) pd_store_n(to + i, v, count - i);
}

/* Rows that are contiguous in y, and in x contiguous (x_step 1) or one element (0). */
static inline void pd_copy_rows(const pd_work *w, int rank, const int *shape, const ptrdiff_t *xs,
                                const ptrdiff_t *ys, int count, int x_step, const float *x,
                                float *y) {
    const int parts = (count + PD_PIECE - 1) / PD_PIECE;
    int begin, end;
    pd_share(w, pd_items(rank, shape) * parts, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int row = item / parts, first = item % parts * PD_PIECE;
        const int size = count - first < PD_PIECE ? count - first : PD_PIECE;
        const float *from = x + pd_at(row, rank, shape, xs) + first * x_step;
        float *to = y + pd_at(row, rank, shape, ys) + first;
        if (x_step) pd_copy_row_exact(to, from, size);
        else pd_fill_row(to, *from, size);
    }
}

/* y[.., i, j] = x[.., j, i]: `rows` i that are contiguous in x, `columns` j contiguous in y. */
static inline void pd_copy_transposed(const pd_work *w, int rank, const int *shape,
                                      const ptrdiff_t *xs, const ptrdiff_t *ys, int rows,
                                      int columns, ptrdiff_t x_stride, ptrdiff_t y_stride,
                                      const float *x, float *y) {
    enum { WIDE = 8 * PD_LANES };
    const int strips = (rows + PD_LANES - 1) / PD_LANES, bands = (columns + WIDE - 1) / WIDE;
    int begin, end;
    pd_share(w, pd_items(rank, shape) * strips * bands, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int i = item % strips * PD_LANES, first = item / strips % bands * WIDE;
        const int last = columns - first < WIDE ? columns : first + WIDE;
        const int left = rows - i < PD_LANES ? rows - i : PD_LANES;
        const float *from = x + pd_at(item / strips / bands, rank, shape, xs) + i;
        float *to = y + pd_at(item / strips / bands, rank, shape, ys) + i * y_stride;
        for (int j = first; j < last; j += PD_LANES) {
            const int wide = last - j < PD_LANES ? last - j : PD_LANES;
            pd_transpose_tile(to + j, y_stride, from + j * x_stride, x_stride, left, wide);
        }
    }
}

/* Any strides and types. */
#define PD_COPY(name, from_type, to_type, convert)                                              \
    static inline void name(const pd_work *w, int rank, const int *shape, const ptrdiff_t *xs,  \
                            const ptrdiff_t *ys, int count, ptrdiff_t x_step, ptrdiff_t y_step, \
                            const from_type *x, to_type *y) {                                   \
        const int parts = (count + PD_PIECE - 1) / PD_PIECE;                                   \
        int begin, end;                                                                         \
        pd_share(w, pd_items(rank, shape) * parts, &begin, &end);                              \
        for (int item = begin; item < end; item++) {                                            \
            const int row = item / parts, first = item % parts * PD_PIECE;                    \
            const int last = count - first < PD_PIECE ? count : first + PD_PIECE;               \
            const from_type *from = x + pd_at(row, rank, shape, xs);                            \
            to_type *to = y + pd_at(row, rank, shape, ys);                                      \
            for (int i = first; i < last; i++) to[i * y_step] = convert(from[i * x_step]);      \
        }                                                                                       \
    }

#define PD_AS_FLOAT(v) (float)(v)
#define PD_AS_INT64(v) (int64_t)(v)
#define PD_AS_INT32(v) (int32_t)(v)
#define PD_AS_UINT8(v) (uint8_t)(v)
#define PD_AS_BOOL(v) (uint8_t)((v) != 0)

/* A piece of a larger tensor, and `fill` around it: rows of `outer`, of which y is the box that
 * begins at `corner` and has the size `box`. */
static inline void pd_copy_into(const pd_work *w, int rank, const int *outer, const int *corner,
                                const int *box, const ptrdiff_t *xs, const ptrdiff_t *ys,
                                float fill, const float *x, float *y) {
    const int last = rank - 1;
    int begin, end;
    pd_share(w, pd_items(last, outer), &begin, &end);
    for (int item = begin; item < end; item++) {
        float *to = y + pd_at(item, last, outer, ys);
        ptrdiff_t from = 0;
        int inside = 1;
        for (int axis = last - 1, rest = item; axis >= 0; rest /= outer[axis--]) {
            const int i = rest % outer[axis] - corner[axis];
            if (i < 0 || i >= box[axis]) inside = 0;
            from += i * xs[axis];
        }
        const int left = inside ? corner[last] : outer[last], middle = inside ? box[last] : 0;
        if (ys[last] == 1 && xs[last] == 1) {
            pd_fill_row(to, fill, left);
            if (middle) pd_copy_row_exact(to + left, x + from, middle);
            pd_fill_row(to + left + middle, fill, outer[last] - left - middle);
            continue;
        }
        for (int i = 0; i < outer[last]; i++) {
            const int in = i - left;
            to[i * ys[last]] = in < 0 || in >= middle ? fill : x[from + in * xs[last]];
        }
    }
}

#endif
