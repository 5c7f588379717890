"""Layout assignment: from operators on tensors to steps on memory.

Every tensor gets a view of a buffer; operators that only change views cost nothing. One walk from
the last operator to the first collects which layout the readers of each tensor prefer, and which
tensors can be computed where they are needed in the end: in an output of the caller, or in their
part of a concatenation. A walk from the first to the last then emits the steps, with a Copy only
where a reader needs an order of axes that the tensor does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prunedeploy.runtimes.sparse.importer import graph as ops
from prunedeploy.runtimes.sparse.importer.graph import ConcatOp, Op, Tensor
from prunedeploy.runtimes.sparse.importer.importer import RefusedError
from prunedeploy.runtimes.sparse.importer.quantised import (
    BYTE,
    Add8Op,
    Conv8Op,
    DequantiseOp,
    Pool8Op,
    QuantiseOp,
)
from prunedeploy.runtimes.sparse.plan import steps, views
from prunedeploy.runtimes.sparse.plan import strides as layout
from prunedeploy.runtimes.sparse.plan.steps import Port
from prunedeploy.runtimes.sparse.plan.strides import Layout
from prunedeploy.runtimes.sparse.plan.views import View

PLANAR = (
    ops.ConvOp,
    ops.PoolOp,
    ops.ResizeOp,
    Conv8Op,
    Pool8Op,
)  # their results are planar, and nothing else

# their results have the layout of what they read, where no reader prefers another
FOLLOWS = (ops.ReduceOp, ops.PadOp, ops.GatherOp, ops.TakeOp)

# the function of each operator that adds its steps
Emitters = Mapping[type, Callable[["LayoutAssigner", Any], None]]


def is_planar(view: View, channel: int) -> bool:
    """Whether a tensor of any rank is planar, with axis ``channel`` from plane to plane."""
    return view.size > 0 and views.is_planar(view, channel)


def channel(op: Op) -> int:
    """The channel axis of an operator over planes."""
    return op.channel if isinstance(op, ops.ConvOp | Conv8Op) else 1


class LayoutAssigner:
    """Assigns layouts and memory to the tensors of one graph; ``plan`` is the result.

    Args:
        graph: its operators are in the order in which they run.
        emitters: for each class of operators the function that adds its steps.
    """

    def __init__(self, graph: ops.Graph, emitters: Emitters) -> None:
        self.graph = graph
        self._emitters = emitters
        self.producers = graph.producers()
        self.buffers: list[views.Buffer] = []
        self.steps: list[steps.Step] = []
        self.views: dict[Tensor, View] = {}
        self.preferred: dict[Tensor, tuple[bool, Layout]] = {}  # whether it is required, and it
        self.targets: dict[Tensor, View] = {}  # views that tensors are to be computed in
        self._copies: dict[tuple[Tensor, Layout], View] = {}
        self._constants: dict[tuple[Tensor, tuple[int, ...]], int] = {}
        self._names: set[str] = set()

    def plan(self, inputs: dict[str, Tensor], outputs: Sequence[str], batch: int) -> steps.Plan:
        """The steps, buffers and ports; no buffer of the arena has an offset yet.

        Raises:
            RefusedError: float32, which an output of integers passes through, may round them.
        """
        ports = [self._input(i, name, t) for i, (name, t) in enumerate(inputs.items())]
        results = [self._output(i, name) for i, name in enumerate(outputs)]
        for op in reversed(self.graph.ops):
            self._prefer(op)
            if isinstance(op, ConcatOp):
                self._assign_parts(op)
        for op in self.graph.ops:
            self._emit(op)
        for port, tensor in zip(results, self.graph.outputs, strict=True):
            view, target = self.view(tensor), views.row_major(port.buffer, port.shape)
            converted = self.buffers[view.buffer].dtype != tensor.dtype
            if converted and tensor.is_integer and tensor.bound >= ops.EXACT:
                raise RefusedError("output", port.name, "float32 may round its integers")
            if not layout.same(view, target):
                self.copy(f"{port.name} out", view, target)
        return steps.Plan(
            batch, tuple(self.buffers), tuple(self.steps), tuple(ports), tuple(results)
        )

    def _input(self, index: int, name: str, tensor: Tensor) -> Port:
        dtype: views.Dtype = tensor.dtype  # type: ignore[assignment]  # one of ``importer.TYPES``
        buffer = self.buffer("input", tensor.size, dtype, index)
        self.views[tensor] = views.row_major(buffer, tensor.shape)
        return Port(name, buffer, tensor.shape, dtype)

    def _output(self, index: int, name: str) -> Port:
        tensor = self.graph.outputs[index]
        dtype: views.Dtype = tensor.dtype  # type: ignore[assignment]  # one of ``importer.TYPES``
        buffer = self.buffer("output", tensor.size, dtype, index)
        if dtype == "float32":  # steps compute nothing else; a Copy converts it
            self._assign(tensor, views.row_major(buffer, tensor.shape))
        return Port(name, buffer, tensor.shape, dtype)

    # -- from the last operator to the first ------------------------------------------------------

    def _prefer(self, op: Op) -> None:
        """Note for the tensors that ``op`` reads which layout it prefers them in."""
        if isinstance(op, PLANAR):
            for tensor in op.inputs:
                self._note(tensor, layout.planar(tensor.rank, channel(op)), True)
            return
        if op.output not in self.preferred:
            return
        required, wanted = self.preferred[op.output]
        if isinstance(op, ops.VIEWS):
            pulled = layout.pull(op, wanted)
            if pulled is not None:
                self._note(op.inputs[0], pulled, required)
        elif isinstance(
            op,
            ops.ElementwiseOp | ops.SoftmaxOp | ops.NormOp | ConcatOp | ops.ConvertOp
            | Add8Op | QuantiseOp | DequantiseOp,
        ):  # fmt: skip
            for tensor in op.inputs:
                if tensor.rank == op.output.rank and (
                    isinstance(op, ConcatOp) or tensor.shape == op.output.shape
                ):
                    self._note(tensor, wanted, False)

    def _note(self, tensor: Tensor, wanted: Layout, required: bool) -> None:
        """The first preference counts, but for one that is required."""
        if tensor not in self.preferred or (required and not self.preferred[tensor][0]):
            self.preferred[tensor] = (required, wanted)

    def _assign_parts(self, op: ConcatOp) -> None:
        """Have the inputs of a concatenation computed in their parts of the whole."""
        if op.output not in self.targets:
            self.targets[op.output] = self.arena(op.output.shape, self._concat_layout(op))
        for tensor, part in zip(op.inputs, self.parts(op), strict=True):
            self._assign(tensor, part)

    def _concat_layout(self, op: ConcatOp) -> Layout:
        if op.output in self.preferred:
            return self.preferred[op.output][1]
        for tensor in op.inputs:
            producer = self.producers.get(tensor)
            if isinstance(producer, PLANAR):
                return layout.planar(tensor.rank, channel(producer))
        return layout.row_major(op.output.rank)

    def parts(self, op: ConcatOp) -> list[View]:
        """The view of the whole that each input of a concatenation takes."""
        whole, start, views = self.targets[op.output], 0, []
        for tensor in op.inputs:
            offset = whole.offset + start * whole.strides[op.axis]
            views.append(View(whole.buffer, tensor.shape, whole.strides, offset))
            start += tensor.shape[op.axis]
        return views

    def _assign(self, tensor: Tensor, target: View) -> bool:
        """Have ``tensor`` computed in ``target``, if its producer can write there."""
        producer = self.producers.get(tensor)
        if producer is None or tensor in self.targets:
            return False
        if isinstance(producer, ops.VIEWS):
            source = layout.backward(producer, target)
            assigned = source is not None and self._assign(producer.inputs[0], source)
            self.targets[tensor] = target  # used if it comes to a copy
            return assigned
        if isinstance(producer, PLANAR) and not self._can_write(producer, target):
            return False
        self.targets[tensor] = target
        return True

    def _can_write(self, op: Op, view: View) -> bool:
        """Whether a step over planes can write ``view``.

        It writes whole planes, with their padding: in the arena, or planes so short that they have
        none.
        """
        if not is_planar(view, channel(op)):
            return False
        pixels = view.size // max(view.shape[channel(op)], 1)
        return self.buffers[view.buffer].space == "arena" or pixels < views.UNIT

    # -- from the first operator to the last ------------------------------------------------------

    def _emit(self, op: Op) -> None:
        if not isinstance(op, ops.VIEWS):
            self._emitters[type(op)](self, op)
            return
        source = self.view(op.inputs[0])
        view = layout.forward(op, source)
        if view is None:
            view = self._copy_reshaped(op, source)
        elif min(view.strides, default=0) < 0:  # kernels go forwards, but for a Copy's source
            backwards, view = view, self.result(op)
            self.copy(op.name, backwards, view)
        self.views[op.output] = view

    def _copy_reshaped(self, op: Op, source: View) -> View:
        """A reshape that needs a copy: written in the layout that its readers prefer."""
        target = self.result(op)
        unshaped = layout.backward(op, target)
        if unshaped is not None:
            self.copy(op.name, source, unshaped)
            return target
        # neither side is a view of the other: through a copy in C order
        wanted = layout.row_major(len(source.shape))
        between = self.arena(source.shape, wanted, op.output.dtype)
        self.copy(op.name, source, between)
        view = layout.forward(op, between)
        assert view is not None
        self.copy(op.name, view, target)
        return target

    def result(self, op: Op) -> View:
        """The view that ``op`` writes: the one assigned, or new memory.

        New memory has the layout that readers prefer, else that of the first input.
        """
        tensor = op.output
        if tensor not in self.targets:
            self.targets[tensor] = self.arena(tensor.shape, self._layout(op), tensor.dtype)
        self.views[tensor] = self.targets[tensor]
        return self.targets[tensor]

    def _layout(self, op: Op) -> Layout:
        tensor = op.output
        if isinstance(op, PLANAR):
            return layout.planar(tensor.rank, channel(op))
        if tensor in self.preferred:
            return self.preferred[tensor][1]
        for source in op.inputs:
            if source.rank == tensor.rank and source.value is None and source.size == tensor.size:
                return layout.like(self.view(source))
        if isinstance(op, FOLLOWS):
            return layout.like(self.view(op.inputs[0]))
        return layout.row_major(tensor.rank)

    def view(self, tensor: Tensor) -> View:
        """The view of a tensor that was computed, or is constant."""
        if tensor not in self.views:
            assert tensor.value is not None
            self.views[tensor] = self._constant(tensor, tuple(range(tensor.rank)))
        return self.views[tensor]

    def broadcast(self, tensor: Tensor, y: View) -> View:
        """A tensor broadcast to the shape of ``y``; constants in the order of y's axes."""
        if tensor.value is None or tensor in self.views:
            return layout.broadcast(self.view(tensor), y.shape)
        front = len(y.shape) - tensor.rank
        order = [axis - front for axis in layout.like(y).order if axis >= front]
        return layout.broadcast(self._constant(tensor, tuple(order)), y.shape)

    def _constant(self, tensor: Tensor, order: tuple[int, ...]) -> View:
        """A constant with its axes in ``order``, stored once along axes that repeat it."""
        assert tensor.value is not None
        once = tuple(slice(1 if stride == 0 else None) for stride in tensor.value.strides)
        value = tensor.value[once]
        if (tensor, order) not in self._constants:
            flat = np.ascontiguousarray(value.transpose(order), np.float32).reshape(-1)
            self._constants[tensor, order] = self.buffer("constant", flat.size, value=flat)
        buffer = self._constants[tensor, order]
        view = View(buffer, value.shape, Layout(order).strides(value.shape))
        return layout.broadcast(view, tensor.shape)

    def planes(self, tensor: Tensor, axis: int) -> View:
        """A tensor as planes of ``axis`` in the arena, copied unless it is there as such."""
        view = self.view(tensor)
        if self.buffers[view.buffer].space == "arena" and is_planar(view, axis):
            return view
        return self._copied(tensor, layout.planar(tensor.rank, axis))

    def in_order(self, tensor: Tensor) -> View:
        """A tensor of float32 in C order, copied unless it is."""
        view = self.view(tensor)
        wanted = replace(views.row_major(view.buffer, view.shape), offset=view.offset)
        if layout.same(view, wanted):
            return view
        return self._copied(tensor, layout.row_major(tensor.rank))

    def _copied(self, tensor: Tensor, wanted: Layout) -> View:
        """A copy of a tensor in the arena; the same one for all who want it so."""
        view = self.view(tensor)
        if (tensor, wanted) not in self._copies:
            target = self.arena(tensor.shape, wanted, tensor.dtype)
            producer = self.producers.get(tensor)
            self.copy(producer.name if producer else "input", view, target)
            self._copies[tensor, wanted] = target
        return self._copies[tensor, wanted]

    # -- memory and steps -------------------------------------------------------------------------

    def buffer(
        self,
        space: views.MemorySpace,
        size: int,
        dtype: views.Dtype = "float32",
        index: int = 0,
        value: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None,
    ) -> int:
        """A new buffer's number."""
        self.buffers.append(views.Buffer(space, size, dtype, index, value))
        return len(self.buffers) - 1

    def arena(self, shape: tuple[int, ...], wanted: Layout, dtype: str = "float32") -> View:
        """New memory for a tensor; that of bytes is four times as small."""
        size = wanted.size(shape)
        if dtype == BYTE:
            buffer = self.buffer("arena", -(-size // 4), "uint8")
        else:
            buffer = self.buffer("arena", size)
        return View(buffer, shape, wanted.strides(shape))

    def add(self, step: steps.Step) -> None:
        """Append a step."""
        self.steps.append(step)

    def name(self, name: str) -> str:
        """``name`` with a number behind it where it is taken: tuning results go by names."""
        free, count = name, 1
        while free in self._names:
            count += 1
            free = f"{name}#{count}"
        self._names.add(free)
        return free

    def copy(self, name: str, x: View, y: View) -> None:
        """Append a Copy."""
        self.add(steps.Copy(self.name(f"{name} copy"), x, y))
