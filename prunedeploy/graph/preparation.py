"""Reads ONNX models for every command: checked, repaired, and brought to one form.

In order: the file is read without its weights' files, and what it says of those is checked; one
form is made of what ONNX has several of (``forms``); what can only mean one thing is repaired
(``repairs``); what is not valid is refused with what is wrong and where. Then functions are
inlined, nodes sorted, everything named, and shapes inferred: first in a child process, since what
onnx infers with was not written for files of strangers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from prunedeploy.core import child
from prunedeploy.core.budget import Budget
from prunedeploy.core.errors import UserError, first_cause, naming_file
from prunedeploy.graph import (
    element_types,
    forms,
    functions,
    repairs,
    scopes,
    tensors,
    utf8,
    validity,
)
from prunedeploy.graph.protos import InvalidError
from prunedeploy.graph.random_nodes import drop_idle
from prunedeploy.graph.shapes import infer_shapes

MAX_BYTES = 1 << 31  # of one protobuf; larger models have their weights in files beside them


@dataclass(frozen=True)
class Prepared:
    """A model that was read, ready for every step.

    Attributes:
        model: the model.
        notes: one line for each thing that was repaired or brought to another form.
        repaired: whether the model deviated from ONNX and was repaired, so that its file must not
            be handed to a runtime as it is.
    """

    model: ir.Model
    notes: tuple[str, ...]
    repaired: bool


def from_file(path: Path) -> Prepared:
    """Read the ONNX model at ``path``; weights beside it are mapped, not read.

    Raises:
        UserError: it is missing, is no ONNX, or not valid ONNX; or it reads weights from outside of
            its folder.
    """
    proto = _read(path)
    try:
        with naming_file(path):
            return _from_proto(proto, path)
    except InvalidError as error:
        raise UserError(f"{path} is not valid ONNX: {error}") from None


def from_proto(proto: onnx.ModelProto) -> Prepared:
    """Prepare a model in memory, which is not changed.

    Raises:
        UserError: it is not valid ONNX, or its weights lie in files.
    """
    own = onnx.ModelProto()
    own.CopyFrom(proto)
    try:
        return _from_proto(own, None)
    except InvalidError as error:
        raise UserError(f"the model is not valid ONNX: {error}") from None


def prepare(program: ir.Model) -> ir.Model:
    """The last steps, in place, for a model that is valid: an exporter's, or one that was read.

    Functions are inlined, weights no longer listed as inputs, nodes sorted and named, shapes
    inferred; noise that no output depends on is gone.

    Raises:
        InvalidError: a function cannot be inlined.
    """
    _inline(program)
    common.RemoveInitializersFromInputsPass()(program)
    common.NameFixPass()(program)
    common.TopologicalSortPass()(program)
    drop_idle(program)
    infer_shapes(program)
    return program


def _read(path: Path) -> onnx.ModelProto:
    """The file, without the weights that lie beside it."""
    if not path.is_file():
        raise UserError(f"no such model: {path}")
    if (size := path.stat().st_size) >= MAX_BYTES:
        raise UserError(f"cannot read {path} as ONNX: no such file has {size:,} bytes")
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf raises several kinds, the system more
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {path} as ONNX: {reason}") from None
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise UserError(f"cannot read {path} as ONNX: it holds no graph")
    if not proto.graph.output:
        raise UserError(f"cannot read {path} as ONNX: its graph has no outputs")
    return proto


def _from_proto(proto: onnx.ModelProto, path: Path | None) -> Prepared:
    functions.check_size(proto)
    notes = utf8.repair(proto)
    tensors.check_all(proto, path)
    element_types.check(proto)
    notes += forms.normalise(proto, path)
    repaired = [*repairs.repair(proto), *scopes.check(proto)]
    functions.ready(proto)
    try:
        program = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises what it meets; the first cause names it
        if "Map types" in (cause := first_cause(error)):
            raise UserError(
                f"{path or 'the model'} has maps among its values, which nothing here computes: "
                "convert the network without them (skl2onnx: options={'zipmap': False})"
            ) from None
        raise InvalidError(cause) from None
    _map_weights(program, proto, path)
    _sort(program)
    _inline(program)
    if (why := child.trial(partial(_infer, program), Budget(proto.ByteSize()))) is not None:
        raise InvalidError(f"what ONNX itself infers of its types and shapes {why}")
    repaired += _infer(program)
    return Prepared(program, (*notes, *repaired), bool(repaired))


def _infer(program: ir.Model) -> tuple[str, ...]:
    """What onnx does in C++; an operator behind one without a type ends the process, for one."""
    dropped = validity.check(program)
    prepare(program)
    return dropped


def _map_weights(program: ir.Model, proto: onnx.ModelProto, path: Path | None) -> None:
    for tensor in proto.graph.initializer:
        if tensors.is_external(tensor):
            assert path is not None  # ``tensors.check`` refuses models in memory
            program.graph.initializers[tensor.name].const_value = tensors.mapped(tensor, path)


def _sort(program: ir.Model) -> None:
    try:
        common.TopologicalSortPass()(program)
    except ValueError as error:
        raise InvalidError(f"its nodes form a circle: {first_cause(error)}") from None


def _inline(program: ir.Model) -> None:
    try:
        common.InlinePass()(program)
    except Exception as error:  # of graphs as arguments, more arguments than parameters
        raise InvalidError(f"its functions cannot be inlined: {first_cause(error)}") from None
    program.functions.clear()  # those that nothing calls
