"""Validates models with ONNX's own checker and its inference of types and shapes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.graph import input_ranks
from prunedeploy.graph.protos import InvalidError
from prunedeploy.graph.shapes import MAX_AXES, skeleton

WITH_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
NODE = r"\(op_type: ?([^,)]+)(?:, node name: ([^)]+))?\)"  # as onnx names one
INNER = "declared shapes of inner values contradict the operators: read from those"
OUTER = "the declared shape of an output contradicts the operators: read from those"


def check(program: ir.Model) -> tuple[str, ...]:
    """Check ``program`` against the ONNX specification, types and shapes included.

    Sizes that a file declares for what nodes compute are hints, and no runtime believes them where
    the operators say otherwise. They are dropped where they contradict, in place.

    Args:
        program: read from a file, functions inlined, nodes sorted.

    Returns:
        What was dropped, for the reader.

    Raises:
        InvalidError: it is not valid; the message names the node.
    """
    input_ranks.state(program.graph)
    for value in program.graph.inputs:
        if value.type is None:
            raise InvalidError(f"input {value.name!r} has no type")
        if isinstance(value.type, ir.SequenceType):
            raise UserError(
                f"input {value.name!r} is a sequence, which nothing here can draw: export the"
                " network with one input for each of its tensors"
            )
        if value.shape is None and isinstance(value.type, ir.TensorType):
            raise InvalidError(
                f"input {value.name!r} has no shape, and no operator that reads it says how many"
                " axes it has: give it a shape where the network is exported"
            )
        if value.shape is not None and len(value.shape) > MAX_AXES:
            raise InvalidError(f"input {value.name!r} has {len(value.shape):,} axes")
    _check_versions(program)
    with _named(program):
        proto = skeleton(program)
        if (reason := _malformed(proto)) is not None:
            raise InvalidError(_where(program) or reason)
        names = {node.name for node in program.graph.all_nodes()}
        if (reason := _mistyped(proto, names)) is None:
            return ()
        for note, outputs in ((INNER, False), (OUTER, True)):
            kept = _drop(program, outputs)
            if (reason := _mistyped(skeleton(program), names)) is None:
                return (note,)
            for value, shape, kind in kept:
                value.shape, value.type = shape, kind
    raise InvalidError(reason)


def check_form(program: ir.Model) -> None:
    """Run ONNX's checker, types and shapes left aside, on a model that was read and then changed.

    Raises:
        UserError: the model breaks the ONNX specification.
    """
    if (reason := _malformed(skeleton(program))) is not None:
        raise UserError(f"the model is not valid ONNX: {reason}")


def _check_versions(program: ir.Model) -> None:
    """Every version is one that ONNX's checker, which counts in 32 bits, can be told."""
    versions = {f"opset of {x or 'ai.onnx'}": y for x, y in program.opset_imports.items()}
    for what, version in {"IR version": program.ir_version, **versions}.items():
        if not 0 <= version < 1 << 31:
            raise InvalidError(f"its {what} is {version}")
    newest = onnx.defs.onnx_opset_version()
    if program.opset_imports.get("", 1) > newest:
        raise InvalidError(
            f"it is of opset {program.opset_imports['']}, and {newest} is the newest that is known"
        )


@contextmanager
def _named(program: ir.Model) -> Iterator[None]:
    """Nodes without a name go by that of their first output, so that messages can name them."""
    bare = [node for node in program.graph.all_nodes() if not node.name and node.outputs]
    for node in bare:
        node.name = node.outputs[0].name
    try:
        yield
    finally:
        for node in bare:
            node.name = None


def _malformed(proto: onnx.ModelProto) -> str | None:
    """The complaint of ONNX's checker, if it has one but that an output has no type or shape."""
    asked = onnx.GraphProto(output=proto.graph.output)
    for value in proto.graph.output:
        if not _is_typed(value.type):
            some = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ())
            value.CopyFrom(some)
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # its errors have no common base
        return _plain(str(error))
    finally:
        del proto.graph.output[:]
        proto.graph.output.extend(asked.output)
    return None


def _is_typed(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is not None and (which != "tensor_type" or kind.tensor_type.HasField("shape"))


def _mistyped(proto: onnx.ModelProto, names: Collection[str | None]) -> str | None:
    """The complaint of ONNX's inference of types and shapes about a node of ``names``."""
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except Exception as error:
        return _of_nodes(str(error), names)
    return None


def _of_nodes(message: str, names: Collection[str | None]) -> str | None:
    """The first complaint about a node of the model, or about none.

    onnx also infers through the bodies of operators that it defines by functions, and some of those
    it cannot follow itself; their nodes are none of the model's.
    """
    lines = [line for line in message.splitlines() if line.strip()] or [message]
    about = [re.findall(NODE, line) for line in lines]
    for line, nodes in zip(lines, about, strict=True):
        if nodes[-1][1] in names if nodes else line is lines[0]:
            return _plain(line)
    return None


def _plain(message: str) -> str:
    """The first complaint of several, without where in onnx's own code it comes from."""
    line = next((line for line in message.splitlines() if line.strip()), "no reason given")
    line = re.sub(r"^\[ShapeInferenceError\] (Inference error\(s\): )?", "", line)
    line = re.sub(r"\[(Shape|Type)InferenceError\] ", "", line)
    line = re.sub(r"^Node\(.*?\) with schema\(::(\w+):(\d+)\)", r"\1 of opset \2", line)
    line = re.sub(NODE, r"node \1 (\2)", line)
    return line.strip()


def _where(program: ir.Model) -> str | None:
    """The first node that is wrong by itself, with the reason; the checker does not always say."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = int(program.ir_version)
    context.opset_imports = dict(program.opset_imports)
    for node in program.graph.all_nodes():
        if any(attribute.type in WITH_GRAPHS for attribute in node.attributes.values()):
            continue  # what they read from around them is not known here
        try:
            onnx.checker.check_node(ir.serde.serialize_node(node), context)
        except onnx.checker.ValidationError as error:
            return f"node {node.op_type} ({node.name}): {_plain(str(error))}"
    return None


Kept = list[tuple[ir.Value, ir.Shape | None, ir.TypeProtocol | None]]


def _drop(program: ir.Model, outputs: bool) -> Kept:
    """Forget what was declared of the values that nodes compute; what it was, to restore it."""
    kept: Kept = []
    for graph in program.graphs():
        inner = graph is not program.graph
        values = [*(graph.inputs if inner else ())]
        values += [value for node in graph for value in node.outputs]
        for value in values:
            is_output = value.is_graph_output()
            if is_output and not inner and not outputs:
                continue
            kept.append((value, value.shape, value.type))
            value.shape = None
            if not is_output and value not in values[: len(graph.inputs) if inner else 0]:
                value.type = None
    return kept
