/* mixed: blocks of PD_ROWS rows from anywhere in the layer, and rows for themselves, in one stream.
 *
 * A template like block.h. A visit of a block is PD_ROWS + 1 records: with PD_BLOCK its `count` of
 * columns, then one record a row; PD_NONE fills up a block of fewer rows. A record without PD_BLOCK
 * in front is a row for itself. A row may be in one block and have scattered non-zeros besides:
 * then it is visited twice in a panel, and the sums of the first are added to those of the second.
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

#define PD_FULL (PD_EIGHTS * 8 / PD_LANES)
#define PD_HALF (PD_EIGHTS * 8 % PD_LANES != 0)

static __attribute__((noinline)) void PD_NAME(
    const pd_visit *visits, uint32_t count, uint32_t first, const void *offsets,
    const float *weights, const float *tile, float *sums, const pd_store_to *to) {
    const uint16_t *offset = (const uint16_t *)offsets;
    const int size = PD_PIECES * PD_EIGHTS * 8;
    const pd_visit *const end = visits + count;
    while (visits < end && visits->flags & PD_BLOCK) {
        const int n = visits->count, shared = visits->flags & PD_SHARED;
        const pd_visit *rows = visits + 1;
#define PD_AT PD_ROWS
#include "visit.h"
#undef PD_AT
        if (!shared) offset += n;
        visits += PD_ROWS + 1;
    }
    for (; visits < end; visits++) {
        const int n = visits->count;
        const pd_visit *rows = visits;
#define PD_AT 1
#include "visit.h"
#undef PD_AT
        offset += n;
    }
}

#undef PD_FULL
#undef PD_HALF
#undef PD_NAME
#undef PD_ROWS
#undef PD_PIECES
#undef PD_RASTER
#undef PD_PITCH
#undef PD_EIGHTS
#undef PD_LOG_UNIT
#undef PD_ACT
