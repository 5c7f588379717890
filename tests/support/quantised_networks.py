"""Networks of quantised layers with random weights, as ONNX Runtime's quantiser writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from lowered import Small


class Quantised(Small):
    """A model under construction, with pairs of QuantizeLinear and DequantizeLinear.

    ``zeros`` of the weights of layers that are no depthwise or first ones are zero.
    """

    def __init__(self, zero: np.generic, zeros: float = 0.9, seed: int = 0) -> None:
        super().__init__(17, seed)
        self.zero, self.zeros = zero, zeros

    def pair(self, x: str, scale: float, zero: np.generic | None = None) -> str:
        step, point = np.float32(scale), self.zero if zero is None else zero
        return self.node(
            "DequantizeLinear", self.node("QuantizeLinear", x, step, point), step, point
        )

    def layer(
        self, x: str, ins: int, outs: int, kernel: int = 1, scale: float = 0.015, **attributes: Any
    ) -> str:
        """A convolution whose results have about the range of its input, bias in int32."""
        group = attributes.get("group", 1)
        weight = np.rint(self.random.standard_normal((outs, ins // group, kernel, kernel)) * 40)
        weight = np.clip(weight, -127, 127).astype(np.int8)
        if group == 1 and ins > 3:
            weight[self.random.random(weight.shape) < self.zeros] = 0
        fan = max(np.count_nonzero(weight) / outs, 1.0)
        steps = 0.6 / (40 * np.sqrt(fan)) * (0.5 + self.random.random(outs))
        steps = steps.astype(np.float32)
        none = np.zeros(outs, np.int8)
        taps = self.node("DequantizeLinear", weight, steps, none, axis=0)
        sums = (np.float32(scale) * steps).astype(np.float32)
        bias = np.rint(self.random.standard_normal(outs) * 0.3 / sums).astype(np.int32)
        added = self.node("DequantizeLinear", bias, sums, none.astype(np.int32), axis=0)
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", x, taps, added, **attributes)

    def active(self, x: str, ins: int, outs: int, kernel: int = 1, **attributes: Any) -> str:
        """A layer and its Relu, quantised."""
        return self.pair(self.node("Relu", self.layer(x, ins, outs, kernel, **attributes)), 0.015)

    def head(self, x: str, channels: int, classes: int) -> ir.Model:
        """The mean of the image, and a linear layer."""
        y = self.pair(self.node("GlobalAveragePool", x), 0.008)
        y = self.pair(self.node("Flatten", y), 0.008)
        weight = np.rint(self.random.standard_normal((classes, channels)) * 40).astype(np.int8)
        weight[self.random.random(weight.shape) < self.zeros] = 0
        taps = self.node("DequantizeLinear", weight, np.float32(0.01), np.int8(0))
        return self.model(self.pair(self.node("Gemm", y, taps, transB=1), 0.01, np.uint8(128)))


def mobilenet(
    zero: np.generic,
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    size: int,
    zeros: float = 0.9,
) -> ir.Model:
    """MobileNetV1: depthwise layers of three by three and sparse ones of one by one in turn."""
    net = Quantised(zero, zeros)
    y = net.pair(net.input(1, 3, size, size), 0.02)
    y = net.active(y, 3, widths[0], 3, scale=0.02, strides=[2, 2])
    for ins, outs, stride in zip(widths, widths[1:], strides, strict=False):
        y = net.active(y, ins, ins, 3, group=ins, strides=[stride] * 2)
        y = net.active(y, ins, outs)
    return net.head(y, widths[-1], 10 if size < 200 else 1000)


def resnet(zero: np.generic, widths: tuple[int, ...], depths: tuple[int, ...], size: int,
           zeros: float = 0.9) -> ir.Model:  # fmt: skip
    """A ResNet of bottleneck blocks."""
    net = Quantised(zero, zeros)
    y = net.pair(net.input(1, 3, size, size), 0.02)
    y = net.active(y, 3, 64, 7, scale=0.02, strides=[2, 2])
    y = net.pair(net.node("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 0.015)
    ins = 64
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            z = net.active(y, ins, width)
            z = net.active(z, width, width, 3, strides=[stride] * 2)
            z = net.pair(net.layer(z, width, 4 * width), 0.015)
            if ins != 4 * width or stride > 1:
                y = net.pair(net.layer(y, ins, 4 * width, strides=[stride] * 2), 0.015)
            y = net.pair(net.node("Relu", net.node("Add", z, y)), 0.015)
            ins = 4 * width
    return net.head(y, ins, 10 if size < 200 else 1000)
