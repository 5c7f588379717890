"""An ONNX model as a torch module: its initializers as parameters, its nodes as torch functions.

The module is made to be exported (``program.py``); what runs in the end is the exported program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.to_torch import values as written
from prunedeploy.to_torch.layouts import LAYOUTS, ON_KNOWN, TAKES_KNOWN
from prunedeploy.to_torch.operators import OPERATORS
from prunedeploy.to_torch.values import CannotExpress, Known, Value, known, tensor, tensors

LONGEST = 4096  # elements of a constant that an operator may ask to know beforehand


class Network(nn.Module):
    """Runs the nodes of ``model`` in order; inputs by position, as the model lists them.

    Args:
        model: functions inlined, nodes in topological order.
        frozen: initializers that are buffers, not parameters. Integers, numbers (of a Clip, a
            Pow) and the statistics of normalisations are buffers anyway.

    Raises:
        UserError: an operator that no row of the tables expresses, by name.
    """

    def __init__(self, model: ir.Model, frozen: Collection[str] = ()) -> None:
        super().__init__()
        graph = model.graph
        self._inputs = [str(v.name) for v in graph.inputs if v.name not in graph.initializers]
        self._results = [str(v.name) for v in graph.outputs]
        self._nodes = [(node, _operator(node)) for node in graph]
        self._owners: dict[str, tuple[nn.Module, str, Any]] = {}
        statistics = _statistics(graph)
        for name, path in parameter_names(graph).items():
            tensor = graph.initializers[name].const_value
            assert tensor is not None
            array = tensor.numpy()
            trains = tensor.dtype.is_floating_point() and array.size > 1 and array.ndim > 0
            trains = trains and name not in frozen and graph.initializers[name] not in statistics
            trains = trains and bool(np.isfinite(array).all())
            small = not trains and array.size <= LONGEST
            owner, key = _owner(self, path)
            value = written.of_array(array)
            if trains:
                owner.register_parameter(key, nn.Parameter(value))
            else:
                owner.register_buffer(key, value)
            self._owners[name] = (owner, key, np.array(array) if small else None)

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs of the model: one tensor, or a tuple of several."""
        values: dict[str, Value] = dict(zip(self._inputs, inputs, strict=True))
        for name, (owner, key, array) in self._owners.items():
            value = getattr(owner, key)
            values[name] = value if array is None else Known(array, value)
        for node, run in self._nodes:
            arguments = [None if v is None else values[str(v.name)] for v in node.inputs]
            try:
                results = run(node, arguments)
            except CannotExpress as error:
                raise UserError(f"{_name(node)} has no torch program: {error}") from None
            results = results if isinstance(results, tuple | list) else (results,)
            for output, result in zip(node.outputs, results, strict=False):
                values[str(output.name)] = result
        outputs = tensors([values[name] for name in self._results])
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _name(node: ir.Node) -> str:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return f"operator {operator} (node {node.name or '?'})"


def _operator(node: ir.Node) -> Callable[[ir.Node, list[Value]], Any]:
    """The function that runs the node, whatever its inputs turn out to be."""
    standard = node.domain in ("", "ai.onnx")
    layout = LAYOUTS.get(node.op_type) if standard else None
    on_tensors = OPERATORS.get(node.op_type) if standard else None
    on_known = ON_KNOWN.get(node.op_type) if standard else None
    if standard and node.op_type == "Constant":
        return lambda node, _: _constant(node)
    if layout is None and on_tensors is None:
        raise UserError(f"{_name(node)} has no torch program: shrink without --pt")

    def run(node: ir.Node, inputs: list[Value]) -> Any:
        if layout is not None:
            if inputs and isinstance(inputs[0], Known) and node.op_type not in TAKES_KNOWN:
                inputs = [tensor(inputs[0]), *inputs[1:]]
            return layout(node, *inputs)
        if on_known is not None and all(map(_integers, inputs)) and not _to_float(node):
            return known(on_known(*(v.array for v in inputs if isinstance(v, Known))))
        assert on_tensors is not None
        return on_tensors(node, *tensors(inputs))

    return run


def _integers(value: Value) -> bool:
    return isinstance(value, Known) and value.array.dtype.kind in "iuO"


def _to_float(node: ir.Node) -> bool:
    to = node.attributes.get_int("to", int(ir.DataType.INT64))
    return node.op_type == "Cast" and to not in (int(ir.DataType.INT64), int(ir.DataType.INT32))


def _constant(node: ir.Node) -> Value:
    attribute = node.attributes.get("value")
    if attribute is None:
        raise CannotExpress("a constant that is no tensor")
    array = attribute.as_tensor().numpy()
    return Known(array, None if array.dtype.kind in "iu" else torch.from_numpy(np.array(array)))


def _statistics(graph: ir.Graph) -> set[ir.Value | None]:
    """Running means and variances, which are not trained."""
    norms = (node for node in graph if node.op_type == "BatchNormalization")
    return {value for node in norms for value in node.inputs[3:5]}


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The submodule that holds ``path``, made where it is not there, and the name in it."""
    *parts, key = path.split(".")
    for part in parts:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, key


def parameter_names(graph: ir.Graph) -> dict[str, str]:
    """A dotted name for every initializer: its own, which is the checkpoint's where it survives.

    The bias that a pass gave a layer is called as that layer's weight says. What goes on behind
    the name of another (the borders of a weight) has underscores there: no parameter holds others.
    """
    wanted = {name: re.sub(r"[^\w.]", "_", name) for name in graph.initializers}
    wanted |= _new_biases(graph)
    paths: dict[str, str] = {}
    used = {""}
    for name in sorted(wanted, key=lambda n: (wanted[n].count("."), len(n))):
        head, *rest = [part or "_" for part in wanted[name].split(".")]
        path = head if not hasattr(nn.Module(), head) and head[0] != "_" else f"constant_{head}"
        for part in rest:
            joined = path in paths.values() or hasattr(nn.Module(), part)
            path = f"{path}_{part}" if joined else f"{path}.{part}"
        while path in used:
            path += "_"
        paths[name] = path
        used |= {path, *(path[:i] for i, c in enumerate(path) if c == ".")}
    return {name: paths[name] for name in wanted}


def _new_biases(graph: ir.Graph) -> dict[str, str]:
    """Biases that passes made, under the names that torch gives a layer's bias."""
    names: dict[str, str] = {}
    for layer in layers_of(graph):
        bias, plain = layer.bias, f"{layer.name}.bias"
        free = plain not in graph.initializers and plain not in names.values()
        own = bias is not None and str(bias.name).startswith(str(layer.weight.name))
        if bias is not None and own and free and len(bias.uses()) == 1:
            names[str(bias.name)] = plain
    return names
