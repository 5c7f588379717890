"""Conv and ConvTranspose, as layers."""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import Operator


def _convolution(node: ir.Node) -> Layer | None:
    source, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if source is None or weight is None:
        return None
    groups = node.attributes.get_int("group", 1)
    padded = any(node.attributes.get_ints("pads", [0])) or (
        node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
        and any(d != 1 for d in list(weight.shape or ())[2:])
    )
    return Layer(
        node, source, 1, weight, 1, 0, result, 1, 2, groups, uniform=not padded, spatial=True
    )


def _transposed_convolution(node: ir.Node) -> Layer | None:
    source, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if source is None or weight is None:
        return None
    groups = node.attributes.get_int("group", 1)
    # strides and borders give positions different numbers of taps
    return Layer(node, source, 1, weight, 0, 1, result, 1, 2, groups, uniform=False, spatial=True)


OPERATORS = (
    Operator("Conv", layer=_convolution),
    Operator("ConvTranspose", layer=_transposed_convolution),
)
