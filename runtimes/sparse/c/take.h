/* Elements by computed indices, which lie in the arena as float32. */
#ifndef PD_TAKE_H
#define PD_TAKE_H

#include "lookup.h" /* its error code */

typedef struct {
    int rank;                        /* of the loops but the innermost */
    const int *shape;
    const ptrdiff_t *ys, *xs, *is;   /* strides of y, x and the indices */
    int count;                       /* of the innermost loop */
    ptrdiff_t y_step, x_step, i_step;
    int size;                        /* what indices count */
    ptrdiff_t stride;                /* of x, from one index to the next */
} pd_taken;

/* Where an index lies in x, counted from the end where it is negative. */
PD_INLINE ptrdiff_t pd_taken_at(const pd_work *w, const pd_taken *t, float index) {
    if (index < 0) index += (float)t->size;
    if (!(index >= 0 && index < (float)t->size)) { /* or it is NaN */
        __atomic_store_n(w->error, PD_OUTSIDE, __ATOMIC_RELAXED);
        return 0;
    }
    return (ptrdiff_t)index * t->stride;
}

static inline void pd_take_by_index(const pd_work *w, const pd_taken *t, const float *x,
                                    const float *index, float *y) {
    int begin, end;
    pd_share(w, pd_items(t->rank, t->shape), &begin, &end);
    for (int item = begin; item < end; item++) {
        const float *from = x + pd_at(item, t->rank, t->shape, t->xs);
        const float *at = index + pd_at(item, t->rank, t->shape, t->is);
        float *to = y + pd_at(item, t->rank, t->shape, t->ys);
        if (t->i_step) {
            for (int i = 0; i < t->count; i++)
                to[i * t->y_step] = from[i * t->x_step + pd_taken_at(w, t, at[i * t->i_step])];
            continue;
        }
        from += pd_taken_at(w, t, *at);
        if (t->y_step == 1 && t->x_step == 1) {
            memcpy(to, from, sizeof(float) * (size_t)t->count);
            continue;
        }
        for (int i = 0; i < t->count; i++) to[i * t->y_step] = from[i * t->x_step];
    }
}

#endif
