"""Random inputs that a network can be compared on: sizes that it accepts, values that it uses.

A shape with open sizes, and a type, say little about what a network takes. An image that is too
small for its pooling layers, or a batch where it takes one sample, is refused by an operator deep
inside; a sampling rate that it compares with 16000 takes the same branch for 0 and 1; a detector
finds nothing in noise, and says so with numbers that are all 1e-8. So what integers mean is read
from the operators that use them, and sizes and distributions are tried until the outputs are finite
and vary: on ONNX Runtime where that is there, and where sizes are open on the reference interpreter
too, as ONNX Runtime pools over windows larger than an image. ``verify.random_feeds`` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.core.budget import Budget, OverBudgetError
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, InputSample, TensorSpec
from prunedeploy.graph import model as models
from prunedeploy.graph.sizes import BATCH_AXIS, OPEN_SIZE, resolve
from prunedeploy.reference import second_oracle, verify
from prunedeploy.reference.second_oracle import NotAvailable, Run
from prunedeploy.reference.strings import stored

MEMO = "prunedeploy.reference.fitting"  # in the model's transient data: samples by input name
LADDER = (OPEN_SIZE, 64, 128, 160, 224, 256, 320, 512, 640, 1024)  # sizes to try, in this order
SHORT_LADDER = (OPEN_SIZE, 128, 512)  # where several sizes are open and they are not equal
MAX_MIXED = 4  # open sizes, of which every mixture with the batch and 1 is tried
BATCHES = (2, 1)
# An output that varies by less than this says little: functions such as Sigmoid, whose results
# runtimes round relative to 1, come close to 1e-7 of it.
TELLING = 2.0**-10
MAX_RUNS = 4  # on further sizes, once a network runs, in search of outputs that vary

THROUGH = frozenset(
    ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Flatten", "Transpose")
)
WORDS = ("cats_strings", "keys_strings", "pool_strings")  # attributes that list known texts
LOOPS = frozenset(("Loop", "Scan"))
MODEST = Budget(0).values(0)  # elements of a result
COMPARISONS = frozenset(("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"))
MAX_VALUES = 12  # that one input is compared with

Sizes = tuple[tuple[int, ...], ...]  # for each input, one an axis; 0: given, or the batch
Score = tuple[bool, float]  # whether the outputs are finite, and how far they vary


def fitted(program: ir.Model) -> tuple[TensorSpec, ...]:
    """The inputs of ``program``, with samples that fit it; found once for a model in memory.

    Raises:
        OverBudgetError: a run takes more than a file of its size has reason to.
    """
    inputs, _ = models.specs(program)
    samples: Mapping[str, InputSample] | None = program.meta.get(MEMO)
    if samples is None:
        samples = {spec.name: spec.sample for spec in _fit(program, inputs)}
        program.meta[MEMO] = samples
    return tuple(replace(each, sample=samples.get(each.name, each.sample)) for each in inputs)


def comparable(outputs: Mapping[str, Any]) -> bool:
    """Whether every output has a finite number, so that there is something to compare."""
    return all(np.isfinite(x).any() for x in _floats(outputs) if x.size)


def refuse_incomparable(outputs: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> None:
    """Refuse a model with an output that has no finite number.

    Args:
        outputs: of one run.
        inputs: of the model; those of floats are named in the advice where there are several.

    Raises:
        UserError: there is one; the message says what to do.
    """
    if comparable(outputs):
        return
    names = [f"{x.name}=" for x in inputs if np.dtype(x.dtype).kind in "fV"]
    options = " ".join(f"--input-range {name}LOW,HIGH" for name in (names if names[1:] else [""]))
    raise UserError(
        "the model's outputs are not finite on random inputs, so nothing can be compared: "
        f"say what its inputs lie within, with `prunedeploy shrink {options}`"
    )


def _fit(program: ir.Model, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    values = {value.name: value for value in program.graph.inputs}
    inputs = tuple(replace(each, sample=_use(values[each.name], each)) for each in inputs)
    run = _runner(program, inputs)
    first = _search(run, inputs, 0)
    turns = verify.turns(first or inputs)
    trials = [first, *(_search(run, inputs, turn, first) for turn in range(1, turns))]
    runs = [trial for trial in trials if trial is not None]
    if not runs:
        return inputs
    ran = [turn for turn, trial in enumerate(trials) if trial is not None]
    return tuple(_in_turn(specs, ran, turns) for specs in zip(*runs, strict=True))


def _in_turn(trials: Sequence[TensorSpec], ran: Sequence[int], turns: int) -> TensorSpec:
    """One input as it was in each of the turns in which the network ran."""
    sample = trials[0].sample
    given = (0,) * len(trials[0].shape)
    sizes = tuple((*trial.sample.sizes, given)[0] for trial in trials)
    if len(set(sizes)) > 1:
        sample = replace(sample, sizes=sizes)
    if len(sample.values) == turns:  # values that the network refuses are left out
        sample = replace(sample, values=tuple(sample.values[turn] for turn in ran))
    return replace(trials[0], sample=sample)


def _search(
    run: Run,
    inputs: tuple[TensorSpec, ...],
    turn: int,
    first: tuple[TensorSpec, ...] | None = None,
) -> tuple[TensorSpec, ...] | None:
    """The inputs with the sizes and distribution that fit best in one turn; None if nothing runs.

    ``first`` are those of the first turn, which are kept where they run.
    """
    if first is not None and _score(run, first, turn) is not None:
        return first
    best, highest, runs = None, (False, -1.0), 0
    for sizes in _sizes(inputs):
        for trial in _distributions(_with_sizes(inputs, sizes)):
            score = _score(run, trial, turn)
            if score is None:
                break
            if score > highest:
                best, highest = trial, score
            if score >= (True, TELLING):
                return best
        else:
            runs += 1
            if runs == MAX_RUNS:
                break
    return best


def _runner(program: ir.Model, inputs: Sequence[TensorSpec]) -> Run:
    """What runs the trials: the interpreter first, which keeps to the budget of the file."""
    from prunedeploy.reference.evaluate import Evaluator

    other = second_oracle.opened(program)
    fixed = all(isinstance(dim, int) for spec in inputs for dim in spec.shape)
    if fixed and not isinstance(other, NotAvailable) and _is_modest(program):
        return other
    try:
        interpret = Evaluator(program).run
    except UserError as error:  # an operator that is not known
        unknown = NotAvailable(str(error))
        return (lambda _: unknown) if isinstance(other, NotAvailable) else other

    smallest = iter((True,))  # sizes grow from the first trial on

    def run(feeds: Mapping[str, Array]) -> dict[str, Any] | NotAvailable:
        is_smallest = next(smallest, False)
        try:
            outputs = interpret(feeds)
        except UserError as error:
            if is_smallest and isinstance(error, OverBudgetError):
                raise  # whatever it is given
            return NotAvailable(str(error))
        theirs = outputs if isinstance(other, NotAvailable) else other(feeds)
        return theirs if isinstance(theirs, NotAvailable) else outputs

    return run


def _is_modest(program: ir.Model) -> bool:
    """Whether the file alone shows that a run takes little: no loops, and no result is large."""
    nodes = list(program.graph.all_nodes())
    shapes = [value.shape for node in nodes for value in node.outputs]
    sizes = [math.prod(x.numpy()) if x is not None and x.is_static() else math.inf for x in shapes]
    return not LOOPS & {node.op_type for node in nodes} and max(sizes, default=0) <= MODEST


def _score(run: Run, inputs: tuple[TensorSpec, ...], turn: int) -> Score | None:
    """How well the network can be compared on such inputs; None where it does not run on them."""
    outputs = run(verify.random_feeds(inputs, seed=turn))
    if isinstance(outputs, NotAvailable):
        return None
    spans = [np.ptp(x[np.isfinite(x)]) for x in _floats(outputs) if np.isfinite(x).any()]
    return comparable(outputs), min([TELLING, *map(float, spans)])


def _floats(outputs: Mapping[str, Any]) -> Iterator[Array]:
    return (x for x in outputs.values() if isinstance(x, np.ndarray) and x.dtype.kind == "f")


def _distributions(inputs: tuple[TensorSpec, ...]) -> Iterator[tuple[TensorSpec, ...]]:
    """The inputs as they are, then with floats of other distributions, where there are any."""
    yield inputs
    if any(each.range is None and np.dtype(each.dtype).kind in "fV" for each in inputs):
        yield tuple(replace(x, sample=replace(x.sample, floats="positive")) for x in inputs)
        yield tuple(replace(x, sample=replace(x.sample, floats="coarse")) for x in inputs)


def _with_sizes(inputs: tuple[TensorSpec, ...], sizes: Sizes) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(each, sample=replace(each.sample, sizes=(own,) if any(own) else ()))
        for each, own in zip(inputs, sizes, strict=True)
    )


def _sizes(inputs: tuple[TensorSpec, ...]) -> Iterator[Sizes]:
    """Sizes for what the inputs leave open: the usual ones first, then ever less likely ones."""
    first = _batch_names(inputs)
    axes = [(i, axis) for i, spec in enumerate(inputs) for axis in range(len(spec.shape))]
    open_axes = [each for each in axes if isinstance(inputs[each[0]].shape[each[1]], str)]
    unknown = list(dict.fromkeys(_label(inputs, each) for each in open_axes))
    unknown = [each for each in unknown if each != BATCH and each[0] not in first]
    if open_axes:
        for batch in BATCHES:
            for choice in _choices(len(unknown), batch):
                yield _applied(inputs, dict(zip(unknown, choice, strict=True)), batch)
    else:
        yield tuple(() for _ in inputs)


Label = tuple[str, int, int]  # a size by its name, or one without a name by its input and axis
BATCH: Label = ("?", 0, BATCH_AXIS)


def _batch_names(inputs: Sequence[TensorSpec]) -> set[str]:
    """The names of open sizes that stand first in the shape of an input."""
    return {str(spec.shape[BATCH_AXIS]) for spec in inputs if spec.shape} - {"?"}


def _label(inputs: Sequence[TensorSpec], each: tuple[int, int]) -> Label:
    name = str(inputs[each[0]].shape[each[1]])
    if name == "?" and each[1] == BATCH_AXIS:
        return BATCH
    return ("?", *each) if name == "?" else (name, 0, 0)


def _choices(count: int, batch: int) -> Iterator[tuple[int, ...]]:
    if not count:
        yield ()
        return
    yield from ((size,) * count for size in LADDER)
    if count <= MAX_MIXED:
        for pattern in product((0, batch, 1), repeat=count):
            if any(pattern):
                sizes = SHORT_LADDER if 0 in pattern else (0,)
                yield from (tuple(x or size for x in pattern) for size in sizes)


def _applied(inputs: tuple[TensorSpec, ...], known: Mapping[Label, int], batch: int) -> Sizes:
    """The sizes of all inputs; 0 where a shape is not open, or follows the batch."""
    named = {label[0]: size for label, size in known.items() if label[0] != "?"}
    shapes = resolve(inputs, batch, OPEN_SIZE, named)
    first = _batch_names(inputs)

    def size(index: int, axis: int) -> int:
        dim = inputs[index].shape[axis]
        if isinstance(dim, int):
            return 0
        if axis == BATCH_AXIS or dim in first:
            return 0 if batch == BATCHES[0] else batch
        return known.get(_label(inputs, (index, axis)), shapes[inputs[index].name][axis])

    return tuple(
        tuple(size(index, axis) for axis in range(len(spec.shape)))
        for index, spec in enumerate(inputs)
    )


def _use(value: ir.Value, spec: TensorSpec) -> InputSample:
    """What the operators that read an integer say about its values."""
    kind = np.dtype(spec.dtype)
    if kind.kind == "O":
        return InputSample(words=_words(value))
    single = all(dim == 1 for dim in spec.shape)
    if kind.kind not in "iub" and not single:
        return InputSample()
    compared: set[float] = set()
    counts: set[int] = set()
    for node, index in _readers(value, set()):
        if node.op_type == "If":
            compared |= {0.0, 1.0}
        elif node.op_type in COMPARISONS:
            compared |= _neighbours(node, index)
        elif node.op_type in ("Gather", "OneHot"):
            counts.add(_index_count(node, index))
    counts.discard(0)
    count = min(counts, default=0)
    if kind.kind == "b":
        return InputSample(values=(0.0, 1.0) if single else ())
    low = -math.inf if kind.kind == "f" else float(np.iinfo(kind).min)
    values = sorted(x for x in compared if x >= low)
    return InputSample(values=tuple(values[:MAX_VALUES]), count=count)


def _words(value: ir.Value) -> tuple[str, ...]:
    """The texts that the operators which read ``value`` know."""
    known: dict[str, None] = {}
    for node, index in _readers(value, set()):
        for name in WORDS:
            known |= dict.fromkeys(node.attributes.get_strings(name, ()))
        other = node.inputs[1 - index] if node.op_type == "Equal" else None
        tensor = None if other is None else ir.convenience.get_const_tensor(other)
        if tensor is not None and tensor.size <= MAX_VALUES:
            known |= dict.fromkeys(stored(tensor).reshape(-1).tolist())
    return tuple(known)


def _readers(value: ir.Value, seen: set[ir.Value]) -> Iterator[tuple[ir.Node, int]]:
    """The nodes that read the numbers of ``value``, in another type or shape too."""
    if value in seen:
        return
    seen.add(value)
    for node, index in value.uses():
        if node.op_type in THROUGH and index == 0:
            yield from _readers(node.outputs[0], seen)
        else:
            yield node, index


def _neighbours(node: ir.Node, index: int) -> set[float]:
    """The constants that a comparison has on its other side, and values next to them.

    Of many constants, such as the frequencies that a bound is held against, one value that makes
    the comparison true of all: a network that masks every one of them has nothing left to compute.
    """
    other = node.inputs[1 - index]
    tensor = None if other is None else ir.convenience.get_const_tensor(other)
    constants = set() if tensor is None else {float(x) for x in tensor.numpy().reshape(-1)}
    constants = {x for x in constants if math.isfinite(x)}
    if len(constants) > MAX_VALUES:
        return _true_of_all(node.op_type, index, constants)
    offsets = (0, 1) if node.op_type == "Equal" else (-1, 0, 1)
    return {x + offset for x in constants for offset in offsets}


def _true_of_all(comparison: str, index: int, constants: set[float]) -> set[float]:
    if comparison == "Equal":
        return set()
    above = comparison.startswith("Greater") == (index == 0)
    strict = not comparison.endswith("OrEqual")
    return {max(constants) + strict if above else min(constants) - strict}


def _index_count(node: ir.Node, index: int) -> int:
    """How many values an index that ``node`` reads may have, 0 where it does not say."""
    if node.op_type == "OneHot" and index == 0:
        depth = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] else None
        return int(depth.numpy().reshape(-1)[0]) if depth is not None else 0
    data = node.inputs[0]
    if node.op_type == "OneHot" or index != 1 or data is None or data.shape is None:
        return 0
    dim = data.shape[node.attributes.get_int("axis", 0)] if len(data.shape) else 0
    return dim if isinstance(dim, int) else 0
