"""Pools of bytes, and planes taken apart: their geometry for the one function of each."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import literal
from prunedeploy.runtimes.sparse.codegen.pool import geometry
from prunedeploy.runtimes.sparse.codegen.views import record
from prunedeploy.runtimes.sparse.plan.quantised import Pool8, Unfold
from prunedeploy.runtimes.sparse.plan.unfold import Window, unfold_layout

HEADERS = ("bytes.h",)


def emit(step: Pool8 | Unfold, context: Context) -> Code:
    """One call."""
    return _unfold(step, context) if isinstance(step, Unfold) else _pool(step, context)


def _pool(step: Pool8, context: Context) -> Code:
    x, y = step.x, step.y
    fields = geometry(step) | {
        "padded_height": step.pads[0] + x.shape[2] + step.pads[2],
        "padded_width": step.pads[1] + x.shape[3] + step.pads[3],
        "x_image": x.strides[0],
        "x_channel": x.strides[1],
        "y_image": y.strides[0],
        "y_channel": y.strides[1],
        "x_scale": literal(step.x_scale),
        "y_scale": literal(step.y_scale),
        "x_zero": step.x_zero,
        "zero": step.zero,
        "counted": int(step.count_include_pad),
    }
    body = (
        f"static const pd_pool8 p = {record(fields)};\n"
        f"pd_pool8_{step.kind}(w, &p, {context.pointers(x, y)});"
    )
    return Code(body, (), HEADERS, x.shape[3] // 4 + 16, f"{step.kind} of bytes", stored="int8")


def _unfold(step: Unfold, context: Context) -> Code:
    window = Window(step.kernel, step.out, step.strides, step.pads, step.dilations)
    phases = unfold_layout(window).phases
    table = ", ".join(str(number) for phase in phases for number in phase)
    x = step.x
    fields = {
        "images": x.shape[0],
        "channels": x.shape[1],
        "height": x.shape[2],
        "width": x.shape[3],
        "out_width": step.out[1],
        "kernel_width": step.kernel[1],
        "row_step": step.strides[0],
        "column_step": step.strides[1],
        "column_dilation": step.dilations[1],
        "top": step.pads[0],
        "left": step.pads[1],
        "phases": len(phases),
        "x_image": x.strides[0],
        "x_channel": x.strides[1],
        "y_channel": step.y.strides[0],
        "fill": step.fill,
    }
    body = (
        f"static const int phase[] = {{{table}}};\n"
        f"static const pd_unfold p = {record(fields)};\n"
        f"pd_unfold_run(w, &p, phase, {context.pointers(x, step.y)});"
    )
    return Code(body, (), HEADERS, choice="columns of a window", stored="int8")
