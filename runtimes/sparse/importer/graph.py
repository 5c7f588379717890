"""The graph between ONNX and plan: operators on whole tensors of known shape, no memory yet.

``importer`` makes it, ``fuse`` makes it smaller, ``plan/layout.py`` assigns memory to it.
Reshape, Transpose, Slice and Expand are operators here and only views later on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.plan.steps import Activation

NONE = Activation()
INTEGERS = ("int64", "int32", "uint8")
EXACT = 1 << 24  # integers below it are float32 numbers
UINT8 = 255.0  # the largest one


@dataclass(eq=False)
class Tensor:
    """A value of known shape; ``value`` where it is a constant.

    ``dtype`` is what it stands for in the model. In the arena integers and truth values are
    carried as float32; ``raw`` ones are in the caller's memory, as their own type. No integer is
    larger than ``bound``; float32 has all of them where that is below ``EXACT``.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    value: Array | None = None
    raw: bool = False
    bound: float = math.inf

    def __post_init__(self) -> None:
        if self.dtype == "bool":
            self.bound = 1.0
        elif self.dtype == "uint8" and self.value is None:
            self.bound = min(self.bound, UINT8)
        elif self.value is not None and self.value.dtype.kind in "iu":
            self.bound = float(np.abs(self.value.astype(np.float64)).max(initial=0.0))

    @property
    def is_integer(self) -> bool:
        """Whether it stands for integers."""
        return self.dtype in INTEGERS

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def like(self, shape: tuple[int, ...]) -> Tensor:
        """Another tensor of the same type."""
        return Tensor(shape, self.dtype, raw=self.raw, bound=self.bound)


def constant(array: Array) -> Tensor:
    """A tensor that is known."""
    array = np.asarray(array)
    return Tensor(array.shape, array.dtype.name, array)


@dataclass(eq=False)
class Op:
    """One operator: ``inputs`` in, one tensor out."""

    name: str
    inputs: list[Tensor]
    output: Tensor


@dataclass(eq=False)
class ConvOp(Op):
    """``plan.Conv``: inputs are x and, where there is one, the residual.

    With ``window`` the tensors are [N, C, spatial axes]; without it is a linear layer over
    tensors of any rank, whose channels are axis ``channel``.
    """

    weight: Array
    bias: Array
    window: bool
    channel: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = NONE


@dataclass(eq=False)
class ElementwiseOp(Op):
    """A function of single elements; its leaves are tensors, broadcast to the output's shape."""

    expr: Expr


@dataclass(eq=False)
class PadOp(Op):
    """Constant padding: ``before`` elements in front of each axis."""

    before: tuple[int, ...]
    fill: float


@dataclass(eq=False)
class PoolOp(Op):
    """``plan.Pool``."""

    kind: Literal["max", "average"]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    count_include_pad: bool


@dataclass(eq=False)
class ReduceOp(Op):
    """``plan.Reduce``: the axes are kept, with length 1."""

    kind: str
    axes: tuple[int, ...]


@dataclass(eq=False)
class SoftmaxOp(Op):
    """``plan.Softmax``."""

    axis: int
    log: bool


@dataclass(eq=False)
class NormOp(Op):
    """``plan.Norm``."""

    axes: tuple[int, ...]
    epsilon: float
    scale: Array | None
    bias: Array | None
    centre: bool = True


@dataclass(eq=False)
class MatMulOp(Op):
    """``plan.MatMul``: inputs are a, b and, where there is one, what is added (broadcast)."""

    alpha: float = 1.0


@dataclass(eq=False)
class LookupOp(Op):
    """``plan.Lookup``: the input holds the indices."""

    table: Array


@dataclass(eq=False)
class ResizeOp(Op):
    """``plan.Resize``."""

    rows: tuple[tuple[int, int, float], ...]
    columns: tuple[tuple[int, int, float], ...]


@dataclass(eq=False)
class RecurrentOp(Op):
    """``plan.Recurrence``: inputs are x and, where they are given, the first states."""

    kind: Literal["lstm", "gru", "rnn"]
    weight: Array
    backward: tuple[bool, ...]
    functions: tuple[Activation, ...]
    bias: Array | None = None


@dataclass(eq=False)
class TakeOp(Op):
    """``plan.Take``: inputs are x and the indices, which broadcast to the output's shape."""

    axis: int


@dataclass(eq=False)
class TopOp(Op):
    """``plan.Top``: the output has one axis more in front, for the values and their indices."""

    axis: int
    largest: bool
    later: bool


@dataclass(eq=False)
class ConcatOp(Op):
    """The inputs one behind the other along ``axis``."""

    axis: int


@dataclass(eq=False)
class GatherOp(Op):
    """The ``indices`` of ``axis``, which are known and not negative."""

    axis: int
    indices: tuple[int, ...]


@dataclass(eq=False)
class TransposeOp(Op):
    """Output axis i is input axis ``perm[i]``."""

    perm: tuple[int, ...]


@dataclass(eq=False)
class ReshapeOp(Op):
    """The same elements in C order, in the output's shape."""


@dataclass(eq=False)
class SliceOp(Op):
    """From ``starts`` on, every ``steps``-th element of each axis."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(eq=False)
class ExpandOp(Op):
    """Broadcast to the output's shape, of the same rank."""


@dataclass(eq=False)
class ConvertOp(Op):
    """The numbers of an integer or truth value as float32."""


VIEWS = (TransposeOp, ReshapeOp, SliceOp, ExpandOp)


@dataclass
class Graph:
    """Operators in an order in which they can run."""

    inputs: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    def users(self) -> dict[Tensor, list[Op]]:
        """Who reads each tensor, each reader once."""
        readers: dict[Tensor, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(op.inputs):
                readers.setdefault(tensor, []).append(op)
        return readers

    def producers(self) -> dict[Tensor, Op]:
        """The operator that computes each tensor."""
        return {op.output: op for op in self.ops}

    def remove(self, gone: Iterable[Op]) -> None:
        """Drop operators."""
        dead = set(gone)
        self.ops = [op for op in self.ops if op not in dead]

    def prune(self) -> None:
        """Drop what no output needs."""
        needed = set(self.outputs)
        kept = []
        for op in reversed(self.ops):
            if op.output in needed:
                needed.update(op.inputs)
                kept.append(op)
        self.ops = kept[::-1]


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """NumPy's broadcast shape."""
    return tuple(np.broadcast_shapes(*map(tuple, shapes)))
