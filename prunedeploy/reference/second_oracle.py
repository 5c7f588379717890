"""Checks the reference interpreter itself against ONNX Runtime.

Constant folding, verification and every comparison use the reference interpreter
(``prunedeploy.reference.evaluate``). If it read an operator wrongly, all of these would agree with
one another and be wrong together. So its outputs for a model are compared with those of ONNX
Runtime's own kernels, with all graph optimisations off: two independent implementations seldom make
the same mistake. ``compare`` explains how a mistake is distinguished from rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, CrossCheck
from prunedeploy.graph import model as models
from prunedeploy.reference import randoms, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.opsets import drops
from prunedeploy.reference.registry import STANDARD, label

# Also allowed of float64 outputs: ONNX Runtime keeps some constants of float64 kernels in float32.
MIN_TOLERANCE = 1e-5
CHUNK = 64  # nodes whose results are compared in one run, in the search for the first difference


@dataclass(frozen=True)
class NotAvailable:
    """The comparison was not possible, for the given reason."""

    reason: str


@dataclass(frozen=True)
class Agreement:
    """The outputs agree; ``difference`` is the largest, relative to the output's range."""

    oracle: str
    difference: float


@dataclass(frozen=True)
class Disagreement:
    """One element of one output differs by more than rounding explains.

    Attributes:
        oracle: name and version of the other implementation.
        output: the output's name.
        index: the element that differs most.
        reference: its value computed by the interpreter in float64.
        other: its value computed by the other implementation.
        difference: the largest difference, relative to the output's range.
        allowed: the limit that it exceeds.
        operator: the first node that is computed differently, "" where it is not known.
    """

    oracle: str
    output: str
    index: tuple[int, ...]
    reference: float
    other: float
    difference: float
    allowed: float
    operator: str = ""


Verdict = Agreement | Disagreement | NotAvailable
Run = Callable[[Mapping[str, Array]], "dict[str, Any] | NotAvailable"]


class OracleError(UserError):
    """The interpreter and ONNX Runtime disagree about a model, so nothing is written."""


def oracle() -> str | None:
    """The name and version of ONNX Runtime; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return f"ONNX Runtime {onnxruntime.__version__}"


def outputs(
    model: Path | ir.Model, feeds: Mapping[str, Array], *, threads: int = 1
) -> dict[str, Any] | NotAvailable:
    """Run ONNX Runtime on the CPU, all graph optimisations off.

    Args:
        model: an ONNX file or a model in memory, which is not changed. One whose weights lie in
            other files, or do not fit one protobuf, goes through a temporary folder.
        feeds: arrays by input name, of any byte order and layout.
        threads: that one operator may use.

    Returns:
        The outputs by name, as arrays, or lists of arrays for sequences; or the reason why there
        are none: ONNX Runtime is not installed, or cannot load or run the model (an operator, type
        or opset that it does not have).
    """
    run = opened(model, threads=threads)
    return run if isinstance(run, NotAvailable) else run(feeds)


def opened(model: Path | ir.Model, *, threads: int = 1) -> Run | NotAvailable:
    """The same for several inputs: a function from them to the outputs, or why there is none."""
    if oracle() is None:
        return NotAvailable("onnxruntime is not installed: pip install 'prunedeploy[cpu]'")
    if (empty := _empty_weight(model)) is not None:
        return NotAvailable(f"{empty} has no elements: {oracle()} leaves such sums undefined")
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = _session(_loadable(model, Path(folder)), threads)
    except Exception as error:  # ONNX Runtime's errors have no common base
        return _refused(error)
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}

    def run(feeds: Mapping[str, Array]) -> dict[str, Any] | NotAvailable:
        given = {name: _native(x) for name, x in feeds.items() if name in wanted}
        try:
            return dict(zip(names, session.run(names, given), strict=True))
        except Exception as error:
            return _refused(error)

    return run


def _refused(error: Exception) -> NotAvailable:
    lines = str(error).strip().splitlines()
    return NotAvailable(f"{oracle()} cannot run it: {lines[0] if lines else error!r:.300}")


def _empty_weight(model: Path | ir.Model) -> str | None:
    """The name of a matrix or filter without elements, None where there is none.

    A layer without inputs is an empty sum, for which ONNX Runtime leaves its output uninitialised.
    """
    for graph in _loaded(model).graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and len(tensor.shape) > 1 and tensor.size == 0:
                return name
    return None


def _loaded(model: Path | ir.Model) -> ir.Model:
    return models.load(model) if isinstance(model, Path) else model


def _session(source: bytes | str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _native(array: Array) -> Array:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _loadable(model: Path | ir.Model, folder: Path) -> bytes | str:
    """The model as ONNX Runtime takes it: a path, or its bytes where they fit one protobuf."""
    if isinstance(model, Path):
        return str(model)
    copy = model.clone()  # it shares the weights
    for node in copy.graph.all_nodes():  # ONNX Runtime ends the process over some of these
        while node.outputs and not node.outputs[-1].name:
            node.resize_outputs(len(node.outputs) - 1)
    tensors = [v.const_value for g in copy.graphs() for v in g.initializers.values()]
    outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    if not outside and models.weight_bytes(copy) <= models.PROTOBUF_LIMIT:
        content: bytes = ir.to_proto(copy).SerializeToString()
        return content
    models.save(copy, folder / "model.onnx")
    return str(folder / "model.onnx")


def compare(
    model: Path | ir.Model,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array] | None = None,
    *,
    threads: int = 1,
) -> Verdict:
    """Compare the interpreter's outputs with those of ONNX Runtime.

    The outputs agree where they differ by no more than the tolerance of ``verify``. Where they
    differ by more, that may still be rounding, so both are compared with the interpreter in
    float64, as ``verify.against_noise`` does it. A mistake about an operator does not shrink with
    the rounding, so it exceeds that limit unless the network amplifies the last bits of a float32
    by a factor of thousands. Where rounding alone changes an output by ``verify.UNSTABLE`` of its
    range (a comparison or a rounding decides the result), the outputs cannot be compared.

    Args:
        model: an ONNX file or a model in memory.
        feeds: arrays by input name.
        reference: the interpreter's outputs on them, in the model's precision or in float64, where
            they are known already.
        threads: the number of ONNX Runtime's threads.

    Raises:
        UserError: the interpreter cannot run the model.
    """
    program = _loaded(model)
    if (random := _random(program)) is not None:
        return NotAvailable(f"{random} draws random numbers, other ones in every runtime")
    other = outputs(model, feeds, threads=threads)
    if isinstance(other, NotAvailable):
        return other
    ours = dict(reference) if reference is not None else Evaluator(program).run(feeds)
    ours, other = verify.arrays(ours), verify.arrays(other)
    if set(ours) != set(other):
        return NotAvailable("an output is a sequence, of another length")
    allowed = _allowed(program, other)
    worst = {name: _distance(ours[name], other[name]) for name in ours}
    if all(worst[name] <= allowed[name] for name in ours):
        return Agreement(str(oracle()), max(worst.values(), default=0.0))
    if any(ours[name].dtype != other[name].dtype for name in ours):  # it was given in float64
        ours = Evaluator(program).run(feeds)
    exact, moved = verify.exact_and_moved(program, feeds)
    verdict = _judged(ours, other, exact, moved, allowed)
    if isinstance(verdict, Disagreement) and (tied := verify.at_ties(program, feeds)) is not None:
        return _judged(ours, other, exact, tied, allowed)
    return verdict


def _random(model: ir.Model) -> str | None:
    """The node that makes a model's outputs random, None where there is none."""
    nodes = (node for node in model.graph.all_nodes() if node.domain in STANDARD)
    drawn = next((node for node in nodes if node.op_type in randoms.OPERATORS or drops(node)), None)
    return None if drawn is None else label(drawn)


def _allowed(model: ir.Model, outputs: Mapping[str, Array]) -> dict[str, float]:
    """The tolerance of each output, by its type or by the precision that the model computes in."""
    narrow = verify.tolerance_of(model.metadata_props.get(verify.PRECISION, ""))
    usual = {name: verify.TOLERANCE.get(array.dtype.name, 0.0) for name, array in outputs.items()}
    floor = {name: MIN_TOLERANCE if usual[name] else 0.0 for name in outputs}
    return {name: max(usual[name], floor[name], narrow or 0.0) for name in outputs}


def _distance(one: Array, other: Array) -> float:
    """The largest difference relative to the range of ``one``; for integers, the share unequal."""
    if one.shape != other.shape:
        return float("inf")
    if other.dtype.kind in "fV" or one.dtype.kind in "fV":
        return verify.compare({"": one}, {"": other}, 0.0).max_rel
    return float(np.count_nonzero(one != other)) / max(one.size, 1)


def _judged(
    ours: Mapping[str, Array],
    other: Mapping[str, Array],
    exact: Mapping[str, Array],
    moved: Mapping[str, Array],
    allowed: Mapping[str, float],
) -> Verdict:
    """Compare both with the outputs in float64, output by output; see ``compare``."""
    largest = 0.0
    for name, tolerance in allowed.items():
        rounding = max(_distance(exact[name], each[name]) for each in (ours, moved))
        apart = min(_distance(exact[name], other[name]), _distance(ours[name], other[name]))
        limit = max(tolerance, verify.NOISE_FACTOR * rounding)
        if rounding > verify.UNSTABLE:
            return NotAvailable(
                f"rounding alone changes output {name} by {rounding:.2g} of its range"
            )
        if not apart <= limit:
            index = _worst_index(exact[name], other[name])
            values = [_number(x, index) for x in (exact[name], other[name])]
            return Disagreement(str(oracle()), name, index, values[0], values[1], apart, limit)
        largest = max(largest, apart)
    return Agreement(str(oracle()), largest)


def _worst_index(one: Array, other: Array) -> tuple[int, ...]:
    """The index at which two arrays differ most; () where their shapes differ."""
    if one.shape != other.shape or not one.size:
        return ()
    if one.dtype.kind == "O":
        apart = (one != other).astype(np.float64)
        return tuple(int(i) for i in np.unravel_index(int(apart.argmax()), one.shape))
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
        same = (one == other) | (np.isnan(one.astype(float)) & np.isnan(other.astype(float)))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    return tuple(int(i) for i in np.unravel_index(int(apart.argmax()), one.shape))


def _number(array: Array, index: tuple[int, ...]) -> float:
    comparable = len(index) == array.ndim and array.dtype.kind != "O"
    return float(array[index]) if comparable else float("nan")


def first_difference(
    model: Path | ir.Model, feeds: Mapping[str, Array], *, threads: int = 1
) -> str | None:
    """Find the first node, in the order of the graph, that the two compute differently.

    The results of all nodes are made outputs, ``CHUNK`` nodes at a time. For nodes inside of others
    (the branches of an If) the outer node is named.

    Returns:
        The operator and the name of the node, None where none differs.
    """
    program = _loaded(model)
    nodes = list(program.graph)
    for start in range(0, len(nodes), CHUNK):
        part = nodes[start : start + CHUNK]
        wanted = [str(v.name) for node in part for v in node.outputs if v.name]
        verdicts = _verdicts(program, wanted, feeds, threads)
        for node in part:
            names = [str(value.name) for value in node.outputs if value.name]
            if any(isinstance(verdicts.get(name), Disagreement) for name in names):
                return label(node)
    return None


def _verdicts(
    program: ir.Model, names: Sequence[str], feeds: Mapping[str, Array], threads: int
) -> dict[str, Verdict]:
    """Compare the inner values of the given names."""
    widened = program.clone()
    known = {value.name for value in widened.graph.outputs}
    for node in widened.graph:
        widened.graph.outputs.extend(
            v for v in node.outputs if v.name in names and v.name not in known
        )
    other = outputs(widened, feeds, threads=threads)
    if isinstance(other, NotAvailable):
        return {}
    seen: list[dict[str, Array]] = [{}, {}, {}]
    forms = ((False, False), (True, False), (True, True))
    for values, (float64, moves) in zip(seen, forms, strict=True):

        def keep(name: str, array: Array, into: dict[str, Array] = values) -> None:
            if name in names:
                into[name] = array

        Evaluator(program, float64=float64, moved=moves).run(feeds, keep)
    ours, exact, moved = seen
    shared = [n for n in names if n in ours and n in exact and isinstance(other.get(n), np.ndarray)]
    allowed = _allowed(program, {name: other[name] for name in shared})
    return {n: _judged(ours, other, exact, moved, {n: allowed[n]}) for n in shared}


def check(
    model: Path | ir.Model,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array],
    what: str,
) -> CrossCheck:
    """Compare the interpreter's outputs with ONNX Runtime's, and return a record of it.

    Args:
        model: an ONNX file or a model in memory.
        feeds: arrays by input name.
        reference: the interpreter's outputs on them.
        what: a description of the model, for the record and the message.

    Raises:
        OracleError: they differ by more than rounding explains.
    """
    verdict = compare(model, feeds, reference)
    if isinstance(verdict, NotAvailable):
        return CrossCheck(what, "", verdict.reason)
    if isinstance(verdict, Agreement):
        return CrossCheck(what, verdict.oracle, "", verdict.difference)
    raise OracleError(_message(verdict, what, first_difference(model, feeds)))


def check_all(
    model: Path | ir.Model,
    runs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
    what: str,
) -> CrossCheck:
    """Run ``check`` on several inputs; return the first that was not possible, or the largest.

    Raises:
        OracleError: the outputs for one of them differ by more than rounding explains.
    """
    largest: CrossCheck | None = None
    for feeds, reference in runs:
        each = check(model, feeds, reference, what)
        if not each.oracle:
            return each
        if largest is None or each.difference > largest.difference:
            largest = each
    return largest or CrossCheck(what, "", "there was nothing to compare")


def _message(wrong: Disagreement, what: str, operator: str | None) -> str:
    where = f"[{', '.join(map(str, wrong.index))}]" if wrong.index else ""
    first = f"; they first differ at {operator}" if operator else ""
    return (
        f"the reference interpreter and {wrong.oracle} disagree about {what}: output "
        f"{wrong.output}{where} is {wrong.reference:.6g} and {wrong.other:.6g}, "
        f"{wrong.difference:.2g} of its range apart where {wrong.allowed:.2g} is allowed{first}; "
        "nothing was written"
    )
