/* Loops around kernels, and the transposition of a square of vectors. */
#ifndef PD_NEST_H
#define PD_NEST_H

#include "lanes.h"

/* Where item `index` of nested loops lies; the last of `rank` loops is the innermost. */
PD_INLINE ptrdiff_t pd_at(int index, int rank, const int *shape, const ptrdiff_t *strides) {
    ptrdiff_t at = 0;
    for (int axis = rank - 1; axis >= 0; axis--) {
        at += index % shape[axis] * strides[axis];
        index /= shape[axis];
    }
    return at;
}

PD_INLINE int pd_items(int rank, const int *shape) {
    int items = 1;
    for (int axis = 0; axis < rank; axis++) items *= shape[axis];
    return items;
}

/* Element i of vector j becomes element j of vector i. */
#if PD_LANES == 16
PD_INLINE void pd_transpose(pd_vec *v) {
    __m512 a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)v[i], (__m512)v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)v[i], (__m512)v[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { /* b[4 g + j]: rows 4 g to 4 g + 3 of columns j, 4 + j, ... */
        const __m512 even = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88);
        const __m512 odd = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
        const __m512 more_even = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        const __m512 more_odd = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
        v[j] = (pd_vec)_mm512_shuffle_f32x4(even, more_even, 0x88);
        v[4 + j] = (pd_vec)_mm512_shuffle_f32x4(odd, more_odd, 0x88);
        v[8 + j] = (pd_vec)_mm512_shuffle_f32x4(even, more_even, 0xdd);
        v[12 + j] = (pd_vec)_mm512_shuffle_f32x4(odd, more_odd, 0xdd);
    }
}
#elif PD_LANES == 8
PD_INLINE void pd_transpose(pd_vec *v) {
    __m256 a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps((__m256)v[i], (__m256)v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps((__m256)v[i], (__m256)v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v[j] = (pd_vec)_mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
        v[4 + j] = (pd_vec)_mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
    }
}
#elif defined(__aarch64__) && PD_LANES == 4
PD_INLINE void pd_transpose(pd_vec *v) {
    float64x2_t a[4];
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
        const float32x4_t low = (float32x4_t)v[i], high = (float32x4_t)v[i + 1];
        a[i] = vreinterpretq_f64_f32(vtrn1q_f32(low, high));
        a[i + 1] = vreinterpretq_f64_f32(vtrn2q_f32(low, high));
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        v[j] = (pd_vec)vreinterpretq_f32_f64(vtrn1q_f64(a[j], a[2 + j]));
        v[2 + j] = (pd_vec)vreinterpretq_f32_f64(vtrn2q_f64(a[j], a[2 + j]));
    }
}
#else
PD_INLINE void pd_transpose(pd_vec *v) {
    float from[PD_LANES][PD_LANES], to[PD_LANES][PD_LANES];
    for (int i = 0; i < PD_LANES; i++) pd_storeu(from[i], v[i]);
    for (int i = 0; i < PD_LANES; i++)
        for (int j = 0; j < PD_LANES; j++) to[j][i] = from[i][j];
    for (int i = 0; i < PD_LANES; i++) v[i] = pd_loadu(to[i]);
}
#endif

/* to[i * to_stride + j] = from[j * from_stride + i] for i < rows and j < columns, both at most
 * PD_LANES; nothing else is read or written. */
PD_INLINE void pd_transpose_tile(float *to, ptrdiff_t to_stride, const float *from,
                                 ptrdiff_t from_stride, int rows, int columns) {
    pd_vec v[PD_LANES];
    if (rows == PD_LANES && columns == PD_LANES) {
#pragma GCC unroll 16
        for (int j = 0; j < PD_LANES; j++) v[j] = pd_loadu(from + j * from_stride);
        pd_transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < PD_LANES; i++) pd_storeu(to + i * to_stride, v[i]);
        return;
    }
#if PD_LANES == 16
    if (rows > 3 && columns > 3) {
        for (int j = 0; j < PD_LANES; j++)
            v[j] = j < columns ? pd_load_n(from + j * from_stride, rows, 0) : pd_splat(0);
        pd_transpose(v);
        for (int i = 0; i < rows; i++) pd_store_n(to + i * to_stride, v[i], columns);
        return;
    }
#endif
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) to[i * to_stride + j] = from[j * from_stride + i];
}

#endif
