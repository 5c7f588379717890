"""Numbers to bytes and back, and sums of bytes: rows of any strides."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import literal
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest, record
from prunedeploy.runtimes.sparse.plan.quantised import Add8, Dequantise, Quantise
from prunedeploy.runtimes.sparse.plan.views import View

HEADERS = ("bytes.h",)


def emit(step: Quantise | Dequantise | Add8, context: Context) -> Code:
    """One call."""
    if isinstance(step, Add8):
        return _add(step, context)
    loops, arrays = _loops(step.y, step.x, names=("ys", "xs"))
    name = "pd_quantise" if isinstance(step, Quantise) else "pd_dequantise"
    call = (
        f"{name}(w, {loops.rank - 1}, shape, ys, xs, {_steps(loops)}, {literal(step.scale)}, "
        f"{step.zero}, {context.pointers(step.x, step.y)});"
    )
    return Code("\n".join([*arrays, call]), (), HEADERS, choice="rows")


def _add(step: Add8, context: Context) -> Code:
    loops, arrays = _loops(step.y, step.a, step.b, names=("ys", "as", "bs"))
    fields = {
        "a": literal(step.scales[0]),
        "b": literal(step.scales[1]),
        "fixed": literal(step.fixed),
        "offset_a": step.offsets[0],
        "offset_b": step.offsets[1],
        "offset_y": step.offsets[2],
        "low": step.low,
        "high": step.high,
    }
    call = (
        f"static const pd_add8 p = {record(fields)};\n"
        f"pd_add8_run(w, {loops.rank - 1}, shape, ys, as, bs, {_steps(loops)}, &p, "
        f"{context.pointers(step.a, step.b, step.y)});"
    )
    return Code("\n".join([*arrays, call]), (), HEADERS, choice="rows", stored="int8")


def _loops(*views: View, names: Sequence[str]) -> tuple[Nest, list[str]]:
    """The loops over views of one shape, and C arrays of all but the innermost."""
    loops = nest(views[0].shape, [view.strides for view in views])
    if not loops.rank:
        loops = Nest((1,), tuple((1,) for _ in views))
    return loops, loops.take(range(loops.rank - 1)).arrays("shape", *names)


def _steps(loops: Nest) -> str:
    """The innermost loop: how often it runs, and every view's step."""
    return ", ".join([str(loops.shape[-1]), *(f"(ptrdiff_t){step}" for step in loops.inner())])
