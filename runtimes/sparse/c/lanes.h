/* Parts of vectors, masks, and what the compilers' vector extensions lack: the layer between pd.h
 * and the kernels that are not convolutions. */
#ifndef PD_LANES_H
#define PD_LANES_H

#include "pd.h"

/* -- the same bits ------------------------------------------------------------------------------ */

#if PD_LANES > 1
PD_INLINE pd_ivec pd_bits(pd_vec v) { return (pd_ivec)v; }
PD_INLINE pd_vec pd_of_bits(pd_ivec v) { return (pd_vec)v; }
PD_INLINE pd_vec pd_of_int(pd_ivec v) { return __builtin_convertvector(v, pd_vec); }
#else
PD_INLINE pd_ivec pd_bits(pd_vec v) { pd_ivec i; memcpy(&i, &v, sizeof i); return i; }
PD_INLINE pd_vec pd_of_bits(pd_ivec v) { pd_vec f; memcpy(&f, &v, sizeof f); return f; }
PD_INLINE pd_vec pd_of_int(pd_ivec v) { return (pd_vec)v; }
#endif

/* -- comparisons: false where one side is NaN --------------------------------------------------- */

#if PD_LANES == 16
typedef __mmask16 pd_mask;
#define PD_COMPARE(a, b, how) _mm512_cmp_ps_mask((__m512)(a), (__m512)(b), how)
PD_INLINE pd_mask pd_lt(pd_vec a, pd_vec b) { return PD_COMPARE(a, b, _CMP_LT_OQ); }
PD_INLINE pd_mask pd_le(pd_vec a, pd_vec b) { return PD_COMPARE(a, b, _CMP_LE_OQ); }
PD_INLINE pd_mask pd_eq(pd_vec a, pd_vec b) { return PD_COMPARE(a, b, _CMP_EQ_OQ); }
PD_INLINE pd_mask pd_either(pd_mask a, pd_mask b) { return (pd_mask)(a | b); }
PD_INLINE pd_mask pd_invert(pd_mask a) { return (pd_mask)~a; }
PD_INLINE pd_vec pd_where(pd_mask m, pd_vec a, pd_vec b) {
    return (pd_vec)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a);
}
#elif PD_LANES > 1
typedef pd_ivec pd_mask;
PD_INLINE pd_mask pd_lt(pd_vec a, pd_vec b) { return (pd_mask)(a < b); }
PD_INLINE pd_mask pd_le(pd_vec a, pd_vec b) { return (pd_mask)(a <= b); }
PD_INLINE pd_mask pd_eq(pd_vec a, pd_vec b) { return (pd_mask)(a == b); }
PD_INLINE pd_mask pd_either(pd_mask a, pd_mask b) { return a | b; }
PD_INLINE pd_mask pd_invert(pd_mask a) { return ~a; }
PD_INLINE pd_vec pd_where(pd_mask m, pd_vec a, pd_vec b) {
#if PD_LANES == 8
    return (pd_vec)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m);
#else
    return (pd_vec)((m & (pd_ivec)a) | (~m & (pd_ivec)b));
#endif
}
#else
typedef int pd_mask;
PD_INLINE pd_mask pd_lt(pd_vec a, pd_vec b) { return a < b; }
PD_INLINE pd_mask pd_le(pd_vec a, pd_vec b) { return a <= b; }
PD_INLINE pd_mask pd_eq(pd_vec a, pd_vec b) { return a == b; }
PD_INLINE pd_mask pd_either(pd_mask a, pd_mask b) { return a || b; }
PD_INLINE pd_mask pd_invert(pd_mask a) { return !a; }
PD_INLINE pd_vec pd_where(pd_mask m, pd_vec a, pd_vec b) { return m ? a : b; }
#endif

/* NaN where either is NaN, as the operators Max and Min want it. */
PD_INLINE pd_vec pd_maximum(pd_vec a, pd_vec b) { return pd_where(pd_eq(b, b), pd_max(a, b), b); }
PD_INLINE pd_vec pd_minimum(pd_vec a, pd_vec b) { return pd_where(pd_eq(b, b), pd_min(a, b), b); }

/* -- parts of vectors --------------------------------------------------------------------------- */

#if PD_LANES == 8
PD_INLINE __m256i pd_first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
#endif

/* The first `count` elements (0 to PD_LANES), `fill` in the others; nothing else is read. */
PD_INLINE pd_vec pd_load_n(const float *from, int count, float fill) {
#if PD_LANES == 16
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    return (pd_vec)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, from);
#elif PD_LANES == 8
    const __m256i mask = pd_first(count);
    return (pd_vec)_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(from, mask),
                                    _mm256_castsi256_ps(mask));
#else
    float all[PD_LANES];
    for (int i = 0; i < PD_LANES; i++) all[i] = i < count ? from[i] : fill;
    return pd_loadu(all);
#endif
}

/* The first `count` elements (0 to PD_LANES); nothing else is written. */
PD_INLINE void pd_store_n(float *to, pd_vec v, int count) {
#if PD_LANES == 16
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#elif PD_LANES == 8
    _mm256_maskstore_ps(to, pd_first(count), (__m256)v);
#else
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int i = 0; i < count; i++) to[i] = all[i];
#endif
}

/* The same for a whole vector, or a part where the count says so. */
PD_INLINE pd_vec pd_take(const float *from, int count) {
    if (count < PD_LANES) return pd_load_n(from, count, 0);
    return pd_loadu(from);
}

PD_INLINE void pd_give(float *to, pd_vec v, int count) {
    if (count < PD_LANES) pd_store_n(to, v, count);
    else pd_storeu(to, v);
}

/* `count` elements that lie `stride` apart. */
PD_INLINE pd_vec pd_gather(const float *from, ptrdiff_t stride, int count) {
    float all[PD_LANES];
    for (int i = 0; i < PD_LANES; i++) all[i] = i < count ? from[i * stride] : 0;
    return pd_loadu(all);
}

PD_INLINE void pd_scatter(float *to, ptrdiff_t stride, pd_vec v, int count) {
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int i = 0; i < count; i++) to[i * stride] = all[i];
}

/* -- across a vector ---------------------------------------------------------------------------- */

PD_INLINE float pd_sum_lanes(pd_vec v) {
#if PD_LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#endif
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int n = PD_LANES / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) all[i] += all[i + n];
    }
    return all[0];
}

/* The largest, where none is NaN. */
PD_INLINE float pd_largest_lane(pd_vec v) {
#if PD_LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#endif
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int n = PD_LANES / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) all[i] = all[i] > all[i + n] ? all[i] : all[i + n];
    }
    return all[0];
}

PD_INLINE float pd_product_lanes(pd_vec v) {
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int n = PD_LANES / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) all[i] *= all[i + n];
    }
    return all[0];
}

PD_INLINE float pd_max_lanes(pd_vec v) {
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int i = 1; i < PD_LANES; i++) all[0] = all[i] > all[0] || all[i] != all[i] ? all[i] : all[0];
    return all[0];
}

PD_INLINE float pd_min_lanes(pd_vec v) {
    float all[PD_LANES];
    pd_storeu(all, v);
    for (int i = 1; i < PD_LANES; i++) all[0] = all[i] < all[0] || all[i] != all[i] ? all[i] : all[0];
    return all[0];
}

#endif
