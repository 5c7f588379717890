"""Conv and ConvTranspose, as layers."""

from __future__ import annotations

import onnx_ir as ir

from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import Operator


def _convolution(node: ir.Node) -> Layer | None:
    source, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if source is None or weight is None:
        return None
    transposed = node.op_type == "ConvTranspose"
    columns, rows = (0, 1) if transposed else (1, 0)  # axes of the weight
    groups = node.attributes.get_int("group", 1)
    padded = any(node.attributes.get_ints("pads", [0])) or (
        node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
        and any(d != 1 for d in list(weight.shape or ())[2:])
    )
    even = not padded and not transposed  # else positions have different numbers of taps
    return Layer(
        *(node, source, 1, weight, columns, rows, result, 1, 2, groups), uniform=even, spatial=True
    )


OPERATORS = (Operator("Conv", layer=_convolution), Operator("ConvTranspose", layer=_convolution))
