/* Softmax along rows that are contiguous, or down planes with vectors across them. */
#ifndef PD_SOFTMAX_H
#define PD_SOFTMAX_H

#include "functions.h"
#include "nest.h"

typedef struct {
    int rank;                  /* of the loops around */
    const int *shape;
    const ptrdiff_t *xs, *ys;
    int count;                 /* along the axis */
    ptrdiff_t x_step, y_step;  /* along the axis */
    int across;                /* columns: how many lie side by side */
} pd_softmax;

PD_INLINE pd_vec pd_pick(int first, pd_vec a, pd_vec b) {
    if (first) return a;
    return b;
}

/* By what a row's values are scaled, or how far they are shifted. */
PD_INLINE pd_vec pd_softmax_by(int log, pd_vec total) {
    if (log) return pd_log(total);
    return 1.0f / total;
}

/* One row, x and y contiguous; in place is fine. */
PD_INLINE void pd_softmax_row(const float *x, float *y, int count, int log) {
    const float low = -__builtin_inff();
    const int whole = count / PD_LANES * PD_LANES, left = count - whole;
    pd_vec maximum = pd_splat(low);
    for (int i = 0; i < whole; i += PD_LANES) maximum = pd_max(pd_loadu(x + i), maximum);
    if (left) maximum = pd_max(pd_load_n(x + whole, left, low), maximum);
    /* with a NaN among them every result becomes NaN, whatever is the largest */
    const pd_vec largest = pd_splat(pd_largest_lane(maximum));
    pd_vec sum = pd_splat(0);
    for (int i = 0; i < whole; i += PD_LANES) {
        const pd_vec shifted = pd_loadu(x + i) - largest, power = pd_exp_nonpositive(shifted);
        pd_storeu(y + i, pd_pick(log, shifted, power));
        sum += power;
    }
    if (left) {
        /* a row of -infinity gives NaN, what fills up its last vector must not */
        const pd_vec shifted = pd_load_n(x + whole, left, low) - largest;
        float powers[PD_LANES];
        pd_storeu(powers, pd_exp_nonpositive(shifted));
        const pd_vec power = pd_load_n(powers, left, 0);
        pd_store_n(y + whole, pd_pick(log, shifted, power), left);
        sum += power;
    }
    const pd_vec total = pd_splat(pd_sum_lanes(sum));
    const pd_vec by = pd_softmax_by(log, total);
    for (int i = 0; i < whole; i += PD_LANES) {
        const pd_vec v = pd_loadu(y + i);
        pd_storeu(y + i, pd_pick(log, v - by, v * by));
    }
    if (left) {
        const pd_vec v = pd_load_n(y + whole, left, 0);
        pd_store_n(y + whole, pd_pick(log, v - by, v * by), left);
    }
}

/* Rows; where x or y is not contiguous, by way of scratch. */
PD_INLINE void pd_softmax_rows(const pd_work *w, const pd_softmax *s, const float *x, float *y,
                               int log) {
    int begin, end;
    pd_share(w, pd_items(s->rank, s->shape), &begin, &end);
    for (int item = begin; item < end; item++) {
        const float *from = x + pd_at(item, s->rank, s->shape, s->xs);
        float *to = y + pd_at(item, s->rank, s->shape, s->ys);
        float *row = s->y_step == 1 ? to : w->scratch;
        if (s->x_step != 1) {
            for (int i = 0; i < s->count; i++) row[i] = from[i * s->x_step];
            from = row;
        }
        pd_softmax_row(from, row, s->count, log);
        if (s->y_step != 1)
            for (int i = 0; i < s->count; i++) to[i * s->y_step] = row[i];
    }
}

/* Up to four vectors of columns, of which `count` elements are there. */
PD_INLINE void pd_softmax_group(const pd_softmax *s, const float *x, float *y, int vectors,
                                int count, int log) {
    const int rest = count - (vectors - 1) * PD_LANES; /* of the last vector */
    pd_vec largest[4], sum[4], by[4];
    for (int v = 0; v < vectors; v++) {
        largest[v] = pd_splat(-__builtin_inff());
        sum[v] = pd_splat(0);
    }
#define PD_LEFT(v) ((v) == vectors - 1 ? rest : PD_LANES)
#define PD_TAKE(p, v) pd_take((p) + (v) * PD_LANES, PD_LEFT(v))
#define PD_GIVE(p, v, value) pd_give((p) + (v) * PD_LANES, value, PD_LEFT(v))
    const float *from = x;
    for (int k = 0; k < s->count; k++, from += s->x_step)
        for (int v = 0; v < vectors; v++) largest[v] = pd_max(PD_TAKE(from, v), largest[v]);
    float *to = y;
    from = x;
    for (int k = 0; k < s->count; k++, from += s->x_step, to += s->y_step) {
        for (int v = 0; v < vectors; v++) {
            const pd_vec shifted = PD_TAKE(from, v) - largest[v];
            const pd_vec power = pd_exp_nonpositive(shifted);
            PD_GIVE(to, v, pd_pick(log, shifted, power));
            sum[v] += power;
        }
    }
    for (int v = 0; v < vectors; v++) by[v] = pd_softmax_by(log, sum[v]);
    to = y;
    for (int k = 0; k < s->count; k++, to += s->y_step) {
        for (int v = 0; v < vectors; v++) {
            const pd_vec value = PD_TAKE(to, v);
            PD_GIVE(to, v, pd_pick(log, value - by[v], value * by[v]));
        }
    }
#undef PD_LEFT
#undef PD_TAKE
#undef PD_GIVE
}

PD_INLINE void pd_softmax_columns(const pd_work *w, const pd_softmax *s, const float *x, float *y,
                                  int log) {
    enum { WIDE = 4 * PD_LANES };
    const int groups = (s->across + WIDE - 1) / WIDE;
    int begin, end;
    pd_share(w, pd_items(s->rank, s->shape) * groups, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int first = item % groups * WIDE;
        const int count = s->across - first < WIDE ? s->across - first : WIDE;
        const float *from = x + pd_at(item / groups, s->rank, s->shape, s->xs) + first;
        float *to = y + pd_at(item / groups, s->rank, s->shape, s->ys) + first;
        if (count == WIDE) {
            pd_softmax_group(s, from, to, 4, WIDE, log);
            continue;
        }
        for (int j = 0; j < count; j += PD_LANES)
            pd_softmax_group(s, from + j, to + j, 1, count - j < PD_LANES ? count - j : PD_LANES,
                             log);
    }
}

#define PD_SOFTMAX(name, how, log)                                                              \
    static __attribute__((noinline)) void name(const pd_work *w, const pd_softmax *s,           \
                                               const float *x, float *y) {                      \
        how(w, s, x, y, log);                                                                   \
    }

#endif
