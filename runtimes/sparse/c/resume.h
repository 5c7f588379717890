/* What a row's earlier visits came to, added to the sums a[piece][vector] and b[piece] from `sum`.
 * Included by the kernels, inside the function, before keep.h or finish.h. Every visit begins its sums
 * anew: short sums have smaller errors, and nothing waits for what was kept. */
#pragma GCC unroll 32
for (int r = 0; r < PD_PIECES; r++) {
#pragma GCC unroll 32
    for (int v = 0; v < PD_FULL; v++) a[r][v] += pd_loadu(sum + r * PD_EIGHTS * 8 + v * PD_LANES);
    if (PD_HALF) b[r] += pd_half_load(sum + r * PD_EIGHTS * 8 + PD_FULL * PD_LANES);
}
