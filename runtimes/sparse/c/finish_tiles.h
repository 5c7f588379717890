/* The end of row `first + m` of winograd2d.h, included by it inside the function: add the residual,
 * apply the activation, store; strip by strip, and nothing but the pixels there are. */
{
    float *const plane = y + (first + m) * c->y_stride;
    const float *const other = residual ? residual + (first + m) * c->residual_stride : 0;
    for (int r = 0; r < count; r++) {
        const pd_strip *strip = &strips[r];
        const int column = strip->column * PD_OUTPUTS, all = strip->count * PD_OUTPUTS;
        const int length = c->out_width - column < all ? c->out_width - column : all;
        for (int a = 0; a < PD_OUTPUTS; a++) {
            const int row = strip->row * PD_OUTPUTS + a;
            if (row >= c->out_height) break;
            const int64_t line = (int64_t)strip->image * c->out_height + row;
            const int64_t at = (line * c->out_width + column) * c->beside;
            const float *const in = pixels + (a * PD_TILES + strip->lane) * PD_OUTPUTS;
            if (c->beside == 1) {
                for (int i = 0; i < length; i += PD_LANES) {
                    pd_vec s = pd_loadu(in + i);
                    if (other) s += pd_take(other + at + i, length - i);
                    pd_give(plane + at + i, PD_END(s), length - i);
                }
                continue;
            }
            for (int i = 0; i < c->beside; i += PD_LANES)
                for (int b = 0; b < length; b++) {
                    const int64_t place = at + b * c->beside + i;
                    pd_vec s = pd_loadu(in + i * PD_OUTPUTS + b * PD_LANES);
                    if (other) s += pd_loadu(other + place);
                    pd_storeu(plane + place, PD_END(s));
                }
        }
    }
}
