/* The end of a row like finish.h, of a tile that is one run of an image's rows: PD_RASTER pixels, then
 * the border up to the next row, PD_PITCH elements behind. The result has no border. */
{
    float *y = to->y + row * to->y_stride;
    const float *other = to->residual ? to->residual + row * to->residual_stride : 0;
    const pd_vec low = pd_splat(to->low), high = pd_splat(to->high);
    (void)low, (void)high; /* PD_ACT needs neither */
    int left = to->pieces * PD_RASTER;
#if PD_LANES == 16
#pragma GCC unroll 32
    for (int v = 0; v < PD_FULL + PD_HALF; v++) {
        const uint32_t inside = pd_raster_inside(v * PD_LANES, PD_PITCH, PD_RASTER)
            & (v < PD_FULL ? 0xffffu : 0xffu);
        if (left <= 0) break;
        const __m512 all = v < PD_FULL ? (__m512)a[0][v] : _mm512_castps256_ps512((__m256)b[0]);
        pd_vec s = (pd_vec)_mm512_maskz_compress_ps((__mmask16)inside, all);
        const int count = __builtin_popcount(inside) < left ? __builtin_popcount(inside) : left;
        if (other) s += pd_loadu(other);
#else
    float run[PD_EIGHTS * 8], line[PD_EIGHTS * 8 + PD_LANES];
    for (int v = 0; v < PD_FULL; v++) pd_storeu(run + v * PD_LANES, a[0][v]);
    for (int i = 0; i < left; i++) line[i] = run[i / PD_RASTER * PD_PITCH + i % PD_RASTER];
    for (int i = 0; left > 0; i += PD_LANES) {
        const int count = left < PD_LANES ? left : PD_LANES;
        pd_vec s = pd_loadu(line + i);
        if (other) s += pd_loadu(other);
#endif
#ifdef PD_ACT
        s = PD_ACT(s);
#else
        s = pd_min(pd_max(s, low), high);
#endif
        pd_store_part(y, s, count);
        y += count, left -= count;
        if (other) other += count;
    }
}
