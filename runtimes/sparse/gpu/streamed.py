"""Linear layers on 1 to 8 vectors: a warp a row, whose non-zeros stream out of memory.

A lane takes four non-zeros at once, their weights and the numbers of their columns, from where they
lie side by side; the last four of a row are filled up with zeros on a column that it has.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.epilogue import epilogue_of, instructions
from prunedeploy.runtimes.sparse.gpu.launch import Cost, Kernel
from prunedeploy.runtimes.sparse.gpu.ptx import Entry
from prunedeploy.runtimes.sparse.gpu.window import window_of
from prunedeploy.runtimes.sparse.plan.steps import Conv

MAX_PIXELS = 8
WARPS = 4
BLOCK = 32 * WARPS
SHORT = 1 << 16  # columns that 16 bits can number


def fits(step: Conv) -> bool:
    """Whether ``step`` multiplies a matrix by at most ``MAX_PIXELS`` vectors."""
    window = window_of(step)
    return window.direct and step.groups == 1 and window.pixels <= MAX_PIXELS


def emit(step: Conv, name: str, constants: Constants) -> Kernel:
    """The kernel of a layer that ``fits``."""
    pixels, rows = window_of(step).pixels, step.weight.shape[0]
    views = (step.x, step.y) if step.residual is None else (step.x, step.y, step.residual)
    begins, columns, values = _packed(step)
    tables = [constants.add(array) for array in (begins, columns, values, step.bias)]
    entry = Entry(name, len(views) + len(tables), BLOCK)
    thread, block, warp, lane, row = entry.registers("u32", 5)
    beyond = entry.register("pred")
    entry.add(
        f"mov.u32 {thread}, %tid.x",
        f"mov.u32 {block}, %ctaid.x",
        f"shr.u32 {warp}, {thread}, 5",
        f"and.b32 {lane}, {thread}, 31",
        f"mad.lo.u32 {row}, {block}, {WARPS}, {warp}",
        f"setp.ge.u32 {beyond}, {row}, {rows}",
        f"min.u32 {row}, {row}, {rows - 1}",  # all threads have to reach the barriers
    )
    accumulators = entry.registers("f32", pixels)
    for total in accumulators:
        entry.add(f"mov.f32 {total}, 0f00000000")
    _stream(entry, step, accumulators, row, lane, len(views), columns.dtype == np.uint16)
    own = _reduce(entry, accumulators, thread, lane)
    done = entry.label()
    idle = entry.register("pred")
    entry.add(f"@{beyond} bra {done}", f"setp.ne.u32 {idle}, {lane}, 0", f"@{idle} bra {done}")
    bias = entry.register("f32")
    entry.add(f"ld.global.nc.f32 {bias}, [{entry.shifted(entry.pointer(len(views) + 3), row)}]")
    pointers = []
    for index, view in enumerate(views[1:], 1):
        begin, wide = entry.registers("u64", 2)
        entry.add(f"mul.wide.u32 {wide}, {row}, {4 * view.strides[1]}")
        entry.add(f"add.u64 {begin}, {entry.pointer(index)}, {wide}")
        pointers.append(begin)
    for index, total in enumerate(accumulators):
        entry.add(f"ld.shared.f32 {total}, [{own}+{4 * BLOCK * index}]")
        entry.add(f"add.rn.f32 {total}, {total}, {bias}")
        addresses = []
        for pointer in pointers:
            addresses.append(entry.register("u64"))
            entry.add(f"add.u64 {addresses[-1]}, {pointer}, {4 * index}")
        residual = addresses[1] if len(addresses) > 1 else None
        epilogue_of(entry, step, addresses[0], residual).store(0, total)
    entry.mark(done)
    return Kernel(
        name=name,
        step=step.name,
        kind="streamed",
        choice=f"a warp a row, columns of {8 * columns.itemsize} bits",
        text=entry.text(),
        grid=(-(-rows // WARPS), 1),
        block=BLOCK,
        arguments=(*views, *tables),
        cost=_cost(step, (begins, columns, values), len(entry.lines), pixels),
    )


def _cost(step: Conv, tables: tuple[Array, ...], lines: int, pixels: int) -> Cost:
    begins, columns, values = tables
    rows = step.weight.shape[0]
    loop = 4 * (2 + 2 * pixels) + 8
    turns = -(-np.diff(begins.astype(np.int64)) // 32)  # of a warp, a lane four non-zeros each
    stored = columns.nbytes + values.nbytes
    touched = step.x.size + step.y.size + (step.residual.size if step.residual else 0)
    return Cost(
        fma=int(np.count_nonzero(step.weight)) * pixels,
        instructions=32 * (int(turns.sum()) * loop + rows * lines),
        l1=stored + 4 * values.size * pixels,
        moved=stored + begins.nbytes + 4 * (rows + touched),
        code=lines,
        longest=int(turns.max(initial=0)) * loop + lines + instructions(step),
        fetched=lines * -(-rows // WARPS),
        waits=2 + 2 * int(turns.max(initial=0)),
    )


def _packed(step: Conv) -> tuple[Array, Array, Array]:
    """The first four of each row and of the one behind the last; columns and weights, in fours."""
    matrix = step.weight.reshape(step.weight.shape[0], -1)
    begins, columns, values = [0], [], []
    for row in matrix:
        (filled,) = np.nonzero(row)
        fill = -len(filled) % 4
        columns.append(np.append(filled, np.repeat(filled[-1:], fill)))
        values.append(np.append(row[filled], np.zeros(fill)))
        begins.append(begins[-1] + len(columns[-1]) // 4)
    short = np.uint16 if matrix.shape[1] <= SHORT else np.uint32
    return (
        np.array(begins, np.uint32),
        np.concatenate([*columns, np.zeros(4)]).astype(short),
        np.concatenate([*values, np.zeros(4)]).astype(np.float32),
    )


def _stream(
    entry: Entry, step: Conv, accumulators: list[str], row: str, lane: str, first: int, short: bool
) -> None:
    """Add to the sums what the lane's non-zeros of its row contribute."""
    begins, columns, values = (entry.pointer(first + index) for index in range(3))
    x, at = entry.pointer(0), entry.shifted(begins, row)
    turn, last = entry.registers("u32", 2)
    entry.add(
        f"ld.global.nc.u32 {turn}, [{at}]",
        f"ld.global.nc.u32 {last}, [{at}+4]",
        f"add.u32 {turn}, {turn}, {lane}",
    )
    begin, end, over = entry.label(), entry.label(), entry.register("pred")
    entry.mark(begin)
    entry.add(f"setp.ge.u32 {over}, {turn}, {last}", f"@{over} bra {end}")
    numbers, weights = entry.registers("u32", 4), entry.registers("f32", 4)
    from_, behind = entry.registers("u64", 2)
    kind, size = ("u16", 8) if short else ("u32", 16)
    entry.add(
        f"mad.wide.u32 {from_}, {turn}, {size}, {columns}",
        f"ld.global.nc.v4.{kind} {{{', '.join(numbers)}}}, [{from_}]",
        f"mad.wide.u32 {behind}, {turn}, 16, {values}",
        f"ld.global.nc.v4.f32 {{{', '.join(weights)}}}, [{behind}]",
    )
    value = entry.register("f32")
    for number, weight in zip(numbers, weights, strict=True):
        plane = entry.register("u64")
        entry.add(f"mad.wide.u32 {plane}, {number}, {4 * step.x.strides[1]}, {x}")
        for index, total in enumerate(accumulators):
            entry.add(f"ld.global.nc.f32 {value}, [{plane}+{4 * index}]")
            entry.add(f"fma.rn.f32 {total}, {value}, {weight}, {total}")
    entry.add(f"add.u32 {turn}, {turn}, 32", f"bra {begin}")
    entry.mark(end)


def _reduce(entry: Entry, accumulators: list[str], thread: str, lane: str) -> str:
    """Add up what a warp's lanes have, in shared memory; the address of the thread's own."""
    own, other, more = entry.register("u32"), *entry.registers("f32", 2)
    entry.add(f"mov.u32 {own}, {entry.shared(4 * BLOCK * len(accumulators))}")
    entry.add(f"mad.lo.u32 {own}, {thread}, 4, {own}")
    for index, total in enumerate(accumulators):
        entry.add(f"st.shared.f32 [{own}+{4 * BLOCK * index}], {total}")
    for half in (16, 8, 4, 2, 1):
        idle = entry.register("pred")
        entry.add("bar.sync 0", f"setp.ge.u32 {idle}, {lane}, {half}")
        for index in range(len(accumulators)):
            at = 4 * BLOCK * index
            entry.add(
                f"@!{idle} ld.shared.f32 {other}, [{own}+{at}]",
                f"@!{idle} ld.shared.f32 {more}, [{own}+{at + 4 * half}]",
                f"@!{idle} add.rn.f32 {other}, {other}, {more}",
                f"@!{idle} st.shared.f32 [{own}+{at}], {other}",
            )
    entry.add("bar.sync 0")
    return own
