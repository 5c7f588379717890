/* Max and average over windows where images lie side by side: every pixel is `images` elements, a
 * multiple of the vector, and windows are joined vector by vector. */
#ifndef PD_POOL_BLOCKS_H
#define PD_POOL_BLOCKS_H

#include "pool.h"

typedef struct {
    int images, channels, height, width, out_height, out_width;
    int kernel_height, kernel_width, row_step, column_step, row_dilation, column_dilation;
    int top, left;
    ptrdiff_t x_channel, y_channel;
    const float *row_counts, *column_counts; /* average: elements in a window are their product */
} pd_pool_blocks;

/* The taps [*first, *last) of a window that lie in the input. */
PD_INLINE void pd_pool_taps(int at, int dilation, int taps, int size, int *first, int *last) {
    *first = at < 0 ? (-at + dilation - 1) / dilation : 0;
    *last = at < size ? (size - at + dilation - 1) / dilation : 0;
    if (*last > taps) *last = taps;
}

static void pd_pool_blocks_run(const pd_work *w, const pd_pool_blocks *p, const float *x, float *y,
                               int max) {
    const pd_lines part = pd_share_lines(w, p->out_height, p->out_width * p->images, p->channels);
    const int lines = part.last_line - part.line;
    for (int item = lines * part.plane; item < lines * part.last_plane; item++) {
        const int channel = item / lines, i = part.line + item % lines;
        const float *plane = x + channel * p->x_channel;
        float *to = y + channel * p->y_channel + (ptrdiff_t)i * p->out_width * p->images;
        int above, below, left, right;
        const int row = i * p->row_step - p->top;
        pd_pool_taps(row, p->row_dilation, p->kernel_height, p->height, &above, &below);
        for (int j = 0; j < p->out_width; j++, to += p->images) {
            const int column = j * p->column_step - p->left;
            pd_pool_taps(column, p->column_dilation, p->kernel_width, p->width, &left, &right);
            for (int v = 0; v < p->images; v += PD_LANES) {
                pd_vec sum = pd_splat(max ? -__builtin_inff() : 0);
                for (int r = above; r < below; r++) {
                    const float *from = plane + v
                        + ((ptrdiff_t)(row + r * p->row_dilation) * p->width + column)
                            * p->images;
                    for (int k = left; k < right; k++)
                        sum = pd_pool_join(
                            sum, pd_loadu(from + k * p->column_dilation * p->images), max);
                }
                if (!max) sum /= pd_splat(p->row_counts[i] * p->column_counts[j]);
                pd_storeu(to + v, sum);
            }
        }
    }
}

#endif
