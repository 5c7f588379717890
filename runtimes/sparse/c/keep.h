/* The sums of a row that goes on in another visit: a[piece][vector] and b[piece] to `sum`. Included by
 * the kernels, inside the function, as finish.h is. */
#pragma GCC unroll 32
for (int r = 0; r < PD_PIECES; r++) {
#pragma GCC unroll 32
    for (int v = 0; v < PD_FULL; v++) pd_storeu(sum + r * PD_EIGHTS * 8 + v * PD_LANES, a[r][v]);
    if (PD_HALF) pd_half_store(sum + r * PD_EIGHTS * 8 + PD_FULL * PD_LANES, b[r]);
}
