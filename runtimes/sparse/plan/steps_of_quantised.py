"""The steps that operators on quantised tensors become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prunedeploy.runtimes.sparse.importer import quantised as ops
from prunedeploy.runtimes.sparse.plan import quantised as steps
from prunedeploy.runtimes.sparse.plan import unfold as geometry
from prunedeploy.runtimes.sparse.plan.layout import LayoutAssigner
from prunedeploy.runtimes.sparse.plan.strides import planar
from prunedeploy.runtimes.sparse.plan.views import image


def _quantise(assigner: LayoutAssigner, op: ops.QuantiseOp) -> None:
    how = ops.quantisation_of(op.output)
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    assigner.add(steps.Quantise(assigner.name(op.name), x, y, how.scale, how.zero))


def _dequantise(assigner: LayoutAssigner, op: ops.DequantiseOp) -> None:
    how = ops.quantisation_of(op.inputs[0])
    x, y = assigner.view(op.inputs[0]), assigner.result(op)
    assigner.add(steps.Dequantise(assigner.name(op.name), x, y, how.scale, how.zero))


def _conv(assigner: LayoutAssigner, op: ops.Conv8Op) -> None:
    planes = [assigner.planes(tensor, op.channel) for tensor in op.inputs]
    planes.append(assigner.result(op))
    x, *residual, y = (image(view, op.channel, op.window) for view in planes)
    window = geometry.Window(
        (op.weight.shape[2], op.weight.shape[3]),
        (y.shape[2], y.shape[3]),
        op.strides,
        op.pads,
        op.dilations,
    )
    size, how = (x.shape[2], x.shape[3]), ops.quantisation_of(op.inputs[0])
    name, unfolded = assigner.name(op.name), not geometry.is_direct(size, window)
    if unfolded:
        layout = geometry.unfold_layout(window)
        shape = (x.shape[1], x.shape[0] * layout.size)
        wide = assigner.arena(shape, planar(2, 0), ops.BYTE)
        given = (window.kernel, window.out, window.strides, window.pads, window.dilations)
        assigner.add(steps.Unfold(assigner.name(f"{op.name} unfold"), x, wide, *given, how.zero))
        x = wide
    zero = None
    if op.output.dtype == ops.BYTE:
        zero = ops.quantisation_of(op.output).zero
    assigner.add(
        steps.Conv8(
            name,
            x,
            y,
            op.weight,
            op.bias,
            op.scale,
            op.shift,
            how.zero,
            size,
            op.low,
            op.high,
            op.strides,
            op.pads,
            op.dilations,
            op.groups,
            unfolded,
            residual[0] if residual else None,
            zero,
        )
    )


def _add(assigner: LayoutAssigner, op: ops.Add8Op) -> None:
    a, b = (assigner.view(tensor) for tensor in op.inputs)
    y = assigner.result(op)
    given = [ops.quantisation_of(tensor) for tensor in (*op.inputs, op.output)]
    offsets = [ops.HIGHER if how.signed else 0 for how in given]
    step = np.float32(given[2].scale)
    ratio_a, ratio_b = (np.float32(how.scale) / step for how in given[:2])
    zero_a, zero_b, zero_y = (how.zero - offset for how, offset in zip(given, offsets, strict=True))
    # as ONNX Runtime's compiler contracts it: one product is rounded, the other is not
    moved = np.float32(float(ratio_a) * zero_a + float(ratio_b * np.float32(zero_b)))
    fixed = np.float32(zero_y) - moved
    assigner.add(
        steps.Add8(
            assigner.name(op.name),
            a,
            b,
            y,
            (float(ratio_a), float(ratio_b)),
            float(fixed),
            (offsets[0], offsets[1], offsets[2]),
            op.low,
            op.high,
        )
    )


def _pool(assigner: LayoutAssigner, op: ops.Pool8Op) -> None:
    planes = [assigner.planes(op.inputs[0], 1), assigner.result(op)]
    x, y = (image(view, 1, True) for view in planes)
    given, made = ops.quantisation_of(op.inputs[0]), ops.quantisation_of(op.output)
    assigner.add(
        steps.Pool8(
            assigner.name(op.name),
            x,
            y,
            op.kind,
            op.kernel,
            op.strides,
            op.pads,
            op.dilations,
            op.count_include_pad,
            given.scale,
            made.scale,
            given.zero,
            made.zero,
        )
    )


EMITTERS: dict[type, Callable[[LayoutAssigner, Any], None]] = {
    ops.QuantiseOp: _quantise,
    ops.DequantiseOp: _dequantise,
    ops.Conv8Op: _conv,
    ops.Add8Op: _add,
    ops.Pool8Op: _pool,
}
