/* Normalisation: mean, variance, and the result, in three passes over what fits the cache. The
 * mean is summed as the difference from the first element, so that one far from 0 costs no digits. */
#ifndef PD_NORM_H
#define PD_NORM_H

#include "reduce.h"

/* How scale and bias lie along the loops of the reduction; every loop has a stride in y too. */
typedef struct {
    pd_reduction r;
    const ptrdiff_t *kept_scale, *kept_bias, *reduced_y, *reduced_scale, *reduced_bias;
    ptrdiff_t inner_scale, inner_bias;
    const float *scale, *bias;
    float epsilon;
    int centre;
} pd_norm;

/* `count` elements at `from + i * step`, or one for all. */
PD_INLINE pd_vec pd_broadcast(const float *from, ptrdiff_t step, int i, int count) {
    if (step == 0) return pd_splat(*from);
    if (step == 1) return pd_take(from + i, count);
    return pd_gather(from + i * step, step, count < PD_LANES ? count : PD_LANES);
}

/* -- along rows --------------------------------------------------------------------------------- */

PD_INLINE void pd_norm_row(const pd_norm *n, const float *x, float *y, const float *scale,
                           const float *bias, float mean, float by) {
    const pd_reduction *r = &n->r;
    for (int i = 0; i < r->inner; i += PD_LANES) {
        const int left = r->inner - i, count = left < PD_LANES ? left : PD_LANES;
        pd_vec v = (pd_broadcast(x, r->inner_x, i, count) - mean) * by;
        v = v * pd_broadcast(scale, n->inner_scale, i, count) + pd_broadcast(bias, n->inner_bias, i, count);
        if (r->inner_y == 1) pd_give(y + i, v, count);
        else pd_scatter(y + i * r->inner_y, r->inner_y, v, count);
    }
}

static inline void pd_norm_rows(const pd_work *w, const pd_norm *n, const float *x, float *y) {
    const pd_reduction *r = &n->r;
    const int outer = pd_items(r->reduced, r->reduced_shape);
    int begin, end;
    pd_share(w, pd_items(r->kept, r->kept_shape), &begin, &end);
    for (int item = begin; item < end; item++) {
        const float *from = x + pd_at(item, r->kept, r->kept_shape, r->kept_x);
        float *to = y + pd_at(item, r->kept, r->kept_shape, r->kept_y);
        const float *scale = n->scale + pd_at(item, r->kept, r->kept_shape, n->kept_scale);
        const float *bias = n->bias + pd_at(item, r->kept, r->kept_shape, n->kept_bias);
        float mean = 0;
        if (n->centre) mean = from[0] + pd_reduce_item(PD_SHIFTED, r, from, from[0]) / r->count;
        const float variance = pd_reduce_item(PD_VARIANCE, r, from, mean) / r->count;
        const float by = 1.0f / sqrtf(variance + n->epsilon);
        for (int i = 0; i < outer; i++) {
            pd_norm_row(n, from + pd_at(i, r->reduced, r->reduced_shape, r->reduced_x),
                        to + pd_at(i, r->reduced, r->reduced_shape, n->reduced_y),
                        scale + pd_at(i, r->reduced, r->reduced_shape, n->reduced_scale),
                        bias + pd_at(i, r->reduced, r->reduced_shape, n->reduced_bias), mean, by);
        }
    }
}

/* -- down planes -------------------------------------------------------------------------------- */

/* The sums of the differences from `from`'s first plane, and of their squares, in one pass. */
PD_INLINE void pd_moments(const pd_reduction *r, const float *from, pd_vec *sum, pd_vec *squares,
                          int vectors, int count) {
    const int last = r->reduced - 1, inner = r->reduced_shape[last];
    const int outer = pd_items(last, r->reduced_shape);
    const ptrdiff_t step = r->reduced_x[last];
    pd_vec first[4];
    for (int v = 0; v < vectors; v++) {
        first[v] = pd_take(from + v * PD_LANES, count - v * PD_LANES);
        sum[v] = squares[v] = pd_splat(0);
    }
    for (int i = 0; i < outer; i++) {
        const float *at = from + pd_at(i, last, r->reduced_shape, r->reduced_x);
        for (int begin = 0; begin < inner; begin += PD_TERMS) {
            const int end = inner - begin < PD_TERMS ? inner : begin + PD_TERMS;
            pd_vec one[4], two[4];
            for (int v = 0; v < vectors; v++) one[v] = two[v] = pd_splat(0);
            for (int k = begin; k < end; k++, at += step) {
                for (int v = 0; v < vectors; v++) {
                    const pd_vec d = pd_take(at + v * PD_LANES, count - v * PD_LANES) - first[v];
                    one[v] += d;
                    two[v] += d * d;
                }
            }
            for (int v = 0; v < vectors; v++) sum[v] += one[v], squares[v] += two[v];
        }
    }
    for (int v = 0; v < vectors; v++) sum[v] = sum[v] / r->count, squares[v] = squares[v] / r->count;
}

/* The mean and the variance of each column. Where the first plane is far from the mean, too many
 * digits of the squares are lost: then the variance gets a pass of its own. */
PD_INLINE void pd_norm_moments(const pd_norm *n, const float *x, pd_vec *mean, pd_vec *variance,
                               int vectors, int count) {
    const pd_reduction *r = &n->r;
    if (n->centre) {
        pd_vec shift[4], far = pd_splat(0);
        pd_moments(r, x, shift, variance, vectors, count);
        for (int v = 0; v < vectors; v++) {
            const int some = count - v * PD_LANES;
            mean[v] = pd_take(x + v * PD_LANES, some) + shift[v];
            variance[v] -= shift[v] * shift[v];
            const pd_mask close = pd_le(shift[v] * shift[v], variance[v] * 16.0f);
            float marks[PD_LANES];
            pd_storeu(marks, pd_where(close, pd_splat(0), pd_splat(1)));
            far = pd_max(far, pd_take(marks, some));
        }
        if (pd_largest_lane(far) == 0) return;
    } else {
        for (int v = 0; v < vectors; v++) mean[v] = pd_splat(0);
    }
    pd_reduce_planes(PD_VARIANCE, r, x, variance, mean, vectors, count);
    for (int v = 0; v < vectors; v++) variance[v] = variance[v] / r->count;
}

PD_INLINE void pd_norm_group(const pd_norm *n, const float *x, float *y, const float *scale,
                             const float *bias, int vectors, int count) {
    const pd_reduction *r = &n->r;
    const int last = r->reduced - 1, inner = r->reduced_shape[last];
    const int outer = pd_items(last, r->reduced_shape);
    pd_vec mean[4], by[4];
    pd_norm_moments(n, x, mean, by, vectors, count);
    for (int v = 0; v < vectors; v++) by[v] = 1.0f / pd_sqrt(by[v] + n->epsilon);
    for (int i = 0; i < outer; i++) {
        const float *from = x + pd_at(i, last, r->reduced_shape, r->reduced_x);
        float *to = y + pd_at(i, last, r->reduced_shape, n->reduced_y);
        const float *s = scale + pd_at(i, last, r->reduced_shape, n->reduced_scale);
        const float *b = bias + pd_at(i, last, r->reduced_shape, n->reduced_bias);
        for (int k = 0; k < inner; k++, from += r->reduced_x[last], to += n->reduced_y[last],
                 s += n->reduced_scale[last], b += n->reduced_bias[last]) {
            for (int v = 0; v < vectors; v++) {
                const int left = count - v * PD_LANES, j = v * PD_LANES;
                const int some = left < PD_LANES ? left : PD_LANES;
                pd_vec value = (pd_take(from + j, some) - mean[v]) * by[v];
                value = value * pd_broadcast(s, n->inner_scale, j, some)
                    + pd_broadcast(b, n->inner_bias, j, some);
                if (r->inner_y == 1) pd_give(to + j, value, some);
                else pd_scatter(to + j * r->inner_y, r->inner_y, value, some);
            }
        }
    }
}

static inline void pd_norm_columns(const pd_work *w, const pd_norm *n, const float *x, float *y) {
    const pd_reduction *r = &n->r;
    const int wide = r->vectors * PD_LANES, groups = (r->inner + wide - 1) / wide;
    int begin, end;
    pd_share(w, pd_items(r->kept, r->kept_shape) * groups, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int first = item % groups * wide, outer = item / groups;
        const int count = r->inner - first < wide ? r->inner - first : wide;
        const float *from = x + pd_at(outer, r->kept, r->kept_shape, r->kept_x) + first;
        float *to = y + pd_at(outer, r->kept, r->kept_shape, r->kept_y) + first * r->inner_y;
        const float *scale = n->scale + pd_at(outer, r->kept, r->kept_shape, n->kept_scale)
            + first * n->inner_scale;
        const float *bias = n->bias + pd_at(outer, r->kept, r->kept_shape, n->kept_bias)
            + first * n->inner_bias;
        if (count == 4 * PD_LANES) {
            pd_norm_group(n, from, to, scale, bias, 4, 4 * PD_LANES);
            continue;
        }
        for (int j = 0; j < count; j += PD_LANES)
            pd_norm_group(n, from + j, to + j * r->inner_y, scale + j * n->inner_scale,
                          bias + j * n->inner_bias, 1,
                          count - j < PD_LANES ? count - j : PD_LANES);
    }
}

#endif
