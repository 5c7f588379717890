/* Products of computed matrices: PD_ROWS rows times PD_VECTORS vectors of the result stay in
 * registers. b is copied, a panel of as many columns at a time, so that it is read contiguously;
 * a is read where it lies, or from a copy of its rows where it lies badly.
 *
 * A template: PD_NAME; PD_ROWS, PD_VECTORS; PD_A_ROW and PD_A_STEP, what is between rows of a and
 * between the elements of a row as the kernel reads them; PD_PACKED, whether that is the copy. */
#include "nest.h"

#ifndef PD_MATMUL_H
#define PD_MATMUL_H

typedef struct {
    int rank;                  /* of the loops over products */
    const int *shape;
    const ptrdiff_t *as, *bs, *ys, *cs;
    int rows, columns, depth;
    int block, blocks;         /* rows that one item computes, a multiple of PD_ROWS */
    ptrdiff_t a_row, a_step, b_step, b_column, y_row, y_column, c_row, c_column;
    float alpha;
} pd_matmul;

/* to[k * pitch + j] = from[k * step + j * column], zeros from `count` to `pitch`. */
PD_INLINE void pd_pack_side(float *to, const float *from, ptrdiff_t step, ptrdiff_t column,
                            int depth, int count, int pitch) {
    if (column == 1) {
        for (int k = 0; k < depth; k++, to += pitch, from += step) {
            int j = 0;
            for (; j + PD_LANES <= count; j += PD_LANES) pd_storeu(to + j, pd_loadu(from + j));
            if (j < count) pd_store_n(to + j, pd_load_n(from + j, count - j, 0), count - j);
            for (j = count; j < pitch; j++) to[j] = 0;
        }
        return;
    }
    if (count < pitch) memset(to, 0, sizeof(float) * (size_t)depth * (size_t)pitch);
    if (step != 1) {
        for (int k = 0; k < depth; k++)
            for (int j = 0; j < count; j++) to[k * pitch + j] = from[k * step + j * column];
        return;
    }
    for (int k = 0; k < depth; k += PD_LANES) {
        const int high = depth - k < PD_LANES ? depth - k : PD_LANES;
        for (int j = 0; j < count; j += PD_LANES) {
            const int wide = count - j < PD_LANES ? count - j : PD_LANES;
            pd_transpose_tile(to + k * pitch + j, pitch, from + k + j * column, column, high, wide);
        }
    }
}

/* What one vector of the result becomes. */
PD_INLINE void pd_product_store(float *y, ptrdiff_t step, pd_vec v, const float *c,
                                ptrdiff_t c_step, int count) {
    if (c) {
        if (c_step == 0) v += pd_splat(*c);
        else if (c_step == 1) v += pd_take(c, count);
        else v += pd_gather(c, c_step, count < PD_LANES ? count : PD_LANES);
    }
    if (step == 1) pd_give(y, v, count);
    else pd_scatter(y, step, v, count < PD_LANES ? count : PD_LANES);
}
#endif

static __attribute__((noinline)) void PD_NAME(const pd_work *w, const pd_matmul *p, const float *a,
                                              const float *b, float *y, const float *c) {
    enum { WIDE = PD_VECTORS * PD_LANES };
    float *const panel = w->scratch, *const copy = panel + (ptrdiff_t)p->depth * WIDE;
    int begin, end;
    (void)copy;
    pd_share(w, pd_items(p->rank, p->shape) * p->blocks, &begin, &end);
    for (int item = begin; item < end; item++) {
        const int product = item / p->blocks, top = item % p->blocks * p->block;
        const int bottom = p->rows - top < p->block ? p->rows : top + p->block;
        const float *from_a = a + pd_at(product, p->rank, p->shape, p->as);
        const float *from_b = b + pd_at(product, p->rank, p->shape, p->bs);
        float *to = y + pd_at(product, p->rank, p->shape, p->ys);
        const float *add = c ? c + pd_at(product, p->rank, p->shape, p->cs) : 0;
#if PD_PACKED
        for (int tile = top; tile < bottom; tile += PD_ROWS) {
            const int row = tile + PD_ROWS > p->rows ? p->rows - PD_ROWS : tile;
            pd_pack_side(copy + (ptrdiff_t)(tile - top) * p->depth, from_a + row * p->a_row,
                         p->a_step, p->a_row, p->depth, PD_ROWS, PD_ROWS);
        }
#endif
        for (int column = 0; column < p->columns; column += WIDE) {
            const int wide = p->columns - column < WIDE ? p->columns - column : WIDE;
            pd_pack_side(panel, from_b + column * p->b_column, p->b_step, p->b_column, p->depth,
                         wide, WIDE);
            for (int tile = top; tile < bottom; tile += PD_ROWS) {
                /* the last rows are computed with some before them, which are there already */
                const int row = tile + PD_ROWS > p->rows ? p->rows - PD_ROWS : tile;
#if PD_PACKED
                const float *left = copy + (ptrdiff_t)(tile - top) * p->depth;
#else
                const float *left = from_a + (ptrdiff_t)row * PD_A_ROW;
#endif
                const float *right = panel;
                pd_vec sum[PD_ROWS][PD_VECTORS];
#pragma GCC unroll 16
                for (int r = 0; r < PD_ROWS; r++)
#pragma GCC unroll 4
                    for (int v = 0; v < PD_VECTORS; v++) sum[r][v] = pd_splat(0);
                for (int k = 0; k < p->depth; k++, left += PD_A_STEP, right += WIDE) {
                    pd_vec x[PD_VECTORS];
#pragma GCC unroll 4
                    for (int v = 0; v < PD_VECTORS; v++) x[v] = pd_loadu(right + v * PD_LANES);
#pragma GCC unroll 16
                    for (int r = 0; r < PD_ROWS; r++) {
                        const pd_vec by = pd_splat(left[(ptrdiff_t)r * PD_A_ROW]);
#pragma GCC unroll 4
                        for (int v = 0; v < PD_VECTORS; v++) sum[r][v] += by * x[v];
                    }
                }
#pragma GCC unroll 16
                for (int r = 0; r < PD_ROWS; r++) {
                    if (row + r < tile) continue;
                    float *out = to + (row + r) * p->y_row + column * p->y_column;
                    const float *with = add ? add + (row + r) * p->c_row + column * p->c_column : 0;
#pragma GCC unroll 4
                    for (int v = 0; v < PD_VECTORS; v++) {
                        const int at = v * PD_LANES;
                        if (at >= wide) break;
                        pd_product_store(out + at * p->y_column, p->y_column, sum[r][v] * p->alpha,
                                         with ? with + at * p->c_column : 0, p->c_column,
                                         wide - at);
                    }
                }
            }
        }
    }
}

#undef PD_NAME
#undef PD_ROWS
#undef PD_VECTORS
#undef PD_A_ROW
#undef PD_A_STEP
#undef PD_PACKED
