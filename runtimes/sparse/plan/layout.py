"""From operators on tensors to steps on memory: every tensor gets its view, views cost nothing.

From the back to the front: what layout do the readers want (``wish``), and is the tensor a part
of something larger, an output of the caller or a concatenation, in whose memory it can be computed
(``home``)? From the front to the back: steps, with a Copy only where a reader needs an order that
the tensor does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prunedeploy.runtimes.sparse.importer.graph import (
    VIEWS,
    ConcatOp,
    ConvertOp,
    ConvOp,
    GatherOp,
    Graph,
    MapOp,
    NormOp,
    Op,
    PadOp,
    PoolOp,
    ReduceOp,
    ResizeOp,
    SoftmaxOp,
    Tensor,
)
from prunedeploy.runtimes.sparse.plan import strides as layout
from prunedeploy.runtimes.sparse.plan.steps import (
    UNIT,
    Buffer,
    Copy,
    Dtype,
    Place,
    Plan,
    Port,
    Step,
    View,
    row_major,
)
from prunedeploy.runtimes.sparse.plan.steps import is_planar as lies_planar
from prunedeploy.runtimes.sparse.plan.strides import Layout

PLANAR = (ConvOp, PoolOp, ResizeOp)  # their results are planar, and nothing else

# their results lie as what they read, where nobody wishes anything
FOLLOWS = (ReduceOp, PadOp, GatherOp)

# the function of each operator that adds its steps
Emitters = Mapping[type, Callable[["Placer", Any], None]]


def is_planar(view: View, channel: int) -> bool:
    """Whether a tensor of any rank lies in planes of its axis ``channel``."""
    return view.size > 0 and lies_planar(view, channel)


def channel(op: Op) -> int:
    """The channel axis of a step over planes."""
    return op.channel if isinstance(op, ConvOp) else 1


class Placer:
    """Places one graph; ``plan`` is the result."""

    def __init__(self, graph: Graph, emitters: Emitters) -> None:
        self.graph = graph
        self._emitters = emitters
        self.producers = graph.producers()
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.views: dict[Tensor, View] = {}
        self.wishes: dict[Tensor, tuple[bool, Layout]] = {}
        self.homes: dict[Tensor, View] = {}
        self._copies: dict[tuple[Tensor, Layout], View] = {}
        self._constants: dict[tuple[Tensor, tuple[int, ...]], int] = {}
        self._names: set[str] = set()

    def plan(self, inputs: dict[str, Tensor], outputs: Sequence[str], batch: int) -> Plan:
        """Steps, buffers and ports."""
        ports = [self._input(i, name, t) for i, (name, t) in enumerate(inputs.items())]
        results = [self._output(i, name) for i, name in enumerate(outputs)]
        for op in reversed(self.graph.ops):
            self._wish(op)
            self._settle(op)
        for op in self.graph.ops:
            self._place(op)
        for port, tensor in zip(results, self.graph.outputs, strict=True):
            target = row_major(port.buffer, port.shape)
            found = self.view(tensor)
            if not layout.same(found, target):
                self.copy(f"{port.name} out", found, target)
        return Plan(batch, tuple(self.buffers), tuple(self.steps), tuple(ports), tuple(results))

    def _input(self, index: int, name: str, tensor: Tensor) -> Port:
        dtype: Dtype = tensor.dtype  # type: ignore[assignment]  # one of ``importer.TYPES``
        buffer = self.buffer("input", tensor.size, dtype, index)
        self.views[tensor] = row_major(buffer, tensor.shape)
        return Port(name, buffer, tensor.shape, dtype)

    def _output(self, index: int, name: str) -> Port:
        tensor = self.graph.outputs[index]
        buffer = self.buffer("output", tensor.size, "float32", index)
        self._offer(tensor, row_major(buffer, tensor.shape))
        return Port(name, buffer, tensor.shape)

    # -- from the back ----------------------------------------------------------------------------

    def _wish(self, op: Op) -> None:
        """Tell the tensors that ``op`` reads how it would like them to lie."""
        if isinstance(op, PLANAR):
            for tensor in op.inputs:
                self._ask(tensor, layout.planar(tensor.rank, channel(op)), True)
            return
        if op.output not in self.wishes:
            return
        must, wanted = self.wishes[op.output]
        if isinstance(op, VIEWS):
            pulled = layout.pull(op, wanted)
            if pulled is not None:
                self._ask(op.inputs[0], pulled, must)
        elif isinstance(op, MapOp | SoftmaxOp | NormOp | ConcatOp | ConvertOp):
            for tensor in op.inputs:
                if tensor.rank == op.output.rank and (
                    isinstance(op, ConcatOp) or tensor.shape == op.output.shape
                ):
                    self._ask(tensor, wanted, False)

    def _ask(self, tensor: Tensor, wanted: Layout, must: bool) -> None:
        if tensor not in self.wishes or (must and not self.wishes[tensor][0]):
            self.wishes[tensor] = (must, wanted)

    def _settle(self, op: Op) -> None:
        """Offer the parts of a concatenation their places in the whole."""
        if not isinstance(op, ConcatOp):
            return
        if op.output not in self.homes:
            wanted = self._layout(op)
            self.homes[op.output] = self.arena(op.output.shape, wanted)
        for tensor, part in zip(op.inputs, self.parts(op), strict=True):
            self._offer(tensor, part)

    def _layout(self, op: ConcatOp) -> Layout:
        if op.output in self.wishes:
            return self.wishes[op.output][1]
        for tensor in op.inputs:
            producer = self.producers.get(tensor)
            if isinstance(producer, PLANAR):
                return layout.planar(tensor.rank, channel(producer))
        return layout.row_major(op.output.rank)

    def parts(self, op: ConcatOp) -> list[View]:
        """Where each input of a concatenation belongs."""
        whole, start, found = self.homes[op.output], 0, []
        for tensor in op.inputs:
            offset = whole.offset + start * whole.strides[op.axis]
            found.append(View(whole.buffer, tensor.shape, whole.strides, offset))
            start += tensor.shape[op.axis]
        return found

    def _offer(self, tensor: Tensor, home: View) -> bool:
        """Have ``tensor`` computed at ``home`` if its producer can write there."""
        producer = self.producers.get(tensor)
        if producer is None or tensor in self.homes:
            return False
        if isinstance(producer, VIEWS):
            source = layout.backward(producer, home)
            taken = source is not None and self._offer(producer.inputs[0], source)
            self.homes[tensor] = home  # used if it comes to a copy
            return taken
        if isinstance(producer, PLANAR) and not self._fits(producer, home):
            return False
        self.homes[tensor] = home
        return True

    def _fits(self, op: Op, view: View) -> bool:
        """Whether a step over planes can write there: whole planes, ours or very short ones."""
        if not is_planar(view, channel(op)):
            return False
        pixels = view.size // max(view.shape[channel(op)], 1)
        return self.buffers[view.buffer].place == "arena" or pixels < UNIT

    # -- from the front ---------------------------------------------------------------------------

    def _place(self, op: Op) -> None:
        if isinstance(op, VIEWS):
            source = self.view(op.inputs[0])
            found = layout.forward(op, source)
            if found is None:
                found = self.moved(op, source)
            elif min(found.strides, default=0) < 0:  # kernels go forwards, but for a Copy's source
                backwards, found = found, self.result(op)
                self.copy(op.name, backwards, found)
            self.views[op.output] = found
        else:
            self._emitters[type(op)](self, op)

    def moved(self, op: Op, source: View) -> View:
        """A reshape that needs a copy: written in the order that its readers want."""
        target = self.result(op)
        split = layout.backward(op, target)
        if split is not None:
            self.copy(op.name, source, split)
            return target
        # neither side is a view of the other: through a copy in C order
        between = self.arena(source.shape, layout.row_major(len(source.shape)))
        self.copy(op.name, source, between)
        found = layout.forward(op, between)
        assert found is not None
        if op.output in self.homes:
            self.copy(op.name, found, target)
            return target
        return found

    def result(self, op: Op) -> View:
        """Where ``op`` writes: at home, as its readers wish, or as its first input lies."""
        tensor = op.output
        if tensor not in self.homes:
            self.homes[tensor] = self.arena(tensor.shape, self._natural(op))
        self.views[tensor] = self.homes[tensor]
        return self.homes[tensor]

    def _natural(self, op: Op) -> Layout:
        tensor = op.output
        if isinstance(op, PLANAR):
            return layout.planar(tensor.rank, channel(op))
        if tensor in self.wishes:
            return self.wishes[tensor][1]
        for source in op.inputs:
            if source.rank == tensor.rank and source.value is None and source.size == tensor.size:
                return layout.like(self.view(source))
        if isinstance(op, FOLLOWS):
            return layout.like(self.view(op.inputs[0]))
        return layout.row_major(tensor.rank)

    def view(self, tensor: Tensor) -> View:
        """Where a tensor lies."""
        if tensor not in self.views:
            assert tensor.value is not None
            self.views[tensor] = self._constant(tensor, tuple(range(tensor.rank)))
        return self.views[tensor]

    def spread(self, tensor: Tensor, y: View) -> View:
        """A tensor broadcast to the shape of ``y``; constants in the order of y's axes."""
        if tensor.value is None or tensor in self.views:
            return layout.broadcast(self.view(tensor), y.shape)
        front = len(y.shape) - tensor.rank
        order = [axis - front for axis in layout.like(y).order if axis >= front]
        return layout.broadcast(self._constant(tensor, tuple(order)), y.shape)

    def _constant(self, tensor: Tensor, order: tuple[int, ...]) -> View:
        """A constant whose axes lie in ``order``; what is repeated along an axis lies once."""
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
        """A tensor as planes in the arena, copied unless it lies so."""
        found, wanted = self.view(tensor), layout.planar(tensor.rank, axis)
        if self.buffers[found.buffer].place == "arena" and is_planar(found, axis):
            return found
        if (tensor, wanted) not in self._copies:
            target = self.arena(tensor.shape, wanted)
            producer = self.producers.get(tensor)
            self.copy(producer.name if producer else "input", found, target)
            self._copies[tensor, wanted] = target
        return self._copies[tensor, wanted]

    # -- memory and steps -------------------------------------------------------------------------

    def buffer(
        self,
        place: Place,
        size: int,
        dtype: Dtype = "float32",
        index: int = 0,
        value: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None,
    ) -> int:
        """A new buffer's number."""
        self.buffers.append(Buffer(place, size, dtype, index, value))
        return len(self.buffers) - 1

    def arena(self, shape: tuple[int, ...], wanted: Layout) -> View:
        """New memory for a tensor."""
        buffer = self.buffer("arena", wanted.size(shape))
        return View(buffer, shape, wanted.strides(shape))

    def add(self, step: Step) -> None:
        """Append a step."""
        self.steps.append(step)

    def name(self, name: str) -> str:
        """``name``, or one like it where it is taken: tuning results go by it."""
        free, count = name, 1
        while free in self._names:
            count += 1
            free = f"{name}#{count}"
        self._names.add(free)
        return free

    def copy(self, name: str, x: View, y: View) -> None:
        """Append a Copy."""
        self.add(Copy(self.name(f"{name} copy"), x, y))
