/* Layers on bytes: sums of products of four columns at a time, int32 and so exact in any order.
 *
 * A tile is 64 pixels. The columns that some rows multiply are packed four by four, each pixel's
 * four bytes side by side; then every row of the group runs through its entries, a quadruple and
 * four signed weights each. */
#ifndef PD_INT8_H
#define PD_INT8_H

#include "pd.h"

enum { PD_TILE8 = 64, PD_GROUP8 = 28 };

/* Some rows of a layer, and one panel of quadruples of columns. Addresses are bytes into the constants. */
typedef struct {
    int32_t first, rows, quads, unused;
    uint64_t offset, tap, count, quad, weight;
} pd_int8_part;

/* A layer. `tiles` and `pixels` are those of an image; where there are masks all images are one. */
typedef struct {
    int32_t groups, panels, images, tiles, pixels, taps;
    uint64_t x_image, y_image, y_stride, residual_image, residual_stride;
    uint64_t part, mask, bias, scale, shift;
    float low, high;
    int32_t zero, to_bytes;
    uint8_t fill;
} pd_int8;

/* Where a row's results go. */
typedef struct {
    uint8_t *bytes;
    float *numbers;
    const float *residual;
    float scale, shift;
} pd_int8_to;

/* One of a tile's panels: what it is packed from and to. */
typedef struct {
    const pd_int8 *c;
    const unsigned char *weights;
    const uint8_t *x;
    const uint64_t *mask;
    uint8_t *packed;
    int32_t *sums;
    int count; /* pixels */
} pd_int8_tile;

PD_INLINE float pd_clamp8(const pd_int8 *c, float v) {
    v = v > c->low ? v : c->low;
    return v < c->high ? v : c->high;
}

#if PD_LANES == 16
#define PD_NAME8(name) name##_vnni
#define PD_VNNI 1
#define PD_TARGET8 __attribute__((target("avx512vnni")))
#include "int8_avx512.inc"
#define PD_NAME8(name) name##_wide
#define PD_VNNI 0
#define PD_TARGET8
#include "int8_avx512.inc"
#endif

/* Four columns side by side. */
static __attribute__((noinline, unused)) void pd_int8_pack_plain(const pd_int8_tile *t, const pd_int8_part *p) {
    const int32_t *offset = (const int32_t *)(t->weights + p->offset);
    const uint8_t *tap = t->weights + p->tap;
    for (int q = 0; q < p->quads; q++) {
        uint8_t *to = t->packed + q * 4 * PD_TILE8;
        for (int k = 0; k < 4; k++) {
            const uint8_t *from = t->x + offset[4 * q + k];
            const uint64_t mask = t->mask ? t->mask[tap[4 * q + k]] : ~(uint64_t)0;
            for (int i = 0; i < t->count; i++) to[4 * i + k] = mask >> i & 1 ? from[i] : t->c->fill;
            for (int i = t->count; i < PD_TILE8; i++) to[4 * i + k] = 0;
        }
    }
}

static __attribute__((noinline, unused)) void pd_int8_store_plain(const pd_int8_tile *t, const pd_int8_to *to, const int32_t *sums) {
    for (int i = 0; i < t->count; i++) {
        float v = fmaf((float)sums[i], to->scale, to->shift);
        if (to->residual) v += to->residual[i];
        v = pd_clamp8(t->c, v);
        if (to->bytes) to->bytes[i] = (uint8_t)((int)rintf(v) + t->c->zero);
        else to->numbers[i] = v;
    }
}

static __attribute__((noinline, unused)) void pd_int8_rows_plain(const pd_int8_tile *t, const pd_int8_part *p, const pd_int8_to *to, int first,
                               int last) {
    const int32_t *count = (const int32_t *)(t->weights + p->count);
    const int32_t *bias = (const int32_t *)(t->weights + t->c->bias) + p->first;
    const uint16_t *quad = (const uint16_t *)(t->weights + p->quad);
    const int8_t *weight = (const int8_t *)(t->weights + p->weight);
    for (int r = 0; r < p->rows; r++) {
        uint32_t sums[PD_TILE8]; /* they wrap around, as those of the vector instructions do */
        int32_t *held = t->sums + r * PD_TILE8;
        if (first) for (int i = 0; i < PD_TILE8; i++) sums[i] = (uint32_t)bias[r];
        else memcpy(sums, held, sizeof sums);
        for (int e = 0; e < count[r]; e++, quad++, weight += 4) {
            const uint8_t *x = t->packed + *quad * 4 * PD_TILE8;
            for (int i = 0; i < PD_TILE8; i++)
                sums[i] += (uint32_t)(x[4 * i] * weight[0] + x[4 * i + 1] * weight[1] +
                                      x[4 * i + 2] * weight[2] + x[4 * i + 3] * weight[3]);
        }
        memcpy(held, sums, sizeof sums);
        if (last) pd_int8_store_plain(t, &to[r], held);
    }
}

typedef void (*pd_int8_pack)(const pd_int8_tile *t, const pd_int8_part *p);
typedef void (*pd_int8_rows)(const pd_int8_tile *t, const pd_int8_part *p, const pd_int8_to *to, int first,
                             int last);

/* Where the rows of a group go, for a tile that begins at `pixel` of image `image`. */
static void pd_int8_targets(const pd_work *w, const pd_int8 *c, const pd_int8_part *p, void *y,
                            const float *residual, int image, int pixel, pd_int8_to *to) {
    const float *scale = (const float *)(w->weights + c->scale), *shift = (const float *)(w->weights + c->shift);
    for (int r = 0; r < p->rows; r++) {
        const uint64_t row = p->first + r, at = row * c->y_stride + image * c->y_image + pixel;
        to[r].bytes = c->to_bytes ? (uint8_t *)y + at : 0;
        to[r].numbers = c->to_bytes ? 0 : (float *)y + at;
        to[r].residual =
            residual ? residual + row * c->residual_stride + image * c->residual_image + pixel : 0;
        to[r].scale = scale[row], to[r].shift = shift[row];
    }
}

/* This thread's share of a layer. Scratch: the packed panel, then the sums of a group's rows. */
static __attribute__((noinline, unused)) void pd_int8_run(const pd_work *w, const pd_int8 *c, const uint8_t *x, void *y, const float *residual,
                        int panel) {
    const pd_int8_part *parts = (const pd_int8_part *)(w->weights + c->part);
    pd_int8_to to[PD_GROUP8];
    pd_int8_pack pack = pd_int8_pack_plain;
    pd_int8_rows rows = pd_int8_rows_plain;
    int begin, end;
#if PD_LANES == 16
    const int vnni = __builtin_cpu_supports("avx512vnni");
    pack = vnni ? pd_int8_pack_vnni : pd_int8_pack_wide;
    rows = vnni ? pd_int8_rows_vnni : pd_int8_rows_wide;
#endif
    pd_share(w, c->images * c->tiles * c->groups, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int group = item % c->groups, tile = item / c->groups % c->tiles;
        const int image = item / c->groups / c->tiles, pixel = tile * PD_TILE8;
        const pd_int8_tile t = {
            .c = c, .weights = w->weights, .x = x + image * c->x_image + pixel,
            .mask = c->taps ? (const uint64_t *)(w->weights + c->mask) + (uint64_t)tile * c->taps : 0,
            .packed = (uint8_t *)w->scratch, .sums = (int32_t *)w->scratch + (uint64_t)panel * PD_TILE8,
            .count = c->pixels - pixel < PD_TILE8 ? c->pixels - pixel : PD_TILE8};
        const pd_int8_part *p = parts + group * c->panels;
        pd_int8_targets(w, c, p, y, residual, image, pixel, to);
        for (int n = 0; n < c->panels; n++) {
            pack(&t, p + n);
            rows(&t, p + n, to, n == 0, n == c->panels - 1);
        }
    }
}

#endif
