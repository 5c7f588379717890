"""Which entry of a module's state each initializer of its export is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from torch import Tensor

from prunedeploy.core.records import Array
from prunedeploy.graph import shapes
from prunedeploy.passes import FoldConstants, RemoveIdentity
from prunedeploy.passes.simplify.evaluate_constants import evaluate_constants

TRANSPOSED = ".transposed"
FEW = 1 << 13  # elements that a constant of the export may have to be folded at once


@dataclass(frozen=True)
class Origin:
    """The parameter or buffer, and whether the initializer is its transpose."""

    key: str
    transposed: bool = False

    def axis(self, axis: int) -> int:
        """The parameter's axis for one of the initializer's."""
        return 1 - axis if self.transposed else axis

    def array(self, array: Array) -> Array:
        """The initializer as the parameter has it."""
        return array.T if self.transposed else array


def simplify(model: ir.Model) -> None:
    """Constants computed, in place, and nothing fused: every weight stays that of the module."""
    shapes.infer_shapes(model)
    for node in list(model.graph):
        if node.op_type == "Transpose":
            _transpose(node)
        elif node.op_type == "Reshape":  # no size is zero here, but a zero copies the batch's
            node.attributes.pop("allowzero", None)
    # the zeros that stand for a bias that is not there
    evaluate_constants(model, lambda _: None, FEW)
    for each in (RemoveIdentity(), FoldConstants()):
        each(model)
    for value in model.graph.initializers.values():
        if value.const_value is not None:  # of a folded one an unknown length was inferred
            value.shape = ir.Shape(value.const_value.shape.numpy())
    shapes.infer_shapes(model)


def _transpose(node: ir.Node) -> None:
    """A transposed weight as an initializer that says whose transpose it is."""
    source, graph = node.inputs[0], node.graph
    if source is None or source.const_value is None or len(source.const_value.shape) != 2:
        return
    if list(node.attributes.get_ints("perm", [1, 0])) != [1, 0] or graph is None:
        return
    name = f"{source.name}{TRANSPOSED}"
    if node.outputs[0].is_graph_output():
        return
    value = graph.initializers.get(name)
    if value is None:
        array = source.const_value.numpy().T
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=source.type,
            const_value=ir.tensor(array, name=name),
        )
        graph.register_initializer(value)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)


def trace(graph: ir.Graph, state: Mapping[str, Tensor]) -> dict[str, Origin]:
    """The origin of every initializer that has exactly one, which has no other initializer.

    By name first, for the exporter keeps names, else by equal content. Names of one parameter
    that the module shares among layers count as one: the first.
    """
    arrays = {name: tensor.detach().numpy() for name, tensor in _unshared(state).items()}
    origins: dict[str, Origin] = {}
    for name, value in graph.initializers.items():
        if value.const_value is None or not value.const_value.size:
            continue
        array = value.const_value.numpy()
        origin = _by_name(name, array, arrays) or _by_content(array, arrays)
        if origin is not None:
            origins[name] = origin
    keys = [origin.key for origin in origins.values()]
    return {name: origin for name, origin in origins.items() if keys.count(origin.key) == 1}


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first: dict[int, str] = {}
    return {
        name: tensor
        for name, tensor in state.items()
        if first.setdefault(id(tensor), name) == name and not tensor.is_sparse
    }


def _by_name(name: str, array: Array, arrays: Mapping[str, Array]) -> Origin | None:
    key = name.removesuffix(TRANSPOSED)
    origin = Origin(key, key != name)
    return origin if key in arrays and _equal(origin.array(array), arrays[key]) else None


def _by_content(array: Array, arrays: Mapping[str, Array]) -> Origin | None:
    """Where one parameter alone holds these numbers; a scalar could be anybody's."""
    if array.size < 2:
        return None
    same = [Origin(key) for key, other in arrays.items() if _equal(array, other)]
    if array.ndim == 2:
        same += [Origin(key, True) for key, other in arrays.items() if _equal(array.T, other)]
    return same[0] if len({origin.key for origin in same}) == 1 and len(same) == 1 else None


def _equal(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.tobytes()[:64] == other.tobytes()[:64] and bool(np.array_equal(one, other))
