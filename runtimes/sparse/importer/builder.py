"""Building a ``Graph``: every method adds an operator, or computes it where all is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer import graph as ops
from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import Tensor, constant


@dataclass
class Builder:
    """Adds to ``graph`` under ``name``, that of the node at hand."""

    graph: ops.Graph
    name: str = ""

    def add(self, op: ops.Op) -> Tensor:
        """Append an operator; its output."""
        self.graph.ops.append(op)
        return op.output

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """Axes in another order."""
        order = tuple(axis % x.rank for axis in perm)
        if order == tuple(range(x.rank)):
            return x
        if x.value is not None:
            return constant(x.value.transpose(order))
        shape = tuple(x.shape[axis] for axis in order)
        return self.add(ops.TransposeOp(self.name, [x], x.like(shape), order))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements in C order in another shape."""
        new = tuple(int(size) for size in shape)
        if new == x.shape:
            return x
        if x.value is not None:
            return constant(x.value.reshape(new))
        return self.add(ops.ReshapeOp(self.name, [x], x.like(new)))

    def slice(
        self, x: Tensor, starts: Sequence[int], steps: Sequence[int], shape: Sequence[int]
    ) -> Tensor:
        """``shape`` elements from ``starts`` on, ``steps`` apart."""
        new = tuple(shape)
        if new == x.shape and all(step == 1 for step in steps):
            return x
        if x.value is not None:
            index = tuple(
                np.arange(size) * step + start
                for start, step, size in zip(starts, steps, new, strict=True)
            )
            return constant(x.value[np.ix_(*index)])
        return self.add(ops.SliceOp(self.name, [x], x.like(new), tuple(starts), tuple(steps)))

    def part(self, x: Tensor, axis: int, start: int, size: int) -> Tensor:
        """A run of one axis."""
        shape, starts = list(x.shape), [0] * x.rank
        shape[axis], starts[axis] = size, start
        return self.slice(x, starts, [1] * x.rank, shape)

    def expand(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Broadcast."""
        new = tuple(shape)
        if new == x.shape:
            return x
        if x.value is not None:
            return constant(np.broadcast_to(x.value, new))
        x = self.reshape(x, (1,) * (len(new) - x.rank) + x.shape)
        return x if x.shape == new else self.add(ops.ExpandOp(self.name, [x], x.like(new)))

    def floating(self, x: Tensor) -> Tensor:
        """``x`` as float32 in memory, whatever it stands for."""
        if x.value is not None and x.value.dtype != np.float32:
            return constant(x.value.astype(np.float32))
        if not x.raw:
            return x
        return self.add(ops.ConvertOp(self.name, [x], Tensor(x.shape, x.dtype, bound=x.bound)))

    def operand(self, x: Tensor) -> Expr:
        """``x`` in an expression: a number where it is one."""
        if x.value is not None and x.size == 1:
            return e.number(float(x.value.reshape(())))
        return e.tensor(self.floating(x))

    def elementwise(
        self,
        expr: Expr,
        shape: Sequence[int],
        dtype: str = "float32",
        bound: float = math.inf,
    ) -> Tensor:
        """Add a function of single elements; of integers, that none is larger than ``bound``."""
        if expr.op == "tensor" and expr.leaf.shape == tuple(shape) and expr.leaf.dtype == dtype:
            assert isinstance(expr.leaf, Tensor)
            return expr.leaf
        return self.add(
            ops.ElementwiseOp(
                self.name, e.leaves(expr), Tensor(tuple(shape), dtype, bound=bound), expr
            )
        )

    def apply(self, op: str, *inputs: Tensor, numbers: tuple[float, ...] = ()) -> Tensor:
        """One function of ``expr`` on tensors, broadcast."""
        made = Expr(op, tuple(self.operand(x) for x in inputs), numbers)
        return self.elementwise(made, ops.broadcast(*(x.shape for x in inputs)))

    def reduce(self, x: Tensor, kind: str, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """Reduce ``axes`` (not negative)."""
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        y = x
        if axes:
            source = self.floating(x)
            y = self.add(
                ops.ReduceOp(self.name, [source], Tensor(shape), kind, tuple(sorted(axes)))
            )
        if keepdims:
            return y
        return self.reshape(y, [n for axis, n in enumerate(x.shape) if axis not in axes])

    def linear(self, x: Tensor, weight: Array, bias: Array | None, channel: int) -> Tensor:
        """``weight`` [M, K] over axis ``channel`` of ``x``, which has K elements."""
        if weight.shape[1] != x.shape[channel]:
            raise ValueError(f"{weight.shape[1]} columns for {x.shape[channel]} features")
        rows = weight.shape[0]
        shape = list(x.shape)
        shape[channel] = rows
        offsets = np.zeros(rows, np.float32) if bias is None else bias
        taps = np.ascontiguousarray(weight, np.float32)[:, :, None, None]
        channel %= x.rank
        op = ops.ConvOp(self.name, [x], Tensor(tuple(shape)), taps, offsets, False, channel)
        return self.add(op)

    def take(self, x: Tensor, index: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
        """Elements of ``axis`` by computed indices, which broadcast to ``shape``, the result's."""
        made = Tensor(tuple(shape), x.dtype, bound=x.bound)
        inputs = [self.floating(x), self.floating(index)]
        return self.add(ops.TakeOp(self.name, inputs, made, axis))

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """NumPy's matmul; a linear layer where one operand is a constant matrix."""
        if b.rank == 1:
            product = self.matmul(a, self.reshape(b, (*b.shape, 1)))
            return self.reshape(product, product.shape[:-1])
        if a.rank == 1:
            product = self.matmul(self.reshape(a, (1, *a.shape)), b)
            return self.reshape(product, product.shape[:-2] + product.shape[-1:])
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"{list(a.shape)} times {list(b.shape)}")
        lead = ops.broadcast(a.shape[:-2], b.shape[:-2])
        shape = (*lead, a.shape[-2], b.shape[-1])
        if b.value is not None and math.prod(b.shape[:-2]) == 1:
            matrix = b.value.reshape(b.shape[-2:]).T
            return self.reshape(self.linear(a, matrix, None, a.rank - 1), shape)
        if a.value is not None and math.prod(a.shape[:-2]) == 1:
            matrix = a.value.reshape(a.shape[-2:])
            return self.reshape(self.linear(b, matrix, None, b.rank - 2), shape)
        left = self.expand(a, (*lead, *a.shape[-2:]))
        right = self.expand(b, (*lead, *b.shape[-2:]))
        return self.add(ops.MatMulOp(self.name, [left, right], Tensor(shape)))
