/* The end of a row: add the residual, apply the activation, store. Included by the kernels, inside
 * the function: `row`, the sums a[piece][vector] and b[piece], `to`.
 *
 * Where pieces follow each other a vector may reach beyond its own: what it overwrites is the next
 * one's, stored after it. The last is stored exactly, for behind it lies another thread's tile. */
{
    float *y = to->y + row * to->y_stride;
    const float *other = to->residual ? to->residual + row * to->residual_stride : 0;
    const pd_vec low = pd_splat(to->low), high = pd_splat(to->high);
    (void)low, (void)high; /* PD_ACT needs neither */
#pragma GCC unroll 32
    for (int r = 0; r < PD_PIECES; r++) {
        if (r >= to->pieces) break;
        const int at = r * to->pitch;
        const int room = to->spill ? (to->pieces - r) * to->width : to->width;
#pragma GCC unroll 32
        for (int v = 0; v < PD_FULL; v++) {
            const int left = to->width - v * PD_LANES;
            if (left <= 0) break;
            pd_vec s = a[r][v];
            if (other) s += pd_loadu(other + at + v * PD_LANES);
#ifdef PD_ACT
            s = PD_ACT(s);
#else
            s = pd_min(pd_max(s, low), high);
#endif
            if (room - v * PD_LANES >= PD_LANES) pd_storeu(y + at + v * PD_LANES, s);
            else pd_store_part(y + at + v * PD_LANES, s, left < PD_LANES ? left : PD_LANES);
        }
#if PD_LANES == 16
        const int left = to->width - PD_FULL * PD_LANES;
        if (PD_HALF && left > 0) {
            const int place = at + PD_FULL * PD_LANES;
            pd_vec s = (pd_vec)_mm512_castps256_ps512((__m256)b[r]);
            if (other)
                s += (pd_vec)_mm512_castps256_ps512(
                    (__m256)pd_half_load(other + place));
#ifdef PD_ACT
            s = PD_ACT(s);
#else
            s = pd_min(pd_max(s, low), high);
#endif
            if (room - PD_FULL * PD_LANES >= 8)
                pd_half_store(y + place, (pd_half)_mm512_castps512_ps256((__m512)s));
            else pd_store_part(y + place, s, left < 8 ? left : 8);
        }
#endif
    }
}
