/* What every kernel stands on: vectors of float32, the work of one thread, a fair share of it.
 *
 * One source for AVX-512, AVX2, NEON and plain C: the compiler's vector extensions, PD_LANES wide.
 * Define PD_SCALAR to compile everything one element at a time: the reference. */
#ifndef PD_H
#define PD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(PD_SCALAR)
#define PD_LANES 1
#define PD_ISA "scalar"
#elif defined(__AVX512F__)
#include <immintrin.h>
#define PD_LANES 16
#define PD_ISA "avx512"
#elif defined(__AVX2__)
#include <immintrin.h>
#define PD_LANES 8
#define PD_ISA "avx2"
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define PD_LANES 4
#define PD_ISA "neon"
#else
#define PD_LANES 4
#define PD_ISA "generic"
#endif

#define PD_UNIT 16 /* elements: planes start on multiples of it, and so do streams' offsets */
#define PD_INLINE static inline __attribute__((always_inline))

#if PD_LANES > 1
typedef float pd_vec __attribute__((vector_size(PD_LANES * 4), may_alias));
typedef float pd_vec_u __attribute__((vector_size(PD_LANES * 4), aligned(4), may_alias));
typedef int32_t pd_ivec __attribute__((vector_size(PD_LANES * 4), may_alias));
PD_INLINE pd_vec pd_splat(float x) { return x - (pd_vec){0}; }
#else
typedef float pd_vec;
typedef float pd_vec_u;
typedef int32_t pd_ivec;
PD_INLINE pd_vec pd_splat(float x) { return x; }
#endif

PD_INLINE pd_vec pd_load(const float *p) { return *(const pd_vec *)p; }
PD_INLINE pd_vec pd_loadu(const float *p) { return *(const pd_vec_u *)p; }
PD_INLINE void pd_store(float *p, pd_vec v) { *(pd_vec *)p = v; }
PD_INLINE void pd_storeu(float *p, pd_vec v) { *(pd_vec_u *)p = v; }

#if PD_LANES == 16
PD_INLINE pd_vec pd_max(pd_vec a, pd_vec b) { return (pd_vec)_mm512_max_ps((__m512)b, (__m512)a); }
PD_INLINE pd_vec pd_min(pd_vec a, pd_vec b) { return (pd_vec)_mm512_min_ps((__m512)b, (__m512)a); }
#elif PD_LANES == 8
PD_INLINE pd_vec pd_max(pd_vec a, pd_vec b) { return (pd_vec)_mm256_max_ps((__m256)b, (__m256)a); }
PD_INLINE pd_vec pd_min(pd_vec a, pd_vec b) { return (pd_vec)_mm256_min_ps((__m256)b, (__m256)a); }
#elif PD_LANES == 4
PD_INLINE pd_vec pd_max(pd_vec a, pd_vec b) { pd_ivec m = (a > b) | (a != a); return (pd_vec)((m & (pd_ivec)a) | (~m & (pd_ivec)b)); }
PD_INLINE pd_vec pd_min(pd_vec a, pd_vec b) { pd_ivec m = (a < b) | (a != a); return (pd_vec)((m & (pd_ivec)a) | (~m & (pd_ivec)b)); }
#else
PD_INLINE pd_vec pd_max(pd_vec a, pd_vec b) { return a > b || a != a ? a : b; }
PD_INLINE pd_vec pd_min(pd_vec a, pd_vec b) { return a < b || a != a ? a : b; }
#endif

/* Hold a vector in a register: compilers would rather load it again for each use. */
#if PD_LANES >= 8
#define PD_KEEP(v) __asm__("" : "+v"(v))
#elif PD_LANES == 4 && defined(__ARM_NEON)
#define PD_KEEP(v) __asm__("" : "+w"(v))
#else
#define PD_KEEP(v) (void)0
#endif

/* What one thread needs to do its part of a step. */
typedef struct {
    float *arena;                /* planned memory of the session, 64-byte aligned */
    const void *const *inputs;   /* the caller's arrays, C order */
    void *const *outputs;
    const unsigned char *weights; /* all constants of the engine, 64-byte aligned */
    float *scratch;              /* of this thread alone, 64-byte aligned */
    int thread, threads;         /* this thread's number, and how many there are */
    int *error;                  /* set to a pd_error code where a step cannot be computed */
} pd_work;

/* The share [*begin, *end) of this thread in `total` equal pieces. */
PD_INLINE void pd_share(const pd_work *w, int total, int *begin, int *end) {
    *begin = (int)((int64_t)total * w->thread / w->threads);
    *end = (int)((int64_t)total * (w->thread + 1) / w->threads);
}

/* Some lines (rows of pixels, of all images) of some planes. */
typedef struct {
    int line, last_line, plane, last_plane;
} pd_lines;

/* This thread's share of a step that computes every plane for itself, in lines of `width` floats. What
 * another thread wrote has to come from another core's cache, so where planes are large they are cut
 * as in the convolutions around, by pixels; small ones would share cache lines at the cuts. */
PD_INLINE pd_lines pd_share_lines(const pd_work *w, int lines, int width, int planes) {
    pd_lines part = {0, lines, 0, planes};
    const int even = lines % w->threads == 0 || lines >= 8 * w->threads;
    if (planes < w->threads || (even && lines / w->threads * width >= 256))
        pd_share(w, lines, &part.line, &part.last_line);
    else pd_share(w, planes, &part.plane, &part.last_plane);
    return part;
}

#endif
