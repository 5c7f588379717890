/* The first elements of a row in order of size, and where they were. */
#ifndef PD_TOP_H
#define PD_TOP_H

#include "nest.h"

typedef struct {
    int rank;                      /* of the loops over rows */
    const int *shape;
    const ptrdiff_t *xs, *ys;
    int count, kept;               /* elements of a row, and of its result */
    ptrdiff_t x_step, y_step;
    ptrdiff_t indices;             /* from a value in y to its index */
    int largest, later;            /* whether the last of equal ones comes first */
} pd_top;

/* Whether `a`, which lies behind `b` in the row, comes before it in the result. */
PD_INLINE int pd_top_before(const pd_top *t, float a, float b) {
    const int a_nan = a != a, b_nan = b != b;
    if (a_nan || b_nan) {
        if (a_nan && b_nan) return t->later;
        return t->largest ? a_nan : b_nan;
    }
    if (a == b) return t->later;
    return t->largest ? a > b : a < b;
}

static inline void pd_top_of_rows(const pd_work *w, const pd_top *t, const float *x, float *y) {
    int begin, end;
    pd_share(w, pd_items(t->rank, t->shape), &begin, &end);
    for (int item = begin; item < end; item++) {
        const float *from = x + pd_at(item, t->rank, t->shape, t->xs);
        float *to = y + pd_at(item, t->rank, t->shape, t->ys);
        int filled = 0;
        for (int i = 0; i < t->count; i++) {
            const float value = from[i * t->x_step];
            if (filled == t->kept && !pd_top_before(t, value, to[(filled - 1) * t->y_step])) continue;
            int at = filled < t->kept ? filled++ : filled - 1;
            for (; at > 0 && pd_top_before(t, value, to[(at - 1) * t->y_step]); at--) {
                to[at * t->y_step] = to[(at - 1) * t->y_step];
                to[at * t->y_step + t->indices] = to[(at - 1) * t->y_step + t->indices];
            }
            to[at * t->y_step] = value;
            to[at * t->y_step + t->indices] = (float)i;
        }
    }
}

#endif
