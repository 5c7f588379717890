"""Nodes as older opsets write them: random networks are grown in the forms of opset 20."""

from __future__ import annotations

import numpy as np
import onnx
from net import Net
from onnx import TensorProto

#: operator -> the inputs that were attributes once, by their position
ATTRIBUTES_ONCE: dict[str, tuple[tuple[int, str], ...]] = {
    **dict.fromkeys(("Squeeze", "Unsqueeze"), ((1, "axes"),)),
    "Clip": ((1, "min"), (2, "max")),
    "Pad": ((1, "pads"), (2, "value")),
    "Slice": ((1, "starts"), (2, "ends"), (3, "axes")),
    "Split": ((1, "split"),),
    "TopK": ((1, "k"),),
    "Upsample": ((1, "scales"),),
}
SCALARS = ("k", "min", "max", "value")
NOT_BEFORE = {  # forms that growers use came later than the operators
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), 8),  # with shapes that differ
    "Equal": 11,  # of floats
    "GroupNormalization": 21,  # with a scale for each channel
}


class NotThereError(Exception):
    """An operator, or this form of it, that the opset does not have."""


def available(op: str, opset: int) -> bool:
    """Whether an opset has this operator."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return not schema.deprecated and opset >= NOT_BEFORE.get(op, 0)


def rewrite(net: Net, op: str, inputs: list[str], attributes: dict[str, object]) -> None:
    """Change inputs and attributes to those of the network's opset.

    Raises:
        NotThereError: it has no such operator or form.
    """
    if not available(op, net.opset):
        raise NotThereError(op)
    if op == "Cast" and attributes["to"] == TensorProto.DOUBLE:
        attributes["to"] = onnx.helper.np_dtype_to_tensor_dtype(net.dtype)
    once = ((1, "axes"),) if op.startswith("Reduce") else ATTRIBUTES_ONCE.get(op, ())
    if once and once[0][1] in onnx.defs.get_schema(op, net.opset, "").attributes:
        _to_attributes(net, once, inputs, attributes)
    if op in SPECIAL:
        SPECIAL[op](net, inputs, attributes)


def _to_attributes(
    net: Net, once: tuple[tuple[int, str], ...], inputs: list[str], attributes: dict[str, object]
) -> None:
    if len(inputs) > 4 and (net.weights[inputs[4]] != 1).any():
        raise NotThereError("Slice with steps")
    for position, name in once:
        if position < len(inputs):
            values = net.weights[inputs[position]].reshape(-1).tolist()
            attributes[name] = values[0] if name in SCALARS else values
    del inputs[once[0][0] :]


def _depth_to_space(net: Net, _: list[str], attributes: dict[str, object]) -> None:
    if net.opset < 11 and attributes.pop("mode", "DCR") != "DCR":
        raise NotThereError("DepthToSpace by columns")


def _gemm(net: Net, inputs: list[str], _: dict[str, object]) -> None:
    """Before opset 11 it always adds something."""
    if net.opset < 11 and len(inputs) == 2:
        inputs.append(net.weight(np.zeros(1)))


def _one_scale(net: Net, _: list[str], attributes: dict[str, object]) -> None:
    if net.opset < 13 and "axis" in attributes:
        raise NotThereError("a scale for each channel")


def _resize(net: Net, inputs: list[str], _: dict[str, object]) -> None:
    """``roi`` may be left out from opset 13 on; opset 10 has scales alone."""
    if net.opset < 13 and len(inputs) > 3:
        raise NotThereError("Resize to sizes")
    if net.opset < 11:
        del inputs[1]
    elif net.opset < 13:
        inputs[1] = net.weight(np.zeros(0))


SPECIAL = {
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _one_scale,
    "Gemm": _gemm,
    "QuantizeLinear": _one_scale,
    "Resize": _resize,
}
