"""If, Loop, Scan and SequenceMap: their bodies are models of their own, run by the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from prunedeploy.graph.subgraphs import bodies
from prunedeploy.reference.cost import Meter, elements
from prunedeploy.reference.table import integer, integers, listed

Arrays = Mapping[str, Any]
# A body's results by name, from values for its inputs and all that it reads from around it.
Run = Callable[[Arrays], Arrays]


class Make(Protocol):
    """What the interpreter makes of a body; values are computed as in the graph around it."""

    @property
    def meter(self) -> Meter:
        """Counts what the bodies keep."""
        ...

    def __call__(self, model: ir.Model) -> Run:
        """What runs it."""
        ...


# A node's results, from its inputs and all values around it by name.
Step = Callable[[Sequence[Any], Arrays], tuple[Any, ...]]
# A step of a node whose model has these opsets.
Builder = Callable[[ir.Node, Mapping[str, int], Make], Step]


def captured(node: ir.Node) -> list[str]:
    """Names that the node's subgraphs read from the graph around them."""
    return list(dict.fromkeys(name for body in bodies(node) for name in _outer(body)))


def _outer(graph: ir.Graph) -> list[str]:
    own = {v.name for v in graph.inputs} | set(graph.initializers)
    own |= {v.name for inner in graph for v in inner.outputs}
    reads = [v.name for inner in graph for v in inner.inputs if v is not None]
    reads += [name for inner in graph for name in captured(inner)]
    reads += [v.name for v in graph.outputs]
    return [name for name in reads if name and name not in own]


class _Body:
    """A subgraph as a function of its inputs, in their order."""

    def __init__(
        self, node: ir.Node, attribute: str, opsets: Mapping[str, int], make: Make
    ) -> None:
        self.graph = node.attributes[attribute].as_graph()
        self._meter, self._node = make.meter, f"{node.op_type} ({node.name})"
        self._inputs = [str(value.name) for value in self.graph.inputs]
        self._outputs = [str(value.name) for value in self.graph.outputs]
        self._captured = list(dict.fromkeys(_outer(self.graph)))
        proto = ir.serde.serialize_graph(self.graph)
        untyped = onnx.TypeProto()
        info = onnx.helper.make_value_info
        proto.input.extend(info(name, untyped) for name in self._captured)
        imports = [onnx.helper.make_opsetid(*item) for item in opsets.items()]
        self._run = make(ir.from_proto(onnx.helper.make_model(proto, opset_imports=imports)))

    def __call__(self, given: Sequence[Any], around: Arrays) -> list[Any]:
        """All outputs."""
        feeds = {name: around[name] for name in self._captured}
        feeds |= dict(zip(self._inputs, given, strict=True))
        values = self._run(feeds)
        return [values[name] for name in self._outputs]

    def expect(self, times: int) -> None:
        """Check, before the first of so many steps, that they are not too many."""
        self._meter.expect(times * len(self.graph))

    def goes_on(self) -> bool:
        """Whether the condition that a loop's body gives is always the one that it is given."""
        value = self.graph.outputs[0]
        while (made := value.producer()) is not None and made.op_type == "Identity":
            value = made.inputs[0] or value
        return value is self.graph.inputs[1]

    def keep(self, results: list[Any]) -> list[Any]:
        """Count results that stay until all steps are done."""
        self._meter.hold(self._node, elements(results), self._meter.fed)
        return results

    def stack(self, steps: list[list[Any]]) -> list[Any]:
        """What was kept of every step, a step an index of a new first axis."""
        self.let_go(steps)
        return [np.stack(each) for each in zip(*steps, strict=True)]

    def let_go(self, steps: list[list[Any]]) -> None:
        """What was kept is somebody else's now."""
        self._meter.hold(self._node, -elements(steps), self._meter.fed)

    def nothing(self, index: int) -> Any:
        """Output ``index`` of a body that never ran: an array with an empty axis."""
        value = self.graph.outputs[index]
        if value.shape is None or value.dtype is None or not value.shape.is_static():
            raise ValueError("its body never runs, and the shape of what it gives is not known")
        return np.zeros((0, *value.shape.numpy()), value.dtype.numpy())


def _if(node: ir.Node, opsets: Mapping[str, int], make: Make) -> Step:
    yes, no = (_Body(node, name, opsets, make) for name in ("then_branch", "else_branch"))

    def step(inputs: Sequence[Any], around: Arrays) -> tuple[Any, ...]:
        branch = yes if bool(np.asarray(inputs[0]).reshape(())) else no
        return tuple(branch([], around))

    return step


def _loop(node: ir.Node, opsets: Mapping[str, int], make: Make) -> Step:
    """Last states, then what was scanned, a step an index of a new first axis.

    A condition that is not given is true.
    """
    body = _Body(node, "body", opsets, make)
    endless = body.goes_on()

    def step(inputs: Sequence[Any], around: Arrays) -> tuple[Any, ...]:
        limit, condition, *states = [*inputs, None, None][: max(2, len(inputs))]
        count = len(states)
        steps: list[list[Any]] = []
        going = condition is None or bool(np.all(condition))
        trips = math.inf if limit is None else int(np.asarray(limit).reshape(()))
        if going and trips < math.inf and endless:
            body.expect(int(trips))
        while going and len(steps) < trips:
            index = np.array(len(steps), np.int64)
            going_on, *results = body([index, np.array(True), *states], around)
            going = bool(np.all(going_on))
            states = results[:count]
            steps.append(body.keep(results[count:]))
        scanned = range(len(body.graph.outputs) - 1 - count)
        if not steps:
            return *states, *(body.nothing(1 + count + i) for i in scanned)
        return *states, *body.stack(steps)

    return step


def _directed(values: Sequence[Any], backwards: Sequence[int]) -> list[Any]:
    return [v[::-1] if back else v for v, back in zip(values, backwards, strict=True)]


def _scan(node: ir.Node, opsets: Mapping[str, int], make: Make) -> Step:
    """Steps along an axis of every input that is scanned, and a new one of every result."""
    body = _Body(node, "body", opsets, make)
    scanned = integer(node, "num_scan_inputs", 0)
    kept = len(node.inputs) - scanned
    made = len(body.graph.outputs) - kept
    in_axes = integers(node, "scan_input_axes", [0] * scanned)
    out_axes = integers(node, "scan_output_axes", [0] * made)
    in_back = integers(node, "scan_input_directions", [0] * scanned)
    out_back = integers(node, "scan_output_directions", [0] * made)

    def step(inputs: Sequence[Any], around: Arrays) -> tuple[Any, ...]:
        states = list(inputs[:kept])
        rows = [np.moveaxis(x, a, 0) for x, a in zip(inputs[kept:], in_axes, strict=True)]
        states, stacked = _scanned(body, states, _directed(rows, in_back), around)
        stacked = _directed(stacked, out_back)
        return *states, *(np.moveaxis(y, 0, a) for y, a in zip(stacked, out_axes, strict=True))

    return step


def _scanned(
    body: _Body, states: list[Any], rows: list[Any], around: Arrays
) -> tuple[list[Any], list[Any]]:
    kept, steps = len(states), []
    body.expect(min(map(len, rows), default=0))
    for given in zip(*rows, strict=True):
        results = body([*states, *given], around)
        states = results[:kept]
        steps.append(body.keep(results[kept:]))
    made = range(len(body.graph.outputs) - kept)
    if not steps:
        return states, [body.nothing(kept + i) for i in made]
    return states, body.stack(steps)


def _scan_8(node: ir.Node, opsets: Mapping[str, int], make: Make) -> Step:
    """Opset 8: sample by sample along axis 0 of all values, steps along axis 1.

    Past the end of a sequence that is shorter, as the first input says, results are zero.
    """
    body = _Body(node, "body", opsets, make)
    scanned = integer(node, "num_scan_inputs", 0)
    kept = len(node.inputs) - 1 - scanned
    back = integers(node, "directions", [0] * scanned)

    def step(inputs: Sequence[Any], around: Arrays) -> tuple[Any, ...]:
        lengths, *values = inputs
        batch, longest = values[kept].shape[:2]
        ends = [longest] * batch if lengths is None else listed(lengths)
        samples = []
        for sample, end in enumerate(ends):
            rows = [x[sample, :end] for x in values[kept:]]
            states = [x[sample] for x in values[:kept]]
            states, stacked = _scanned(body, states, _directed(rows, back), around)
            whole = [np.zeros((longest, *y.shape[1:]), y.dtype) for y in stacked]
            for full, part in zip(whole, stacked, strict=True):
                full[:end] = part
            samples.append([*states, *whole])
        return tuple(np.stack(each) for each in zip(*samples, strict=True))

    return step


def _sequence_map(node: ir.Node, opsets: Mapping[str, int], make: Make) -> Step:
    """The body on every element of the first sequence, with those of the others beside it."""
    body = _Body(node, "body", opsets, make)

    def step(inputs: Sequence[Any], around: Arrays) -> tuple[Any, ...]:
        stacked = []
        for index in range(len(inputs[0])):
            given = [x[index] if isinstance(x, list) else x for x in inputs]
            stacked.append(body.keep(body(given, around)))
        body.let_go(stacked)
        return tuple([each[i] for each in stacked] for i in range(len(body.graph.outputs)))

    return step


NEWER = (16, 19, 21, 23, 24, 25)


def _same(builder: Builder, *versions: int) -> dict[int, Builder]:
    return dict.fromkeys(versions, builder)


TABLE: dict[str, dict[int, Builder]] = {
    "If": _same(_if, 1, 11, 13, *NEWER),
    "Loop": _same(_loop, 1, 11, 13, *NEWER),
    "Scan": _same(_scan_8, 8) | _same(_scan, 9, 11, *NEWER),
    "SequenceMap": _same(_sequence_map, 17),
}
