/* Rows of a table by index. Where a row goes to planes, a square of vectors is turned at once. */
#ifndef PD_LOOKUP_H
#define PD_LOOKUP_H

#include "nest.h"

enum { PD_OUTSIDE = 4 }; /* the error code: an index lies outside its table */

typedef struct {
    int rank;                     /* of the loops over indices but the innermost */
    const int *shape;
    const ptrdiff_t *is, *ys;     /* strides of the indices and of y */
    int count;                    /* indices in the innermost loop */
    ptrdiff_t i_step, y_step;
    int entries, width;           /* of the table: rows, elements of a row */
    int row_rank;                 /* of a row as it lies in y */
    const int *row_shape;
    const ptrdiff_t *row_ys;
} pd_lookup;

/* The row of the table that belongs to an index, counted from the end where it is negative. */
PD_INLINE const float *pd_entry(const pd_work *w, const pd_lookup *l, const float *table,
                                int64_t index) {
    if (index < 0) index += l->entries;
    if (index < 0 || index >= l->entries) {
        __atomic_store_n(w->error, PD_OUTSIDE, __ATOMIC_RELAXED);
        index = 0;
    }
    return table + index * l->width;
}

/* `count` (at most a vector's) rows, one beside the other: y[j * step + i] = rows[i][j]. */
PD_INLINE void pd_lookup_turned(const float *const *rows, float *y, ptrdiff_t step, int width,
                                int count) {
    int j = 0;
    for (; j + PD_LANES <= width; j += PD_LANES) {
        pd_vec v[PD_LANES];
        for (int i = 0; i < PD_LANES; i++) v[i] = pd_loadu(rows[i < count ? i : 0] + j);
        pd_transpose(v);
        for (int i = 0; i < PD_LANES; i++) pd_give(y + (j + i) * step, v[i], count);
    }
    for (; j < width; j++)
        for (int i = 0; i < count; i++) y[j * step + i] = rows[i][j];
}

#define PD_LOOKUP(name, index_type)                                                              \
    static __attribute__((noinline)) void name(const pd_work *w, const pd_lookup *l,             \
                                               const index_type *indices, const float *table,    \
                                               float *y) {                                       \
        const int groups = (l->count + PD_LANES - 1) / PD_LANES;                                 \
        const int turned = l->row_rank == 1 && l->y_step == 1;                                   \
        int begin, end;                                                                          \
        pd_share(w, pd_items(l->rank, l->shape) * groups, &begin, &end);                         \
        for (int item = begin; item < end; item++) {                                             \
            const int first = item % groups * PD_LANES, left = l->count - first;                 \
            const int count = left < PD_LANES ? left : PD_LANES;                                 \
            const index_type *at = indices + pd_at(item / groups, l->rank, l->shape, l->is)      \
                + first * l->i_step;                                                             \
            float *to = y + pd_at(item / groups, l->rank, l->shape, l->ys) + first * l->y_step;  \
            const float *rows[PD_LANES];                                                         \
            for (int i = 0; i < count; i++)                                                      \
                rows[i] = pd_entry(w, l, table, (int64_t)at[i * l->i_step]);                     \
            if (turned && l->row_ys[0] != 1) {                                                   \
                pd_lookup_turned(rows, to, l->row_ys[0], l->width, count);                       \
                continue;                                                                        \
            }                                                                                    \
            for (int i = 0; i < count; i++, to += l->y_step) {                                   \
                if (l->row_rank == 1 && l->row_ys[0] == 1) {                                     \
                    memcpy(to, rows[i], sizeof(float) * (size_t)l->width);                       \
                    continue;                                                                    \
                }                                                                                \
                for (int j = 0; j < l->width; j++)                                               \
                    to[pd_at(j, l->row_rank, l->row_shape, l->row_ys)] = rows[i][j];             \
            }                                                                                    \
        }                                                                                        \
    }

#endif
