"""Residual sums and activations are computed where a layer stores its result."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import ConvOp, ElementwiseOp, Graph, Op, Tensor
from prunedeploy.runtimes.sparse.plan.steps import UNARY, Activation


def fold(graph: Graph) -> None:
    """Fuse activation(layer + residual) into one step, in the position of the elementwise operator.

    Of two layers whose results are added, the later one gets the other as its residual.
    """
    users, producers = graph.users(), graph.producers()
    position = {op: index for index, op in enumerate(graph.ops)}
    fused: dict[Op, Op] = {}
    for op in list(graph.ops):
        if not isinstance(op, ElementwiseOp):
            continue
        matched = match(op)
        if matched is None:
            continue
        activation, terms = matched
        layers = [
            layer
            for tensor in terms
            if isinstance(layer := producers.get(tensor), ConvOp)
            and len(layer.inputs) == 1
            and layer.activation == Activation()
            and len(users[tensor]) == 1
            and tensor not in graph.outputs
        ]
        if not layers:
            continue
        layer = max(layers, key=lambda each: position[each])
        layer.inputs += [tensor for tensor in terms if tensor is not layer.output]
        layer.activation = activation
        layer.output = op.output
        producers[op.output] = layer
        position[layer] = position[op]
        fused[op] = layer
    moved = set(fused.values())
    graph.ops = [fused.get(op, op) for op in graph.ops if op not in moved]


def match(op: ElementwiseOp) -> tuple[Activation, list[Tensor]] | None:
    """The activation, and the one or two tensors of the output's shape it is applied to."""
    inner, activation = op.expr, Activation()
    if inner.op in UNARY and inner.op != "not":
        activation = Activation(inner.op, inner.numbers)
        inner = inner.operands[0]
    terms = list(inner.operands) if inner.op == "add" else [inner]
    tensors = [term.leaf for term in terms if _is_computed(term, op.output.shape)]
    if len(tensors) < len(terms) or len(set(map(id, tensors))) < len(tensors):
        return None
    return activation, tensors


def _is_computed(term: Expr, shape: tuple[int, ...]) -> bool:
    leaf = term.leaf
    return isinstance(leaf, Tensor) and leaf.value is None and leaf.shape == shape
