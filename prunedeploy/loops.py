"""Loop as the ONNX operator defines it: its body a model of its own, run by the interpreter.

``onnx.reference`` takes a condition that is not given for a false one, and joins what is scanned
along the axis that is there instead of one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

Arrays = Mapping[str, Any]
# The body's results by name, from arrays for its inputs and all that it reads from around it.
Run = Callable[[Arrays], Arrays]


def body_model(node: ir.Node, captured: Sequence[str], opsets: Mapping[str, int]) -> ir.Model:
    """The body with what it reads from around it as further inputs."""
    graph = ir.serde.serialize_graph(node.attributes["body"].as_graph())
    untyped = onnx.TypeProto()
    graph.input.extend(onnx.helper.make_value_info(name, untyped) for name in captured)
    imports = [onnx.helper.make_opsetid(*item) for item in opsets.items()]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=imports))


def loop(node: ir.Node, run: Run, captured: Arrays, *inputs: Any) -> list[Any] | None:
    """Last states, then what was scanned, a step an index of a new first axis.

    None for states that are no arrays, and where nothing was scanned, whose shape is not known.
    """
    body = node.attributes["body"].as_graph()
    names = [str(value.name) for value in body.inputs]
    outputs = [str(value.name) for value in body.outputs]
    limit, condition, *states = inputs
    count = len(states)
    if any(not isinstance(state, np.ndarray) for state in states):
        return None
    steps: list[list[Any]] = []
    going = condition is None or bool(np.all(condition))
    while going and (limit is None or len(steps) < int(np.asarray(limit).reshape(()))):
        index = np.array(len(steps), np.int64)
        given = [index, np.array(True), *states]
        found = run({**captured, **dict(zip(names, given, strict=True))})
        going = bool(np.all(found[outputs[0]]))
        results = [found[name] for name in outputs[1:]]
        states = results[:count]
        steps.append(results[count:])
    scanned = len(outputs) - 1 - count
    if scanned and not steps:
        return None
    return [*states, *(np.stack([step[i] for step in steps]) for i in range(scanned))]
