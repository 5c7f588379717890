/* Reductions: along rows that are contiguous, or down planes with vectors across them. Sums are
 * taken in blocks, so that their error does not grow with their length. */
#ifndef PD_REDUCE_H
#define PD_REDUCE_H

#include "functions.h"
#include "nest.h"

enum { PD_SUM, PD_MEAN, PD_MAX, PD_MIN, PD_PROD, PD_L1, PD_L2, PD_SUMSQUARE, PD_LOGSUMEXP,
       PD_VARIANCE, PD_SHIFTED }; /* of the difference from `shift`: its squares, itself */
enum { PD_TERMS = 64 }; /* terms that are joined one by one */

/* Loops that are kept, loops that are reduced, and the innermost of either. */
typedef struct {
    int kept, reduced;
    const int *kept_shape, *reduced_shape;
    const ptrdiff_t *kept_x, *kept_y, *reduced_x;
    int inner;             /* rows: the innermost reduced loop; columns: the innermost kept */
    ptrdiff_t inner_x, inner_y;
    int vectors;           /* columns: at most this many are computed at once */
    float count;           /* elements that become one */
} pd_reduction;

/* -- what the kinds differ in; `kind` is always a constant -------------------------------------- */

PD_INLINE float pd_neutral(int kind) {
    if (kind == PD_MAX || kind == PD_LOGSUMEXP) return -__builtin_inff();
    return kind == PD_MIN ? __builtin_inff() : kind == PD_PROD ? 1.0f : 0.0f;
}

PD_INLINE pd_vec pd_term(int kind, pd_vec v, pd_vec shift) {
    if (kind == PD_L1) return pd_abs(v);
    if (kind == PD_L2 || kind == PD_SUMSQUARE) return v * v;
    if (kind == PD_LOGSUMEXP) return pd_exp(v - shift);
    if (kind == PD_VARIANCE) return (v - shift) * (v - shift);
    if (kind == PD_SHIFTED) return v - shift;
    return v;
}

PD_INLINE pd_vec pd_join(int kind, pd_vec a, pd_vec b) {
    if (kind == PD_MAX) return pd_maximum(a, b);
    if (kind == PD_MIN) return pd_minimum(a, b);
    if (kind == PD_PROD) return a * b;
    return a + b;
}

PD_INLINE pd_vec pd_start(int kind) { return pd_splat(kind == PD_LOGSUMEXP ? 0 : pd_neutral(kind)); }

PD_INLINE float pd_across(int kind, pd_vec v) {
    if (kind == PD_MAX) return pd_max_lanes(v);
    if (kind == PD_MIN) return pd_min_lanes(v);
    if (kind == PD_PROD) return pd_product_lanes(v);
    return pd_sum_lanes(v);
}

PD_INLINE pd_vec pd_finish(int kind, pd_vec v, float count, pd_vec shift) {
    if (kind == PD_MEAN) return v / count;
    if (kind == PD_L2) return pd_sqrt(v);
    if (kind == PD_LOGSUMEXP) return pd_log(v) + shift;
    return v;
}

/* What logsumexp subtracts: the largest, or nothing where that is infinite. */
PD_INLINE pd_vec pd_shift_by(pd_vec largest) {
    const pd_mask finite = pd_lt(pd_abs(largest), pd_splat(__builtin_inff()));
    return pd_where(finite, largest, pd_splat(0));
}

/* -- along rows --------------------------------------------------------------------------------- */

PD_INLINE pd_vec pd_row_load(const float *from, ptrdiff_t step, int count, float fill) {
    if (step == 1 && count >= PD_LANES) return pd_loadu(from);
    if (step == 1) return pd_load_n(from, count, fill);
    float all[PD_LANES];
    for (int i = 0; i < PD_LANES; i++) all[i] = i < count ? from[i * step] : fill;
    return pd_loadu(all);
}

PD_INLINE pd_vec pd_reduce_row(int kind, pd_vec sum, const float *from, ptrdiff_t step, int count,
                               float by) {
    const float fill = kind == PD_VARIANCE || kind == PD_SHIFTED ? by : pd_neutral(kind);
    const pd_vec shift = pd_splat(by);
    int i = 0;
    for (; i + 4 * PD_LANES <= count;) {
        const int room = count - i, block = PD_TERMS * 4 * PD_LANES;
        const int end = i + (room < block ? room : block) / (4 * PD_LANES) * (4 * PD_LANES);
        pd_vec part[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) part[v] = pd_start(kind);
        for (; i < end; i += 4 * PD_LANES) {
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                const pd_vec x = pd_row_load(from + (i + v * PD_LANES) * step, step, PD_LANES, 0);
                part[v] = pd_join(kind, part[v], pd_term(kind, x, shift));
            }
        }
        part[0] = pd_join(kind, part[0], part[1]);
        part[2] = pd_join(kind, part[2], part[3]);
        sum = pd_join(kind, sum, pd_join(kind, part[0], part[2]));
    }
    for (; i < count; i += PD_LANES) {
        const pd_vec x = pd_row_load(from + i * step, step, count - i, fill);
        sum = pd_join(kind, sum, pd_term(kind, x, shift));
    }
    return sum;
}

PD_INLINE float pd_reduce_item(int kind, const pd_reduction *r, const float *from, float shift) {
    const int outer = pd_items(r->reduced, r->reduced_shape);
    pd_vec sum = pd_start(kind);
    for (int i = 0; i < outer; i++) {
        const float *row = from + pd_at(i, r->reduced, r->reduced_shape, r->reduced_x);
        if (r->inner_x == 1) sum = pd_reduce_row(kind, sum, row, 1, r->inner, shift);
        else sum = pd_reduce_row(kind, sum, row, r->inner_x, r->inner, shift);
    }
    return pd_across(kind, sum);
}

PD_INLINE void pd_reduce_rows(int kind, const pd_work *w, const pd_reduction *r, const float *x,
                              float *y) {
    int begin, end;
    pd_share(w, pd_items(r->kept, r->kept_shape), &begin, &end);
    for (int item = begin; item < end; item++) {
        const float *from = x + pd_at(item, r->kept, r->kept_shape, r->kept_x);
        pd_vec shift = pd_splat(0);
        if (kind == PD_LOGSUMEXP)
            shift = pd_shift_by(pd_splat(pd_reduce_item(PD_MAX, r, from, 0)));
        float first[PD_LANES];
        pd_storeu(first, shift);
        const pd_vec sum = pd_splat(pd_reduce_item(kind, r, from, first[0]));
        pd_storeu(first, pd_finish(kind, sum, r->count, shift));
        y[pd_at(item, r->kept, r->kept_shape, r->kept_y)] = first[0];
    }
}

/* -- down planes -------------------------------------------------------------------------------- */

/* `vectors` neighbours at once; `count` elements of them are there. */
PD_INLINE void pd_reduce_planes(int kind, const pd_reduction *r, const float *from, pd_vec *sum,
                                const pd_vec *shift, int vectors, int count) {
    const int last = r->reduced - 1, inner = r->reduced ? r->reduced_shape[last] : 1;
    const ptrdiff_t step = r->reduced ? r->reduced_x[last] : 0;
    const int outer = r->reduced ? pd_items(last, r->reduced_shape) : 1;
    const int rest = count - (vectors - 1) * PD_LANES; /* of the last vector */
    pd_vec middle[4]; /* of blocks: a sum of three levels */
    int blocks = 0;
    for (int v = 0; v < vectors; v++) sum[v] = middle[v] = pd_start(kind);
    for (int i = 0; i < outer; i++) {
        const float *at = from + pd_at(i, r->reduced ? last : 0, r->reduced_shape, r->reduced_x);
        for (int first = 0; first < inner; first += PD_TERMS) {
            const int end = inner - first < PD_TERMS ? inner : first + PD_TERMS;
            pd_vec part[4];
            for (int v = 0; v < vectors; v++) part[v] = pd_start(kind);
            for (int k = first; k < end; k++, at += step) {
                for (int v = 0; v < vectors; v++) {
                    const int some = v == vectors - 1 && rest < PD_LANES ? rest : PD_LANES;
                    const pd_vec x = pd_row_load(at + v * PD_LANES, 1, some, pd_neutral(kind));
                    part[v] = pd_join(kind, part[v], pd_term(kind, x, shift[v]));
                }
            }
            for (int v = 0; v < vectors; v++) middle[v] = pd_join(kind, middle[v], part[v]);
            if (++blocks % PD_TERMS) continue;
            for (int v = 0; v < vectors; v++) {
                sum[v] = pd_join(kind, sum[v], middle[v]);
                middle[v] = pd_start(kind);
            }
        }
    }
    for (int v = 0; v < vectors; v++) sum[v] = pd_join(kind, sum[v], middle[v]);
}

PD_INLINE void pd_reduce_group(int kind, const pd_reduction *r, const float *from, float *to,
                               int vectors, int count) {
    pd_vec sum[4], shift[4];
    for (int v = 0; v < vectors; v++) shift[v] = pd_splat(0);
    if (kind == PD_LOGSUMEXP) {
        pd_reduce_planes(PD_MAX, r, from, sum, shift, vectors, count);
        for (int v = 0; v < vectors; v++) shift[v] = pd_shift_by(sum[v]);
    }
    pd_reduce_planes(kind, r, from, sum, shift, vectors, count);
    for (int v = 0; v < vectors; v++) {
        const int left = count - v * PD_LANES, some = left < PD_LANES ? left : PD_LANES;
        const pd_vec result = pd_finish(kind, sum[v], r->count, shift[v]);
        float *at = to + v * PD_LANES * r->inner_y;
        if (r->inner_y == 1) pd_store_n(at, result, some);
        else pd_scatter(at, r->inner_y, result, some);
    }
}

PD_INLINE void pd_reduce_columns(int kind, const pd_work *w, const pd_reduction *r, const float *x,
                                 float *y) {
    const int wide = r->vectors * PD_LANES, groups = (r->inner + wide - 1) / wide;
    int begin, end;
    pd_share(w, pd_items(r->kept, r->kept_shape) * groups, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int first = item % groups * wide, outer = item / groups;
        const int count = r->inner - first < wide ? r->inner - first : wide;
        const float *from = x + pd_at(outer, r->kept, r->kept_shape, r->kept_x) + first;
        float *to = y + pd_at(outer, r->kept, r->kept_shape, r->kept_y) + first * r->inner_y;
        if (count == 4 * PD_LANES) {
            pd_reduce_group(kind, r, from, to, 4, 4 * PD_LANES);
            continue;
        }
        for (int j = 0; j < count; j += PD_LANES)
            pd_reduce_group(kind, r, from + j, to + j * r->inner_y, 1,
                            count - j < PD_LANES ? count - j : PD_LANES);
    }
}

#define PD_REDUCE(name, how, kind)                                                              \
    static __attribute__((noinline)) void name(const pd_work *w, const pd_reduction *r,         \
                                               const float *x, float *y) {                      \
        how(kind, w, r, x, y);                                                                  \
    }

#endif
