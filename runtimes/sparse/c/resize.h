/* Interpolation: two rows into one of scratch, then its columns, each from two of it. */
#ifndef PD_RESIZE_H
#define PD_RESIZE_H

#include "nest.h"

typedef struct {
    int images, channels, width, out_height, out_width;
    int nearest;               /* no column has a second source */
    ptrdiff_t x_image, x_channel, x_row, y_image, y_channel, y_row;
    const int32_t *row, *column;              /* the first source of each, then the second */
    const float *row_weight, *column_weight;  /* of the second; 0: it is not read */
} pd_resize;

PD_INLINE void pd_resize_mix(float *to, const float *a, const float *b, float weight, int width) {
    const pd_vec far = pd_splat(weight), near = pd_splat(1.0f - weight);
    for (int j = 0; j < width; j += PD_LANES) {
        const pd_vec v = pd_take(a + j, width - j) * near + pd_take(b + j, width - j) * far;
        pd_give(to + j, v, width - j);
    }
}

static inline void pd_resize_planes(const pd_work *w, const pd_resize *r, const float *x,
                                    float *y) {
    const int32_t *first = r->column, *second = r->column + r->out_width;
    int begin, end;
    pd_share(w, r->images * r->channels * r->out_height, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int i = item % r->out_height, plane = item / r->out_height;
        const int image = plane % r->images, channel = plane / r->images;
        const float *from = x + channel * r->x_channel + image * r->x_image;
        float *to = y + channel * r->y_channel + image * r->y_image + i * r->y_row;
        const float *row = from + r->row[i] * r->x_row;
        if (r->row_weight[i] != 0) {
            pd_resize_mix(w->scratch, row, from + r->row[i + r->out_height] * r->x_row,
                          r->row_weight[i], r->width);
            row = w->scratch;
        }
        if (r->nearest) {
            for (int j = 0; j < r->out_width; j++) to[j] = row[first[j]];
            continue;
        }
        for (int j = 0; j < r->out_width; j++) {
            const float weight = r->column_weight[j], near = row[first[j]];
            const float mixed = near * (1.0f - weight) + row[second[j]] * weight;
            to[j] = weight == 0 ? near : mixed;
        }
    }
}

#endif
