"""Small networks in whatever opset is asked for: what several versions of an operator differ in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from lowered import Small, ints

OPSETS = (7, 9, 10, 11, 12, 13, 15, 17, 18, 20, 24, 26)  # the last one that ONNX Runtime knows
Build = Callable[[Small, str], str]


def _along(net: Small, op: str, x: str | np.ndarray, axes: tuple[int, ...], since: int) -> str:
    """Axes are an attribute before opset ``since``, an input from then on."""
    if net.opset < since:
        return net.node(op, x, axes=list(axes))
    return net.node(op, x, ints(*axes))


def softmax(net: Small, x: str) -> str:
    """Of what is computed, and of a constant."""
    weights = net.node("Softmax", net.normal(1, 6, 5, 5), axis=1)
    return net.node("Mul", net.node("Softmax", x, axis=1), weights)


def softmax_by_default(net: Small, x: str) -> str:
    """Without an axis: another one before opset 13."""
    sums = net.node("LogSoftmax", net.normal(1, 6, 5, 5))
    return net.node("Add", net.node("LogSoftmax", x), sums)


def hardmax(net: Small, x: str) -> str:
    return net.node("Mul", x, net.node("Hardmax", net.normal(1, 6, 5, 5), axis=2))


def _norm(net: Small, x: str, outputs: int, **attributes: int) -> str:
    vectors = [net.normal(6) + 1, net.normal(6), net.normal(6), np.abs(net.normal(6)) + 0.5]
    found = net.node("BatchNormalization", x, *vectors, outputs=outputs, **attributes)
    return found if isinstance(found, str) else found[0]


def norm(net: Small, x: str) -> str:
    return _norm(net, x, 1)


def norm_in_training(net: Small, x: str) -> str:
    """Told by the number of outputs before opset 14, by an attribute from then on."""
    return _norm(net, x, 5) if net.opset < 14 else _norm(net, x, 3, training_mode=1)


def global_pools(net: Small, x: str) -> str:
    """Of constants with one spatial axis, and with three."""
    line = net.node("GlobalMaxPool", net.normal(1, 6, 9))
    cube = net.node("GlobalMaxPool", net.normal(1, 6, 2, 3, 4))
    channel = net.node("Reshape", line, ints(1, 6, 1, 1))
    y = net.node("Add", x, channel)
    return net.node("Mul", y, net.node("Reshape", cube, ints(1, 6, 1, 1)))


def clip(net: Small, x: str) -> str:
    if net.opset < 11:
        return net.node("Clip", x, min=-0.5, max=0.7)
    return net.node("Clip", x, np.array(-0.5, np.float32), np.array(0.7, np.float32))


def reductions(net: Small, x: str) -> str:
    mean = _along(net, "ReduceMean", x, (2, 3), 18)
    total = _along(net, "ReduceSum", net.normal(1, 6, 1, 5), (3,), 13)
    return net.node("Mul", net.node("Add", x, mean), total)


def axes(net: Small, x: str) -> str:
    squeezed = _along(net, "Squeeze", net.normal(1, 6, 1), (0,), 13)
    return net.node("Add", x, _along(net, "Unsqueeze", squeezed, (0, 3), 13))


def slices(net: Small, x: str) -> str:
    if net.opset < 10:
        return net.node("Slice", x, starts=[1, 0], ends=[5, -1], axes=[1, 3])
    return net.node("Slice", x, ints(1, 0), ints(5, -1), ints(1, 3))


def pads(net: Small, x: str) -> str:
    widths = [0, 1, 0, 1, 0, 0, 2, 0]
    if net.opset < 11:
        return net.node("Pad", x, pads=widths, value=0.5)
    return net.node("Pad", x, ints(*widths), np.array(0.5, np.float32))


def splits(net: Small, x: str) -> str:
    if net.opset < 13:
        one, other = net.node("Split", x, axis=1, split=[2, 4], outputs=2)
    else:
        one, other = net.node("Split", x, ints(2, 4), axis=1, outputs=2)
    return net.node("Concat", other, one, axis=1)


def equal_parts(net: Small, x: str) -> str:
    more = {"num_outputs": 3} if net.opset >= 18 else {}
    a, b, c = net.node("Split", x, axis=1, outputs=3, **more)
    return net.node("Add", net.node("Sub", a, b), c)


def resized(net: Small, x: str) -> str:
    """The nearest pixel of half the size: the one behind before opset 11, by a mode after it."""
    scales = np.array([1, 1, 0.5, 0.6], np.float32)
    if net.opset < 10:
        up = [1.0, 1.0, 1.3, 2.0]
        if net.opset < 9:
            return net.node("Upsample", x, scales=up)
        return net.node("Upsample", x, np.array(up, np.float32))
    if net.opset == 10:
        return net.node("Resize", x, scales)
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    empty = np.array([], np.float32) if net.opset < 13 else None
    return net.node("Resize", x, empty, scales, **options)


def dropout(net: Small, x: str) -> str:
    if net.opset < 12:
        return net.node("Dropout", x, ratio=0.4)
    return net.node("Dropout", x, np.array(0.4, np.float32))


def largest(net: Small, x: str) -> str:
    constant = net.normal(1, 6, 7)
    if net.opset < 10:
        values, _ = net.node("TopK", constant, k=1, axis=2, outputs=2)
    else:
        values, _ = net.node("TopK", constant, ints(1), axis=2, outputs=2)
    return net.node("Mul", x, net.node("Reshape", values, ints(1, 6, 1, 1)))


def pools(net: Small, x: str) -> str:
    y = net.node("MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    return net.node("AveragePool", y, kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)


def gemm(net: Small, x: str) -> str:
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.node("Gemm", flat, net.normal(6, 4), net.normal(4), alpha=0.5, beta=0.7)


NETS: dict[str, Build] = {
    build.__name__: build
    for build in (
        softmax,
        softmax_by_default,
        hardmax,
        norm,
        norm_in_training,
        global_pools,
        clip,
        reductions,
        axes,
        slices,
        pads,
        splits,
        equal_parts,
        resized,
        dropout,
        largest,
        pools,
        gemm,
    )
}
#: parameters for a test of every network in every opset
CASES = [(name, opset) for name in NETS for opset in OPSETS]


def network(name: str, opset: int) -> ir.Model:
    """A convolution with two channels that hold constants, the operators in question, a Relu.

    ``input`` is [2, 3, 5, 5]; the result of the convolution [2, 6, 5, 5].
    """
    net = Small(opset)
    x = net.input(2, 3, 5, 5)
    weight, bias = net.normal(6, 3, 3, 3, scale=0.4), net.normal(6)
    weight[[1, 4]] = 0
    y = net.node("Conv", x, weight, bias, pads=[1] * 4)
    return net.model(net.node("Relu", NETS[name](net, y)))
