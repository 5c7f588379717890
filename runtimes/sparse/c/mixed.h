/* mixed: blocks of PD_ROWS rows from anywhere in the layer, and rows for themselves, in one stream.
 *
 * A template like block.h. The segment of a block is PD_ROWS + 1 records: with PD_BLOCK its `count` of
 * columns, then one record a row; PD_NONE fills up a block of fewer rows. A record without PD_BLOCK
 * in front is a row for itself. A row may be in one block and have scattered non-zeros besides:
 * then it has two segments in a panel, and the sums of the first are added to those of the second.
 *
 * `row` of a record holds the row in its lower half; in its upper half the row's place in the
 * order of the stream, where its sums lie. */
#include "conv.h"

#ifndef PD_MIXED_H
#define PD_MIXED_H
enum { PD_BLOCK = 8, PD_NONE = 16 };
#define PD_ROW(record) ((record).row & 0xffff)
#define PD_SLOT(record) ((record).row >> 16)
#endif

#define PD_FULL (PD_TILE_WIDTH_X8 * 8 / PD_LANES)
#define PD_HALF (PD_TILE_WIDTH_X8 * 8 % PD_LANES != 0)

static __attribute__((noinline)) void PD_NAME(
    const pd_row_segment *segments, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *accumulators, const pd_store_to *to) {
    const uint16_t *offset = (const uint16_t *)offsets;
    const int size = PD_TILE_ROWS * PD_TILE_WIDTH_X8 * 8;
    const pd_row_segment *const end = segments + count;
    while (segments < end && segments->flags & PD_BLOCK) {
        const int n = segments->count, shared = segments->flags & PD_SHARED;
        const pd_row_segment *rows = segments + 1;
#define PD_AT PD_ROWS
#include "row_segment.inc"
#undef PD_AT
        if (!shared) offset += n;
        segments += PD_ROWS + 1;
    }
    for (; segments < end; segments++) {
        const int n = segments->count;
        const pd_row_segment *rows = segments;
#define PD_AT 1
#include "row_segment.inc"
#undef PD_AT
        offset += n;
    }
}

#undef PD_FULL
#undef PD_HALF
#undef PD_NAME
#undef PD_ROWS
#undef PD_TILE_ROWS
#undef PD_SHARED_BORDER
#undef PD_PITCH
#undef PD_TILE_WIDTH_X8
#undef PD_LOG_UNIT
#undef PD_ACT
