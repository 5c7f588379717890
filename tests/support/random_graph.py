"""Growing random networks: values with known shapes, and layers with dead channels between them.

A ``RandomGraph`` is a ``Net`` that remembers the shape of every value. ``layered`` usually makes
values: a layer with random dead rows and unread columns, so that whatever is grown behind it meets
channels that are dead, constant or unread.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from net import Net
from old_forms import rewrite

BATCH = 2  # what the symbolic batch stands for


@dataclass(frozen=True)
class Value:
    """A floating point value of the network. ``shape`` has the real batch in front."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def axis(self) -> int:
        """Where the channels are: behind the batch for images, last otherwise."""
        return 1 if len(self.shape) == 4 else len(self.shape) - 1


class RandomGraph:
    """A network that grows. ``choose`` makes every decision of structure."""

    def __init__(
        self,
        choose: random.Random,
        opset: int = 20,
        fixed: bool = False,
        dtype: type = np.float64,
    ) -> None:
        self.choose = choose
        self.fixed = fixed or choose.random() < 0.3
        width, side = choose.randint(1, 4), choose.randint(2, 5)
        self.net = Net(
            channels=width,
            size=side,
            seed=choose.randrange(1 << 30),
            dtype=dtype,
            opset=opset,
            batch=BATCH if self.fixed else "batch",
        )
        self.opset = opset
        self.values = [Value("input", (BATCH, width, side, side))]

    @property
    def numbers(self) -> np.random.Generator:
        """Where weights come from."""
        return self.net.random

    def node(self, op: str, *inputs: str | Value, outputs: int = 1, **attributes: object) -> list:
        """Any operator, in the form that the opset has; the names of its outputs."""
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        rewrite(self.net, op, names, attributes)
        found = self.net.node(op, *names, outputs=outputs, **attributes)
        return found if isinstance(found, list) else [found]

    def one(self, op: str, *inputs: str | Value, **attributes: object) -> str:
        """The name of the only output."""
        return self.node(op, *inputs, **attributes)[0]

    def add(self, name: str, shape: tuple[int, ...]) -> Value:
        """A value that further operators may read."""
        self.values.append(Value(name, tuple(int(size) for size in shape)))
        return self.values[-1]

    def const(self, array: object) -> str:
        return self.net.weight(np.asarray(array))

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def axis(self, value: Value, axis: int) -> int:
        """``axis``, from the front where the opset does not count from the back."""
        return axis % len(value.shape) if self.opset < 11 else axis

    def batches(self, value: Value) -> str:
        """The length of the first axis, which the network computes."""
        if self.opset >= 15:
            return self.one("Shape", value, end=1)
        return self.one("Slice", self.one("Shape", value), *map(self.ints, (0, 1, 0)))

    def subset(self, size: int, chance: float = 0.4) -> list[int]:
        """Some of ``size`` indices: often none, sometimes all."""
        if self.choose.random() < 0.25:
            return []
        return [index for index in range(size) if self.choose.random() < chance]

    def pick(self, rank: int = 4) -> Value:
        """A value of this rank; one is made where there is none."""
        known = [value for value in self.values if len(value.shape) == rank]
        if not known or (len(known) < 3 and self.choose.random() < 0.2):
            return self._as_rank(rank)
        return self.choose.choice(known)

    def _as_rank(self, rank: int) -> Value:
        images = [value for value in self.values if len(value.shape) == 4]
        source = self.choose.choice(images)
        batch, channels, height, width = source.shape
        if rank == 2:
            if self.choose.random() < 0.5:
                pooled = self.one("GlobalAveragePool", source)
                return self.add(self.one("Flatten", pooled), (batch, channels))
            return self.add(self.one("Flatten", source), (batch, channels * height * width))
        if rank == 3:
            flat = self.one("Reshape", source, self.ints(0, channels, height * width))
            name = self.one("Transpose", flat, perm=[0, 2, 1])
            return self.add(name, (batch, height * width, channels))
        return source

    def layered(self, rank: int = 4, width: int = 0, like: Value | None = None) -> Value:
        """A layer with random dead rows and unread columns; sometimes the bare value."""
        source = like if like is not None else self.pick(rank)
        if self.choose.random() < 0.1 and not width:
            return source
        outs = width or self.choose.randint(2, 7)
        if len(source.shape) == 4:
            return self._conv(source, outs)
        return self._linear(source, outs)

    def _conv(self, source: Value, outs: int) -> Value:
        kernel = self.choose.choice([1, 3])
        name = self.net.conv(
            source.name,
            (source.channels, outs),
            kernel,
            dead=self.subset(outs),
            unread=self.subset(source.channels, 0.25),
            dead_bias=self.choose.choice([0.0, 0.0, 0.7, -0.7]),
            bias=self.choose.choice([0.3, 0.3, None]),
        )
        return self.add(name, (source.shape[0], outs, *source.shape[2:]))

    def _linear(self, source: Value, outs: int) -> Value:
        ins = source.channels
        weight = self.numbers.standard_normal((ins, outs)) / np.sqrt(ins)
        dead = self.subset(outs)
        weight[:, dead] = 0
        weight[self.subset(ins, 0.25)] = 0
        bias = self.numbers.standard_normal(outs) * 0.3
        bias[dead] = self.choose.choice([0.0, 0.0, 0.7, -0.7])
        if len(source.shape) == 2 and self.choose.random() < 0.6:
            name = self.one("Gemm", source, self.const(weight.T), self.const(bias), transB=1)
        else:
            name = self.one("MatMul", source, self.const(weight))
            name = self.one("Add", name, self.const(bias))
        return self.add(name, (*source.shape[:-1], outs))

    def model(self) -> ir.Model:
        """The network: whatever nobody reads yet is read by a layer, and that is an output."""
        used = {name for node in self.net.nodes for name in node.input}
        loose = [value for value in self.values if value.name not in used]
        assert loose, "a generator read the value that it added"
        outputs = [self._head(value) for value in loose]
        return self.net.model(*dict.fromkeys(outputs))

    def _head(self, value: Value) -> str:
        if self.choose.random() < 0.1 and value.name != "input":
            return value.name
        head = self._linear(value, 2) if value.axis > 1 or len(value.shape) < 4 else None
        return (head or self._conv(value, 2)).name
