"""Layers of few zeros: a loop over input channels, with the weights of 16 rows side by side.

Weights lie in memory as [row block, tap, channel, row of the block], so that a thread reads those
of one input value as four vectors, the same ones as all threads of its block.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.epilogue import epilogue_of, instructions
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.gpu.window import pixel, skip_outside, thread_number, window_of
from prunedeploy.runtimes.sparse.plan.steps import Conv

ROWS = 16
MAX_BLOCK = 128


def emit(step: Conv, name: str, constants: Constants) -> Kernel:
    """The kernel of any convolution, zeros computed as all other weights."""
    window = window_of(step)
    rows, depth, height, width = step.weight.shape
    taps, each = height * width, rows // step.groups
    per_group = -(-each // ROWS)
    block = min(MAX_BLOCK, -(-window.pixels // 32) * 32)
    views = (step.x, step.y) if step.residual is None else (step.x, step.y, step.residual)
    packed = _packed(step, per_group)
    entry = Entry(name, len(views) + 1, block)
    done = entry.label()
    number = thread_number(entry, window.pixels, done)
    where = pixel(entry, window, number)
    chosen, group, within, first = entry.registers("u32", 4)
    entry.add(
        f"mov.u32 {chosen}, %ctaid.y",
        f"div.u32 {group}, {chosen}, {per_group}",
        f"mad.lo.s32 {within}, {group}, {-per_group}, {chosen}",
        f"mul.lo.u32 {within}, {within}, {ROWS}",
        f"mad.lo.u32 {first}, {group}, {each}, {within}",
    )
    pointers = []
    starts = (
        (group, 4 * depth * step.x.strides[1]),
        *((first, 4 * v.strides[1]) for v in views[1:]),
    )
    for index, (plane, size) in enumerate(starts):
        begin, wide = entry.registers("u64", 2)
        entry.add(f"mul.wide.u32 {wide}, {plane}, {size}")
        entry.add(f"add.u64 {begin}, {entry.pointer(index)}, {wide}")
        element = number if index else where.index
        pointers.append(entry.shifted(begin, element, signed=not index))
    weights, wide = entry.pointer(len(views)), entry.register("u64")
    stored = 4 * ROWS * (taps * depth + 1)
    entry.add(f"mul.wide.u32 {wide}, {chosen}, {stored}", f"add.u64 {weights}, {weights}, {wide}")
    accumulators = entry.registers("f32", ROWS)
    quads = [accumulators[index : index + 4] for index in range(0, ROWS, 4)]
    for index, quad in enumerate(quads):  # the bias comes first
        entry.add(f"ld.global.nc.v4.f32 {{{', '.join(quad)}}}, [{weights}+{16 * index}]")
    x, w = entry.registers("u64", 2)
    for index, tap in enumerate(window.taps()):
        end = entry.label()
        skip_outside(entry, window, where, tap, end)
        entry.add(
            f"add.s64 {x}, {pointers[0]}, {4 * tap.offset}",
            f"add.s64 {w}, {weights}, {4 * ROWS * (1 + index * depth)}",
        )
        _loop(entry, x, w, accumulators, depth, step.x.strides[1])
        entry.mark(end)
    finish = epilogue_of(entry, step, pointers[1], pointers[2] if len(pointers) > 2 else None)
    for row, total in enumerate(accumulators):
        if each % ROWS and row:  # the last block of a group has fewer rows
            number_, outside = entry.register("u32"), entry.register("pred")
            entry.add(f"add.u32 {number_}, {within}, {row}")
            entry.add(f"setp.ge.u32 {outside}, {number_}, {each}", f"@{outside} bra {done}")
        finish.store(row, total)
    entry.mark(done)
    blocks, programs = -(-window.pixels // block), step.groups * per_group
    padded = -(-window.pixels // 32) * 32 * programs
    length = taps * depth * (ROWS + ROWS // 4 + 5) + ROWS * instructions(step) + 4 * taps
    cost = Cost(
        fma=taps * depth * rows * window.pixels,
        instructions=length * padded,
        l1=4 * taps * depth * (1 + ROWS // 4) * padded,
        moved=4 * (sum(view.size for view in views) + packed.size),
        code=len(entry.lines),
        longest=length,
        fetched=len(entry.lines) * blocks * programs,
        waits=1 + taps * depth // _unroll(depth),
    )
    arguments = (*views, constants.add(packed))
    choice = f"{ROWS} rows, {block} pixels"
    grid = (blocks, programs)
    return Kernel(name, step.name, "looped", choice, entry.text(), grid, block, arguments, cost)


def _packed(step: Conv, per_group: int) -> Array:
    """Bias and weights of each block of rows, with rows of zeros where a group has no more."""
    rows, depth, height, width = step.weight.shape
    each = rows // step.groups
    shape = (step.groups, per_group * ROWS, 1 + height * width * depth)
    whole = np.zeros(shape, np.float32)
    weight = step.weight.reshape(rows, depth, height * width).transpose(0, 2, 1)
    whole[:, :each, 0] = step.bias.reshape(step.groups, each)
    whole[:, :each, 1:] = weight.reshape(step.groups, each, -1)
    blocks = whole.reshape(step.groups, per_group, ROWS, -1).transpose(0, 1, 3, 2)
    packed: Array = np.ascontiguousarray(blocks)
    return packed


def _unroll(depth: int) -> int:
    """Input channels in one turn of the loop."""
    return next(count for count in (4, 2, 1) if depth % count == 0)


def _loop(entry: Entry, x: str, w: str, accumulators: list[str], depth: int, stride: int) -> None:
    """Over the input channels of a tap; ``x`` and ``w`` are moved."""
    left, again, begin = entry.register("u32"), entry.register("pred"), entry.label()
    count = _unroll(depth)
    values, weights = (
        entry.registers("f32", count),
        entry.registers("f32", count * len(accumulators)),
    )
    entry.add(f"mov.u32 {left}, {depth // count}")
    entry.mark(begin)
    for index, value in enumerate(values):
        entry.add(f"ld.global.nc.f32 {value}, [{x}+{4 * index * stride}]")
    for index in range(0, len(weights), 4):
        quad = ", ".join(weights[index : index + 4])
        entry.add(f"ld.global.nc.v4.f32 {{{quad}}}, [{w}+{4 * index}]")
    for index, weight in enumerate(weights):
        total, value = accumulators[index % len(accumulators)], values[index // len(accumulators)]
        entry.add(f"fma.rn.f32 {total}, {value}, {weight}, {total}")
    entry.add(
        f"add.s64 {x}, {x}, {4 * count * stride}",
        f"add.s64 {w}, {w}, {4 * len(weights)}",
        f"sub.u32 {left}, {left}, 1",
        f"setp.ne.u32 {again}, {left}, 0",
        f"@{again} bra {begin}",
    )
