"""ONNX Runtime as a second oracle beside the reference interpreter.

The interpreter is what folding, verification and refusal go by; were it to read an operator
wrongly, everything would agree with it and still be wrong. So what it gives for a model is held
against ONNX Runtime's own kernels, with all graph optimisations off: two implementations by
different people seldom make the same mistake.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, CrossCheck

if TYPE_CHECKING:
    import onnx_ir as ir

FACTOR = 8.0  # how much more than the interpreter another correct float32 computation may round
UNSTABLE = 0.05  # of the range: where rounding alone moves an output so far, nothing can be said
LEAST = 1e-5  # allowed at least: ONNX Runtime has numbers of float32 in what it does in float64
CHUNK = 64  # nodes whose results are looked at together, when the first that differs is sought


@dataclass(frozen=True)
class NotAvailable:
    """ONNX Runtime says nothing about a model, and why."""

    reason: str


@dataclass(frozen=True)
class Agreement:
    """Both oracles give the same; ``difference`` is the largest, in parts of an output's range."""

    oracle: str
    difference: float


@dataclass(frozen=True)
class Disagreement:
    """The oracles differ: at one element of one output, by more than rounding explains.

    ``difference`` and ``allowed`` are parts of the output's range; ``operator`` is the first
    node that they compute differently, empty where none was found.
    """

    oracle: str
    output: str
    place: tuple[int, ...]
    reference: float
    other: float
    difference: float
    allowed: float
    operator: str = ""


Verdict = Agreement | Disagreement | NotAvailable


class OracleError(UserError):
    """The two oracles disagree: what the model computes is not known, so nothing is written."""


def oracle() -> str | None:
    """Name and version of what serves as second oracle; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return f"ONNX Runtime {onnxruntime.__version__}"


def outputs(
    model: Path | ir.Model, feeds: Mapping[str, Array], *, threads: int = 1
) -> dict[str, Any] | NotAvailable:
    """What ONNX Runtime makes of inputs on the CPU, all graph optimisations off.

    Args:
        model: an ONNX file or a model in memory, which is not changed. One whose weights lie in
            other files, or do not fit one protobuf, goes through a temporary folder.
        feeds: arrays by input name, of any byte order and layout.
        threads: that one operator may use.

    Returns:
        The outputs by name, arrays, or lists of them for sequences; or why there are none:
        ONNX Runtime is not there, or cannot load or run the model (an operator, type or opset that
        it does not have).
    """
    if oracle() is None:
        return NotAvailable("onnxruntime is not installed: pip install 'prunedeploy[cpu]'")
    if (empty := _empty_weight(model)) is not None:
        return NotAvailable(f"{empty} has no elements: {oracle()} leaves such sums undefined")
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = _session(_loadable(model, Path(folder)), threads)
            names = [value.name for value in session.get_outputs()]
            wanted = {value.name for value in session.get_inputs()}
            given = {name: _native(x) for name, x in feeds.items() if name in wanted}
            return dict(zip(names, session.run(names, given), strict=True))
    except Exception as error:  # ONNX Runtime's errors have no common base
        lines = str(error).strip().splitlines()
        return NotAvailable(f"{oracle()} cannot run it: {lines[0] if lines else error!r:.300}")


def _empty_weight(model: Path | ir.Model) -> str | None:
    """The name of a matrix or filter without elements: a layer of no inputs is a sum of nothing,
    which ONNX Runtime does not write.
    """
    from prunedeploy.graph import model as models

    program = models.load(model) if isinstance(model, Path) else model
    for graph in program.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and len(tensor.shape) > 1 and tensor.size == 0:
                return name
    return None


def _session(source: bytes | str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _native(array: Array) -> Array:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _loadable(model: Path | ir.Model, folder: Path) -> bytes | str:
    """The model as ONNX Runtime takes it: a file, or its bytes where all of it fits."""
    if isinstance(model, Path):
        return str(model)
    import onnx_ir as ir

    from prunedeploy.graph import model as models

    copy = model.clone()  # it shares the weights
    for node in copy.graph.all_nodes():  # ONNX Runtime ends the process over some of these
        while node.outputs and not node.outputs[-1].name:
            node.resize_outputs(len(node.outputs) - 1)
    tensors = [v.const_value for g in copy.graphs() for v in g.initializers.values()]
    outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    if not outside and models.weight_bytes(copy) <= models.PROTOBUF_LIMIT:
        found: bytes = ir.to_proto(copy).SerializeToString()
        return found
    models.save(copy, folder / "model.onnx")
    return str(folder / "model.onnx")


def compare(
    model: Path | ir.Model,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array] | None = None,
    *,
    threads: int = 1,
) -> Verdict:
    """Whether the interpreter and ONNX Runtime give the same for a model.

    Two correct implementations in float32 add up in different orders, and a deep network may make
    more of that than ``verify`` allows of a pass or an engine: it is no sign of a mistake. The
    interpreter in float64 tells the two apart. It reads operators as the interpreter in float32
    does, without the rounding, so how far the latter is from it is what rounding does to this
    network on these inputs. ONNX Runtime may be as far from it, or ``FACTOR`` times as far, as
    the order of its sums is another. A mistake about an operator is of another size: it does not
    shrink with the rounding, and stands out from it unless the network blows up the last bits of
    a float32 by a factor of thousands. Where it does, by ``UNSTABLE`` of an output's range (a
    comparison or a rounding decides the result), nothing can be said, and nothing is.

    Args:
        model: an ONNX file or a model in memory.
        feeds: arrays by input name.
        reference: the interpreter's outputs on them, in the model's precision or in float64, where
            they are known already.
        threads: of ONNX Runtime.

    Raises:
        UserError: the interpreter cannot run the model.
    """
    from prunedeploy.graph import model as models
    from prunedeploy.reference.evaluate import Evaluator

    program = models.load(model) if isinstance(model, Path) else model
    if (random := _random(program)) is not None:
        return NotAvailable(f"{random} draws random numbers, other ones in every runtime")
    other = outputs(model, feeds, threads=threads)
    if isinstance(other, NotAvailable):
        return other
    ours = dict(reference) if reference is not None else Evaluator(program).run(feeds)
    if set(ours) != set(other) or any(isinstance(x, list) for x in ours.values()):
        return NotAvailable("an output is no array")
    allowed = _allowed(program, other)
    worst = {name: _distance(ours[name], other[name]) for name in ours}
    if all(worst[name] <= allowed[name] for name in ours):
        return Agreement(str(oracle()), max(worst.values(), default=0.0))
    exact = Evaluator(program, float64=True).run(feeds)
    if any(ours[name].dtype != other[name].dtype for name in ours):  # it was given in float64
        ours = Evaluator(program).run(feeds)
    return _judged(ours, other, exact, allowed)


def _random(model: ir.Model) -> str | None:
    """The node that makes a model's outputs random, None where there is none."""
    from prunedeploy.reference.opsets import drops
    from prunedeploy.reference.randoms import OPERATORS
    from prunedeploy.reference.registry import STANDARD, label

    nodes = (node for node in model.graph.all_nodes() if node.domain in STANDARD)
    found = next((node for node in nodes if node.op_type in OPERATORS or drops(node)), None)
    return None if found is None else label(found)


def _allowed(model: ir.Model, found: Mapping[str, Array]) -> dict[str, float]:
    """What verification allows of each output, by its type or by what the model computes in."""
    from prunedeploy.reference import verify

    narrow = verify.tolerance_of(model.metadata_props.get(verify.PRECISION, ""))
    usual = {name: verify.TOLERANCE.get(array.dtype.name, 0.0) for name, array in found.items()}
    least = {name: LEAST if usual[name] else 0.0 for name in found}
    return {name: max(usual[name], least[name], narrow or 0.0) for name in found}


def _distance(one: Array, other: Array) -> float:
    """In parts of the range of ``one``; of integers the share that is not the same."""
    from prunedeploy.reference import verify

    if one.shape != other.shape:
        return float("inf")
    if other.dtype.kind in "fV" or one.dtype.kind in "fV":
        return verify.compare({"": one}, {"": other}, 0.0).max_rel
    return float(np.count_nonzero(one != other)) / max(one.size, 1)


def _judged(
    ours: Mapping[str, Array],
    other: Mapping[str, Array],
    exact: Mapping[str, Array],
    allowed: Mapping[str, float],
) -> Verdict:
    """Against the exact answer, output by output."""
    largest = 0.0
    for name, tolerance in allowed.items():
        rounding = _distance(exact[name], ours[name])
        apart = min(_distance(exact[name], other[name]), _distance(ours[name], other[name]))
        limit = max(tolerance, FACTOR * rounding)
        if rounding > UNSTABLE:
            return NotAvailable(
                f"rounding alone changes output {name} by {rounding:.2g} of its range"
            )
        if not apart <= limit:
            place = _place(exact[name], other[name])
            values = [_number(x, place) for x in (exact[name], other[name])]
            return Disagreement(str(oracle()), name, place, values[0], values[1], apart, limit)
        largest = max(largest, apart)
    return Agreement(str(oracle()), largest)


def _place(one: Array, other: Array) -> tuple[int, ...]:
    """Where two arrays are furthest apart; nowhere in particular where their shapes differ."""
    if one.shape != other.shape or not one.size:
        return ()
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
        same = (one == other) | (np.isnan(one.astype(float)) & np.isnan(other.astype(float)))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    return tuple(int(i) for i in np.unravel_index(int(apart.argmax()), one.shape))


def _number(array: Array, place: tuple[int, ...]) -> float:
    return float(array[place]) if len(place) == array.ndim else float("nan")


def first_difference(
    model: Path | ir.Model, feeds: Mapping[str, Array], *, threads: int = 1
) -> str | None:
    """The first operator, in the order of the graph, that the two oracles compute differently.

    The results of all its nodes are made outputs, some at a time. Of operators inside others (the
    branches of an If) the one around them is named.

    Returns:
        Operator and name of the node, None where none is found.
    """
    from prunedeploy.graph import model as models
    from prunedeploy.reference.registry import label

    program = models.load(model) if isinstance(model, Path) else model
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
    """What there is to say about inner values."""
    from prunedeploy.reference.evaluate import Evaluator

    opened = program.clone()
    known = {value.name for value in opened.graph.outputs}
    for node in opened.graph:
        opened.graph.outputs.extend(
            v for v in node.outputs if v.name in names and v.name not in known
        )
    other = outputs(opened, feeds, threads=threads)
    if isinstance(other, NotAvailable):
        return {}
    seen: list[dict[str, Array]] = [{}, {}]
    for values, float64 in zip(seen, (False, True), strict=True):

        def keep(name: str, array: Array, into: dict[str, Array] = values) -> None:
            if name in names:
                into[name] = array

        Evaluator(program, float64=float64).run(feeds, keep)
    ours, exact = seen
    shared = [n for n in names if n in ours and n in exact and isinstance(other.get(n), np.ndarray)]
    allowed = _allowed(program, {name: other[name] for name in shared})
    return {n: _judged(ours, other, exact, {n: allowed[n]}) for n in shared}


def check(
    model: Path | ir.Model,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array],
    what: str,
) -> CrossCheck:
    """Hold the interpreter's outputs against ONNX Runtime's, for the record.

    Args:
        model: an ONNX file or a model in memory.
        feeds: arrays by input name.
        reference: the interpreter's outputs on them.
        what: the model, in words, for the record and the message.

    Raises:
        OracleError: they disagree, by more than rounding explains.
    """
    verdict = compare(model, feeds, reference)
    if isinstance(verdict, NotAvailable):
        return CrossCheck(what, "", verdict.reason)
    if isinstance(verdict, Agreement):
        return CrossCheck(what, verdict.oracle, "", verdict.difference)
    raise OracleError(_message(verdict, what, first_difference(model, feeds)))


def check_all(
    model: Path | ir.Model,
    runs: Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]],
    what: str,
) -> CrossCheck:
    """``check`` on several inputs: the first that says nothing, or the largest difference.

    Raises:
        OracleError: the oracles disagree on one of them.
    """
    found: CrossCheck | None = None
    for feeds, reference in runs:
        each = check(model, feeds, reference, what)
        if not each.oracle:
            return each
        if found is None or each.difference > found.difference:
            found = each
    return found or CrossCheck(what, "", "there was nothing to compare")


def _message(found: Disagreement, what: str, operator: str | None) -> str:
    where = f"[{', '.join(map(str, found.place))}]" if found.place else ""
    first = f"; they first differ at {operator}" if operator else ""
    return (
        f"the reference interpreter and {found.oracle} disagree about {what}: output "
        f"{found.output}{where} is {found.reference:.6g} and {found.other:.6g}, "
        f"{found.difference:.2g} of its range apart where {found.allowed:.2g} is allowed{first}; "
        "nothing was written"
    )
