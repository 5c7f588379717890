"""ResNeXt (Xie et al., "Aggregated Residual Transformations", CVPR 2017) with dead channels.

What can be left of it is counted here by hand, group by group, and owes nothing to the pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from net import Net

REGIMES = ("clean", "beta", "columns")


@dataclass(frozen=True)
class Channels:
    """Which channels of a tensor are dead, and the constants that they hold (0 elsewhere)."""

    dead: np.ndarray
    constants: np.ndarray

    @property
    def live(self) -> int:
        return int((~self.dead).sum())


class ResNeXt:
    """``attainable`` parameters are left when all that can go is gone.

    The regimes; every set of channels draws its dead ones at random, unequal from group to group:

    - clean: their rows and biases are zero.
    - beta: their rows are zero, their biases are not; ReLU stops about half of these constants.
    - columns: they vary, and all weights that read them are zero.
    """

    def __init__(
        self,
        regime: str,
        blocks: tuple[int, ...] = (3, 4, 6, 3),
        groups: int = 32,
        width: int = 4,
        size: int = 32,
        fraction: float = 0.3,
    ) -> None:
        self.regime, self.fraction, self.groups = regime, fraction, groups
        self.net, self.attainable = Net(channels=3, size=size, opset=18), 0
        stem = self._channels(64)
        x = self._dense("input", self._channels(3, fraction=0), stem, 7, 2)
        x = self._pool(x)
        size, known = -(-size // 4), stem
        for stage, count in enumerate(blocks):
            stream = self._channels(256 << stage)
            for block in range(count):
                stride = 2 if stage and not block else 1
                y = self._branch(x, known, stream, groups * width << stage, stride, size)
                if block == 0:
                    x = self._dense(x, known, stream, 1, stride)
                x, known = str(self.net.node("Relu", self.net.node("Add", x, y))), stream
                size = -(-size // stride)
        self.model = self._head(x, known)

    def _pool(self, x: str) -> str:
        window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
        return str(self.net.node("MaxPool", self.net.node("Relu", x), **window))

    def _head(self, x: str, known: Channels) -> ir.Model:
        net = self.net
        weight = net.random.standard_normal((10, len(known.dead)))
        weight[:, known.dead] = 0
        self.attainable += 10 * known.live + 10
        pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
        biased = net.weight(net.random.standard_normal(10))
        return net.model(str(net.node("Gemm", pooled, net.weight(weight), biased, transB=1)))

    def _channels(self, count: int, fraction: float | None = None) -> Channels:
        random = self.net.random
        dead = random.random(count) < (self.fraction if fraction is None else fraction)
        values = random.uniform(-1, 1, count) if self.regime == "beta" else np.zeros(count)
        return Channels(dead, np.where(dead, values, 0.0))

    def _branch(
        self, x: str, before: Channels, after: Channels, width: int, stride: int, size: int
    ) -> str:
        """1x1, grouped 3x3, 1x1; constants enter the stream by the shortcut alone."""
        one, two = self._channels(width), self._channels(width)
        y = self.net.node("Relu", self._conv(x, before, one, 1))
        y = self._conv(y, one, two, 3, stride, self.groups)
        y = self._conv(self.net.node("Relu", y), two, Channels(after.dead, 0 * after.constants), 1)
        left_one, left_two, products = self._groups(one, two)
        self.attainable += left_one * (before.live + 1) + 9 * products + left_two
        self.attainable += after.live * (left_two + 1)
        if (one.constants > 0).any():
            self.attainable += left_two * _kinds(size, stride) ** 2
        return y

    def _groups(self, one: Channels, two: Channels) -> tuple[int, int, int]:
        """What is left of the inputs and outputs of a grouped convolution, and their products.

        A group without outputs needs no inputs. One without inputs is constant and goes, unless
        constants reach it: they differ at the borders, and one input stays for the group to be.
        """
        left_one = left_two = products = 0
        shape = (self.groups, -1)
        for ins, outs, held in zip(
            one.dead.reshape(shape),
            two.dead.reshape(shape),
            one.constants.reshape(shape),
            strict=True,
        ):
            reads, writes = int((~ins).sum()), int((~outs).sum())
            if not reads and (held > 0).any():
                reads = 1
            if reads and writes:
                left_one, left_two = left_one + reads, left_two + writes
                products += reads * writes
        return left_one, left_two, products

    def _dense(self, x: str, ins: Channels, outs: Channels, kernel: int, stride: int) -> str:
        self.attainable += outs.live * (ins.live * kernel * kernel + 1)
        return self._conv(x, ins, outs, kernel, stride)

    def _conv(
        self, x: str, ins: Channels, outs: Channels, kernel: int, stride: int = 1, groups: int = 1
    ) -> str:
        net, shape = self.net, (len(outs.dead), len(ins.dead) // groups, kernel, kernel)
        weight = net.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        bias = net.random.standard_normal(shape[0]) / 4
        if self.regime == "columns":
            weight[ins.dead.reshape(groups, -1).repeat(shape[0] // groups, axis=0)] = 0
        else:
            weight[outs.dead] = 0
            bias[outs.dead] = outs.constants[outs.dead]
        name = f"conv{len(net.nodes)}"
        inputs = [x, net.weight(weight, f"{name}.weight"), net.weight(bias, f"{name}.bias")]
        window = {"pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return str(net.node("Conv", *inputs, group=groups, **window))


def _kinds(size: int, stride: int) -> int:
    """Different sets of taps of a 3-wide kernel, padded by one, that fall inside."""
    places = range(0, size, stride)
    return len({tuple(0 <= at + tap < size for tap in (-1, 0, 1)) for at in places})
