/* Weights in two bytes, widened to float32 in registers: exactly, subnormal numbers as well, and
 * whether or not the processor takes subnormal operands for zeros. */
#ifndef PD_WIDEN_H
#define PD_WIDEN_H

#include "lanes.h"

#if PD_LANES > 1
typedef uint16_t pd_shorts __attribute__((vector_size(PD_LANES * 2), aligned(2), may_alias));
PD_INLINE pd_ivec pd_of_shorts(const uint16_t *p) {
    return __builtin_convertvector(*(const pd_shorts *)p, pd_ivec);
}
PD_INLINE pd_ivec pd_to_upper(pd_ivec half) { return half << 16; }
#else
PD_INLINE pd_ivec pd_of_shorts(const uint16_t *p) { return (pd_ivec)*p; }
PD_INLINE pd_ivec pd_to_upper(pd_ivec half) { return (pd_ivec)((uint32_t)half << 16); }
#endif

/* A vector of float32. */
PD_INLINE pd_vec pd_fetch_float32(const float *p) { return pd_loadu(p); }

/* A vector of bfloat16: the upper halves of float32. */
PD_INLINE pd_vec pd_fetch_bfloat16(const uint16_t *p) {
    return pd_of_bits(pd_to_upper(pd_of_shorts(p)));
}

/* A vector of finite float16. */
PD_INLINE pd_vec pd_fetch_float16(const uint16_t *p) {
#if PD_LANES == 16
    return (pd_vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)p));
#elif PD_LANES == 4 && defined(__aarch64__)
    return (pd_vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    const pd_ivec half = pd_of_shorts(p), rest = half & 0x7fff;
    /* a fraction has 13 more bits, an exponent begins 112 lower; below 2^-14 all are multiples of 2^-24 */
    const pd_vec normal = pd_of_bits((rest << 13) + (112 << 23));
    const pd_vec whole = pd_of_int(rest), tiny = whole * pd_splat(0x1p-24f);
    const pd_vec size = pd_where(pd_lt(whole, pd_splat(1024)), tiny, normal);
    return pd_of_bits(pd_bits(size) | pd_to_upper(half ^ rest));
#endif
}

/* At least four weights, a vector of them, as float32: themselves, or widened into `room`. */
enum { PD_WIDE = PD_LANES < 4 ? 4 : PD_LANES };

PD_INLINE const float *pd_widen_float32(const float *p, float *room) {
    (void)room;
    return p;
}

#define PD_WIDEN(kind)                                                             \
    PD_INLINE const float *pd_widen_##kind(const uint16_t *p, float *room) {       \
        for (int i = 0; i < PD_WIDE; i += PD_LANES)                                \
            pd_storeu(room + i, pd_fetch_##kind(p + i));                           \
        return room;                                                               \
    }
PD_WIDEN(bfloat16)
PD_WIDEN(float16)

#endif
