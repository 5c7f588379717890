"""Shape inference, and models without their weights for the checks of onnx."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from prunedeploy.graph import cut_sizes, protos

SMALL = 1024  # bytes of a weight that onnx's checks are shown
MAX_AXES = 64  # of an array of NumPy
MAX_FOLLOWED = 1 << 18  # elements of a list that stands for a shape: far more than it has axes
KEEPING_SHAPE = ("GroupNormalization", "MeanVarianceNormalization")  # onnx infers none of theirs
SEQUENCES = ("Sequence", "SplitToSequence", "ConcatFromSequence", "Optional")  # operators


def infer_shapes(model: ir.Model) -> None:
    """Fill in the shapes of all values, in place, without copying the weights."""
    from onnx_ir.passes.common import ShapeInferencePass

    follow = _follows_values(model)
    infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=follow)
    infer(model)
    while cut_sizes.name_apart(model) or _pass_shapes_on(model.graph):
        infer(model)
    if any(node.op_type.startswith(SEQUENCES) for node in model.graph.all_nodes()):
        _set_sequences(model, follow)


def _follows_values(model: ir.Model) -> bool:
    """Whether onnx may follow the values of shapes: it writes out whatever lists Concat makes of
    them, and a chain of a few dozen that double their operand takes all memory there is."""
    sizes: dict[ir.Value | None, int] = {}  # of lists that may be followed
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            sizes[value] = _length(value)
    for node in model.graph.all_nodes():
        given = [sizes.get(value, 0) for value in node.inputs] or [SMALL]
        made = sum(given) if node.op_type == "Concat" else max(given)
        made = MAX_AXES if node.op_type == "Shape" else made
        if node.op_type == "Concat" and made > MAX_FOLLOWED:
            return False
        sizes |= {value: max(made, _length(value)) for value in node.outputs}
    return True


def _length(value: ir.Value) -> int:
    """The elements of a list; 0 for what is none, or of a length that is not known."""
    shape = value.const_value.shape if value.const_value is not None else value.shape
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else 0


def _set_sequences(model: ir.Model, follow: bool) -> None:
    """Types of values that are no tensors: onnx_ir takes those that were inferred for tensors."""
    proto = skeleton(model)
    for each in protos.graphs(proto.graph):
        del each.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=follow)
    for graph, inferred_graph in zip(model.graphs(), protos.graphs(inferred.graph), strict=False):
        types = {x.name: x.type for x in (*inferred_graph.value_info, *inferred_graph.output)}
        for value in (value for node in graph for value in node.outputs):
            kind = types.get(str(value.name))
            if kind is not None and kind.WhichOneof("value") in ("sequence_type", "optional_type"):
                value.type = ir.serde.deserialize_type_proto_for_type(kind)
                value.shape = None


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """``model`` for onnx's checks, which copy all of it: large weights are inputs."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SMALL:
            continue
        shape = ir.Shape(tensor.shape.numpy())
        value.shape, value.type = shape, ir.TensorType(tensor.dtype)
        if value not in copy.graph.inputs:
            copy.graph.inputs.append(value)
        del copy.graph.initializers[name]
        value.const_value = None
    return ir.to_proto(copy)


def _pass_shapes_on(graph: ir.Graph) -> bool:
    """Shapes of results that onnx leaves open: those of operators it defines by functions.

    The first of a chain only, since the shapes behind it are not known before it is.
    """
    changed = False
    for node in graph:
        if node.domain or node.op_type not in KEEPING_SHAPE:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if result.shape is None and source is not None:
            result.shape, result.type = source.shape, source.type
            changed |= source.shape is not None
    return changed
