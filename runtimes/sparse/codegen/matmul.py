"""Products of computed tensors: which side the vectors lie along, and how many rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import literal
from prunedeploy.runtimes.sparse.codegen.views import nest, record
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.plan.steps import MatMul
from prunedeploy.runtimes.sparse.plan.views import UNIT, View

FEW = 3  # rows: with as few, twice the vectors hide the latency of additions
BLOCK = 64 * 1024  # elements of a's rows that an item takes, to stay in the second-level cache
CONFLICT = 1024  # elements: what lies a multiple of it apart shares a set of the first-level cache


@dataclass(frozen=True)
class _Product:
    """The product as the kernel sees it: vectors along the columns of ``b`` and ``y``."""

    a: View
    b: View
    y: View
    bias: View | None


def emit(step: MatMul, context: Context) -> Code:
    """One instance of the kernel for this step's strides, and its call."""
    product = _turned(step)
    rows, depth = product.a.shape[-2:]
    columns = product.b.shape[-1]
    height, wide = _tile(rows, columns, context.isa)
    packed = _is_packed(product.a, depth)
    a_row, a_step = (1, height) if packed else product.a.strides[-2:]
    name = f"pd_matmul_{height}_{wide}_{_word(a_row)}_{_word(a_step)}_{int(packed)}"
    top = "\n".join(
        [
            f"#define PD_NAME {name}",
            f"#define PD_ROWS {height}",
            f"#define PD_VECTORS {wide}",
            f"#define PD_A_ROW {a_row}",
            f"#define PD_A_STEP {a_step}",
            f"#define PD_PACKED {int(packed)}",
            '#include "matmul.h"',
        ]
    )
    leading = len(step.y.shape) - 2
    # in the order of what is read: heads lie in planes, whose images are side by side
    views = [product.a, product.b, product.y, *([product.bias] if product.bias else [])]
    loops = nest(step.y.shape[:leading], [view.strides[:leading] for view in views])
    block = _block(rows, height, depth, loops.size, context.threads)
    body = loops.arrays("shape", *("as", "bs", "ys", "cs")[: len(views)])
    fields = {
        "rank": loops.rank,
        **{name: name for name in ("shape", "as", "bs", "ys")},
        "cs": "cs" if product.bias else "0",
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "block": block,
        "blocks": -(-rows // block),
        "alpha": literal(step.alpha),
        **_strides(product),
    }
    bias = context.pointer(product.bias) if product.bias else "0"
    body += [
        f"static const pd_matmul p = {record(fields)};",
        f"{name}(w, &p, {context.pointer(product.a)}, {context.pointer(product.b)}, "
        f"{context.pointer(product.y)}, {bias});",
    ]
    scratch = depth * wide * ISAS[context.isa].lanes
    scratch += depth * (block + height) if packed else 0
    scratch = -(-scratch // UNIT) * UNIT
    return Code("\n".join(body), (top,), ("nest.h",), scratch, f"{height}x{wide}")


def _turned(step: MatMul) -> _Product:
    """With vectors along the axis of ``y`` that is contiguous: perhaps the transposed product."""
    y = step.y
    along = [size > 1 and stride == 1 for size, stride in zip(y.shape, y.strides, strict=True)]
    turn = along[-2] and not along[-1]
    if not (along[-2] or along[-1]):
        turn = y.shape[-1] == 1 and y.shape[-2] > 1
    if not turn:
        return _Product(step.a, step.b, y, step.bias)
    bias = None if step.bias is None else _transposed(step.bias)
    return _Product(_transposed(step.b), _transposed(step.a), _transposed(y), bias)


def _transposed(view: View) -> View:
    shape, strides = view.shape, view.strides
    return View(
        view.buffer,
        (*shape[:-2], shape[-1], shape[-2]),
        (*strides[:-2], strides[-1], strides[-2]),
        view.offset,
    )


def _tile(rows: int, columns: int, isa: str) -> tuple[int, int]:
    """Rows and vectors at once: the least rows computed in vain, and loads of ``b`` shared."""
    # registers: rows times vectors of accumulators, the vectors of b, one of a
    max_rows, wide = ISAS[isa].matmul_tile
    lanes = ISAS[isa].lanes
    height = min(
        range(1, min(max_rows, rows) + 1), key=lambda r: (-(-rows // r) * (r + 0.7 + 2 / r), -r)
    )
    if height <= FEW:
        wide = 4
    return height, max(1, min(wide, -(-columns // lanes)))


def _is_packed(a: View, depth: int) -> bool:
    """Whether ``a``'s rows are copied: where neither a row nor a column of it is contiguous."""
    row, step = a.strides[-2:]
    if step == 1 or depth == 1:
        return False
    return row != 1 or step % CONFLICT == 0


def _block(rows: int, height: int, depth: int, products: int, threads: int) -> int:
    """Rows an item takes: what the cache holds, and few enough that every thread has some."""
    tiles = max(1, min(-(-rows // height), BLOCK // max(depth * height, 1)))
    if products % threads and products < 4 * threads:
        tiles = min(tiles, max(1, -(-rows // (height * threads))))
    return tiles * height


def _strides(product: _Product) -> dict[str, int]:
    """The strides of the innermost two axes, by the names of ``pd_matmul``."""
    fields = {}
    for name, view, axes in (
        ("a", product.a, ("row", "step")),
        ("b", product.b, ("step", "column")),
        ("y", product.y, ("row", "column")),
        ("c", product.bias, ("row", "column")),
    ):
        strides: Sequence[int] = view.strides[-2:] if view else (0, 0)
        for axis, stride in zip(axes, strides, strict=True):
            fields[f"{name}_{axis}"] = stride
    return fields


def _word(number: int) -> str:
    """``number`` as a part of a C name."""
    return str(number) if number >= 0 else f"m{-number}"
