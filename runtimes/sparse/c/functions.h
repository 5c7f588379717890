/* Functions of single elements, on vectors: every operation that a Map or an activation may name,
 * as pd_<name>. NaN, infinities, denormals and overflow do what they do in libm.
 *
 * exp, log, erf and tanh are within 2 ulp. The scalar build takes them from libm instead, so that
 * it is a reference for them. */
#ifndef PD_FUNCTIONS_H
#define PD_FUNCTIONS_H

#include "lanes.h"

#define PD_LANEWISE(result, expression)                         \
    float all[PD_LANES];                                        \
    for (int i = 0; i < PD_LANES; i++) all[i] = (expression);   \
    return pd_loadu(all)

/* -- rounding, roots, signs --------------------------------------------------------------------- */

PD_INLINE pd_vec pd_identity(pd_vec x) { return x; }
PD_INLINE pd_vec pd_neg(pd_vec x) { return -x; }
PD_INLINE pd_vec pd_reciprocal(pd_vec x) { return 1.0f / x; }
PD_INLINE pd_vec pd_abs(pd_vec x) { return pd_of_bits(pd_bits(x) & 0x7fffffff); }

/* The magnitude of `x`, the sign of `sign`. */
PD_INLINE pd_vec pd_copysign(pd_vec x, pd_vec sign) {
    return pd_of_bits((pd_bits(x) & 0x7fffffff) | (pd_bits(sign) & (int32_t)0x80000000));
}

#if PD_LANES == 16
PD_INLINE pd_vec pd_sqrt(pd_vec x) { return (pd_vec)_mm512_sqrt_ps((__m512)x); }
#define PD_ROUND(x, how) (pd_vec)_mm512_roundscale_ps((__m512)(x), how)
PD_INLINE pd_vec pd_floor(pd_vec x) { return PD_ROUND(x, 9); }
PD_INLINE pd_vec pd_ceil(pd_vec x) { return PD_ROUND(x, 10); }
PD_INLINE pd_vec pd_round(pd_vec x) { return PD_ROUND(x, 8); }
#elif PD_LANES == 8
PD_INLINE pd_vec pd_sqrt(pd_vec x) { return (pd_vec)_mm256_sqrt_ps((__m256)x); }
#define PD_ROUND(x, how) (pd_vec)_mm256_round_ps((__m256)(x), how)
PD_INLINE pd_vec pd_floor(pd_vec x) { return PD_ROUND(x, 9); }
PD_INLINE pd_vec pd_ceil(pd_vec x) { return PD_ROUND(x, 10); }
PD_INLINE pd_vec pd_round(pd_vec x) { return PD_ROUND(x, 8); }
#elif defined(__aarch64__) && PD_LANES == 4
PD_INLINE pd_vec pd_sqrt(pd_vec x) { return (pd_vec)vsqrtq_f32((float32x4_t)x); }
PD_INLINE pd_vec pd_floor(pd_vec x) { return (pd_vec)vrndmq_f32((float32x4_t)x); }
PD_INLINE pd_vec pd_ceil(pd_vec x) { return (pd_vec)vrndpq_f32((float32x4_t)x); }
PD_INLINE pd_vec pd_round(pd_vec x) { return (pd_vec)vrndnq_f32((float32x4_t)x); }
#else
#if PD_LANES > 1
#define PD_LANE(x) ((x)[i])
#else
#define PD_LANE(x) (x)
#endif
PD_INLINE pd_vec pd_sqrt(pd_vec x) { PD_LANEWISE(x, sqrtf(PD_LANE(x))); }
PD_INLINE pd_vec pd_floor(pd_vec x) { PD_LANEWISE(x, floorf(PD_LANE(x))); }
PD_INLINE pd_vec pd_ceil(pd_vec x) { PD_LANEWISE(x, ceilf(PD_LANE(x))); }
PD_INLINE pd_vec pd_round(pd_vec x) { PD_LANEWISE(x, rintf(PD_LANE(x))); }
#endif

PD_INLINE pd_vec pd_sign(pd_vec x) {
    const pd_vec one = pd_copysign(pd_splat(1), x);
    return pd_where(pd_lt(pd_splat(0), pd_abs(x)), one, x); /* 0 and NaN stay */
}

/* -- exponential and logarithm ------------------------------------------------------------------ */

#if PD_LANES > 1

#define PD_SHIFT 12582912.0f /* 1.5 * 2^23: what is added to it is rounded to an integer */

/* x = n * log(2) + r: *n, its bits as an integer, r. For |x| < 2^22. */
PD_INLINE pd_vec pd_exp_reduce(pd_vec x, pd_vec *n, pd_ivec *power) {
    const pd_vec shifted = x * 1.44269504f + PD_SHIFT;
    *power = pd_bits(shifted) - pd_bits(pd_splat(PD_SHIFT));
    *n = shifted - PD_SHIFT;
    return (x - *n * 0.693145752f) - *n * 1.42860677e-6f;
}

/* exp(r) - 1 for |r| <= log(2) / 2 */
PD_INLINE pd_vec pd_exp_core(pd_vec r) {
    pd_vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r;
}

/* x * 2^n in two steps, of which each is in range */
PD_INLINE pd_vec pd_scale(pd_vec x, pd_vec n, pd_ivec power) {
#if PD_LANES == 16
    (void)power;
    return (pd_vec)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
    (void)n;
    const pd_ivec half = power >> 1;
    return x * (pd_vec)((half + 127) << 23) * (pd_vec)((power - half + 127) << 23);
#endif
}

PD_INLINE pd_vec pd_exp(pd_vec x) {
    pd_vec n;
    pd_ivec power;
    /* beyond these the result is 0 or infinite anyway; pd_max and pd_min keep NaN */
    x = pd_min(pd_max(x, pd_splat(-104.0f)), pd_splat(89.0f));
    const pd_vec r = pd_exp_reduce(x, &n, &power);
    return pd_scale(pd_exp_core(r) + 1.0f, n, power);
}

/* exp(x) for x <= 0 as softmax needs it: within 2 units while that is more than 1e-6, and what is
 * below 2^-126 may become 0. */
PD_INLINE pd_vec pd_exp_nonpositive(pd_vec x) {
    const pd_vec low = pd_splat(-87.3f), v = pd_max(x, low);
    const pd_vec shifted = v * 1.44269504f + PD_SHIFT;
    const pd_vec n = shifted - PD_SHIFT, r = v - n * 0.693147181f;
    pd_vec p = r * 8.290312949e-03f + 4.189793899e-02f;
    p = p * r + 1.666763628e-01f;
    p = p * r + 4.999914946e-01f;
    p = p * r + 9.999997072e-01f;
    p = pd_scale(p * r + 1.0f, n, pd_bits(shifted) - pd_bits(pd_splat(PD_SHIFT)));
    return pd_where(pd_lt(x, low), pd_splat(0), p);
}

/* exp(x) - 1, exact near 0 */
PD_INLINE pd_vec pd_expm1(pd_vec x) {
    pd_vec n;
    pd_ivec power;
    const pd_vec within = pd_min(pd_max(x, pd_splat(-30.0f)), pd_splat(89.0f));
    const pd_vec r = pd_exp_reduce(within, &n, &power);
    const pd_vec scale = pd_scale(pd_splat(1), n, power);
    /* 2^128 is infinite, and so would be infinity - 1 + infinity * negative */
    const pd_vec large = pd_scale(pd_exp_core(r) + 1.0f, n, power);
    const pd_vec small = pd_exp_core(r) * scale + (scale - 1.0f);
    const pd_vec y = pd_where(pd_lt(pd_splat(40.0f), x), large, small);
    return pd_where(pd_eq(x, pd_splat(0)), x, y); /* -0 stays */
}

PD_INLINE pd_vec pd_log(pd_vec x) {
    const pd_vec infinity = pd_splat(__builtin_inff());
    const pd_mask denormal = pd_lt(x, pd_splat(1.17549435e-38f));
    const pd_vec v = pd_where(denormal, x * 8388608.0f, x);
    /* v = m * 2^e with m in [sqrt(1/2), sqrt(2)) */
    const pd_ivec bits = pd_bits(v) - 0x3f3504f3;
    const pd_ivec power = bits >> 23;
    const pd_vec m = pd_of_bits((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    const pd_vec e = pd_of_int(power) - pd_where(denormal, pd_splat(23), pd_splat(0));
    pd_vec p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const pd_vec square = m * m;
    pd_vec y = p * (m * square) + e * -2.12194440e-4f;
    y = (y - square * 0.5f) + m + e * 0.693359375f;
    y = pd_where(pd_lt(x, infinity), y, x); /* infinity and NaN */
    y = pd_where(pd_lt(x, pd_splat(0)), pd_splat(__builtin_nanf("")), y);
    return pd_where(pd_eq(x, pd_splat(0)), -infinity, y);
}

/* log(1 + x) for 0 <= x <= 1: what rounding 1 + x loses is made up for */
PD_INLINE pd_vec pd_log1p_unit(pd_vec x) {
    const pd_vec whole = x + 1.0f;
    return pd_log(whole) - ((whole - 1.0f) - x) / whole;
}

PD_INLINE pd_vec pd_tanh(pd_vec x) {
    const pd_vec size = pd_abs(x), square = x * x;
    pd_vec p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const pd_vec small = p * square * x + x;
    const pd_vec large = 1.0f - 2.0f / (pd_exp(size + size) + 1.0f);
    return pd_where(pd_lt(size, pd_splat(0.625f)), small, pd_copysign(large, x));
}

PD_INLINE pd_vec pd_erf(pd_vec x) {
    const pd_vec size = pd_abs(x), square = x * x;
    pd_vec p = square * -5.96761703e-4f + 4.99119423e-3f;
    p = p * square - 2.67681349e-2f;
    p = p * square + 1.12819925e-1f;
    p = p * square - 3.76125336e-1f;
    p = p * square + 1.28379166e-1f;
    const pd_vec small = p * x + x;
    /* 1 - exp(-polynomial); from 4 on it is 1, and square stays finite */
    const pd_vec t = pd_min(size, pd_splat(4.0f)), tt = t * t;
    pd_vec q = (t * -1.72853470e-5f + 3.83197126e-4f) * tt + (t * -3.88396438e-3f + 2.42546219e-2f);
    q = q * t - 1.06777877e-1f;
    q = q * t - 6.34846687e-1f;
    q = q * t - 1.28717512e-1f;
    q = q * t - t;
    const pd_vec large = pd_copysign(1.0f - pd_exp_nonpositive(q), x);
    return pd_where(pd_lt(size, pd_splat(0.927734375f)), small, large);
}

#else /* one element at a time: the reference */

PD_INLINE pd_vec pd_exp(pd_vec x) { return expf(x); }
PD_INLINE pd_vec pd_exp_nonpositive(pd_vec x) { return expf(x); }
PD_INLINE pd_vec pd_expm1(pd_vec x) { return expm1f(x); }
PD_INLINE pd_vec pd_log(pd_vec x) { return logf(x); }
PD_INLINE pd_vec pd_log1p_unit(pd_vec x) { return log1pf(x); }
PD_INLINE pd_vec pd_tanh(pd_vec x) { return tanhf(x); }
PD_INLINE pd_vec pd_erf(pd_vec x) { return erff(x); }

#endif

/* -- rare ones: libm, an element at a time ------------------------------------------------------ */

static inline pd_vec pd_each(pd_vec x, float (*function)(float)) {
    float all[PD_LANES];
    pd_storeu(all, x);
    for (int i = 0; i < PD_LANES; i++) all[i] = function(all[i]);
    return pd_loadu(all);
}

static inline pd_vec pd_sin(pd_vec x) { return pd_each(x, sinf); }
static inline pd_vec pd_cos(pd_vec x) { return pd_each(x, cosf); }

static inline pd_vec pd_pow(pd_vec x, pd_vec y) {
    float all[PD_LANES], by[PD_LANES];
    pd_storeu(all, x);
    pd_storeu(by, y);
    for (int i = 0; i < PD_LANES; i++) all[i] = powf(all[i], by[i]);
    return pd_loadu(all);
}

/* -- activations -------------------------------------------------------------------------------- */

PD_INLINE pd_vec pd_relu(pd_vec x) { return pd_max(x, pd_splat(0)); }

PD_INLINE pd_vec pd_clip(pd_vec x, float low, float high) {
    return pd_min(pd_max(x, pd_splat(low)), pd_splat(high));
}

PD_INLINE pd_vec pd_prelu(pd_vec x, pd_vec slope) {
    return pd_where(pd_lt(x, pd_splat(0)), x * slope, x);
}

PD_INLINE pd_vec pd_leakyrelu(pd_vec x, float alpha) { return pd_prelu(x, pd_splat(alpha)); }

PD_INLINE pd_vec pd_elu(pd_vec x, float alpha) {
    const pd_vec negative = pd_expm1(pd_min(x, pd_splat(0))) * alpha;
    return pd_where(pd_lt(x, pd_splat(0)), negative, x);
}

PD_INLINE pd_vec pd_sigmoid(pd_vec x) { return 1.0f / (pd_exp(-x) + 1.0f); }
PD_INLINE pd_vec pd_silu(pd_vec x) { return x * pd_sigmoid(x); }

PD_INLINE pd_vec pd_hardsigmoid(pd_vec x, float alpha, float beta) {
    return pd_clip(x * alpha + beta, 0, 1);
}

PD_INLINE pd_vec pd_hardswish(pd_vec x) { return x * pd_hardsigmoid(x, 1.0f / 6.0f, 0.5f); }

#if PD_LANES > 1

/* 2^x for x <= 0; what is below 2^-126 may be anything up to it. Within 2 units, for activations. */
PD_INLINE pd_vec pd_exp2_nonpositive(pd_vec x) {
    x = pd_max(x, pd_splat(-126.0f));
    const pd_vec shifted = x + PD_SHIFT;
    const pd_vec n = shifted - PD_SHIFT, f = x - n;
    pd_vec p = f * 1.326472689e-03f + 9.671512910e-03f;
    p = p * f + 5.550733747e-02f;
    p = p * f + 2.402224208e-01f;
    p = p * f + 6.931469776e-01f;
    return pd_scale(p * f + 1.0f, n, pd_bits(shifted) - pd_bits(pd_splat(PD_SHIFT)));
}

/* x * P(x) with the normal distribution's P, as max(x, 0) - |x| * 2^q(|x|): q is a polynomial for
 * log2(P(-t)), fitted so that the result is within 1.2e-8, and within 2.5e-8 of |x|. Half the
 * operations of 1 + erf(x / sqrt(2)), and fewer digits lost. */
PD_INLINE pd_vec pd_gelu(pd_vec x) {
    const pd_vec negative = pd_min(x, pd_splat(0)), positive = pd_max(x, pd_splat(0));
    const pd_vec t = pd_min(pd_abs(x), pd_splat(12.0f));
    pd_vec q = t * -2.1560288560e-6f + 3.1458195735e-5f;
    q = q * t - 1.4977867974e-4f;
    q = q * t - 2.2117356374e-4f;
    q = q * t + 7.1672790347e-3f;
    q = q * t - 5.2562345072e-2f;
    q = q * t - 4.5918902369e-1f;
    q = q * t - 1.1511069778f;
    q = q * t - 1.0f;
    /* 0 * -infinity is NaN, as it is in x * (1 + erf(x / sqrt(2))) */
    return positive - (t * pd_exp2_nonpositive(q) - negative * 0.0f);
}

#else

PD_INLINE pd_vec pd_gelu(pd_vec x) { return x * 0.5f * (pd_erf(x * 0.707106781f) + 1.0f); }

#endif

/* x * (1 + tanh(u)) / 2 is x / (1 + exp(-2 u)) */
PD_INLINE pd_vec pd_gelu_tanh(pd_vec x) {
    const pd_vec twice = x * (x * x * -0.0713548162f - 1.59576912f);
    return x / (pd_exp(twice) + 1.0f);
}

PD_INLINE pd_vec pd_softplus(pd_vec x) {
    return pd_max(x, pd_splat(0)) + pd_log1p_unit(pd_exp(-pd_abs(x)));
}

/* x * tanh(softplus(x)), which is x * n / (n + 2) with e = exp(x), n = e * (e + 2) */
PD_INLINE pd_vec pd_mish(pd_vec x) {
    const pd_vec e = pd_exp(pd_min(x, pd_splat(20.0f)));
    const pd_vec n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

/* -- truth values: 1 and 0 ---------------------------------------------------------------------- */

PD_INLINE pd_vec pd_truth(pd_mask m) { return pd_where(m, pd_splat(1), pd_splat(0)); }
PD_INLINE pd_mask pd_false(pd_vec x) { return pd_eq(x, pd_splat(0)); }
PD_INLINE pd_vec pd_not(pd_vec x) { return pd_truth(pd_false(x)); }
PD_INLINE pd_vec pd_equal(pd_vec a, pd_vec b) { return pd_truth(pd_eq(a, b)); }
PD_INLINE pd_vec pd_less(pd_vec a, pd_vec b) { return pd_truth(pd_lt(a, b)); }
PD_INLINE pd_vec pd_greater(pd_vec a, pd_vec b) { return pd_truth(pd_lt(b, a)); }
PD_INLINE pd_vec pd_lessorequal(pd_vec a, pd_vec b) { return pd_truth(pd_le(a, b)); }
PD_INLINE pd_vec pd_greaterorequal(pd_vec a, pd_vec b) { return pd_truth(pd_le(b, a)); }
PD_INLINE pd_vec pd_and(pd_vec a, pd_vec b) {
    return pd_truth(pd_invert(pd_either(pd_false(a), pd_false(b))));
}
PD_INLINE pd_vec pd_or(pd_vec a, pd_vec b) {
    return pd_truth(pd_either(pd_invert(pd_false(a)), pd_invert(pd_false(b))));
}
PD_INLINE pd_vec pd_choose(pd_vec condition, pd_vec a, pd_vec b) {
    return pd_where(pd_false(condition), b, a);
}

#endif
