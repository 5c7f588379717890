"""Compares the outputs of two models. Every tolerance of the project is defined in this module.

The difference of an output is measured relative to its *range*: the largest absolute difference of
an element, divided by the largest minus the smallest value of the reference's output over all
samples (``Difference.max_rel``). A bound relative to each element would refuse a logit of 1e-9 that
is off by its own size among logits of 10, which changes no prediction; a bound on the absolute
difference would mean something else for every network.

``TOLERANCE`` says how large that difference may be for an output of a given dtype, and
``NARROW_TOLERANCE`` for a network that computes in a narrower type than its outputs have. An output
that exceeds its tolerance is not refused at once: ``exactly`` computes both models in float64,
where the rounding of float32 is gone and only a real difference is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import FLOAT32_TOLERANCE, Array, Difference
from prunedeploy.graph.subgraphs import bodies
from prunedeploy.reference.drawing import random_feeds as random_feeds
from prunedeploy.reference.drawing import turns as turns

if TYPE_CHECKING:
    import onnx_ir as ir

# The largest difference, relative to the range, that two correct computations of an output may
# have, by the output's dtype. A float32 sum of n products carries a relative error near
# sqrt(n) * 2**-24; the longest sums of common networks (25,000 terms, some 100 layers deep) reach
# 1e-6 to 4e-6 of the range when nothing but the order of summation changes, and a lost weight of
# ordinary size shows above 1e-4: 1e-5 lies between. The same argument holds for float64 at 2**-53;
# float16 and bfloat16 round at 2**-11 and 2**-8.
TOLERANCE: dict[str, float] = {
    "float64": 1e-12,
    "float32": FLOAT32_TOLERANCE,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}

# The same for a network that computes in a narrower type than its outputs have. Converters leave
# the inputs and outputs of a network in float32 and compute in float16 between them: every value
# there carries a rounding of 2**-11 (2**-8 in bfloat16), however it is computed, and two correct
# runtimes round at different operators. So the tolerance of an output follows from the least
# precise type of all values between the inputs and it, not from its own type. A constant that is
# stored in float16 and widened before it is used is exact, and allows no more than float32 does.
# Differences of half these sizes change no prediction of common networks; the measured difference
# is always recorded.
NARROW_TOLERANCE: dict[str, float] = {"float16": 1e-2, "bfloat16": 5e-2, "int8": 1e-1}
PRECISION = "prunedeploy.precision"  # in the metadata of a model that was converted

# One number for all outputs; numbers for some outputs by name; None for ``TOLERANCE`` by dtype.
Tolerance = float | Mapping[str, float] | None

# An output whose values vary by no more than this, relative to their size, is taken for a constant:
# 64 units in the last place, that is 64 * 2**-53 for float64 and so on.
ROUNDING: dict[str, float] = {
    "float64": 2.0**-47,
    "float32": 2.0**-18,
    "float16": 2.0**-5,
    "bfloat16": 2.0**-2,
}


# A network may amplify the rounding of float32 beyond these tolerances, in whichever order it is
# computed. How far rounding moves its outputs on given inputs is then found by two computations
# that round (``noise``). Another correct one, which adds in another order and approximates
# functions by other polynomials, may be this many times as far from the exact outputs.
NOISE_FACTOR = 8.0
MAX_NOISE = 1e-2  # a difference that rounding may explain; float16 has the same, see above
# A pass that folds weights rounds each of them once more, as float32 rounds every result once. The
# two errors are of one size (1.4 times as much in a text detector that found nothing), so less than
# ``NOISE_FACTOR`` will do.
FOLDED_FACTOR = 4.0
UNSTABLE = 0.05  # rounding relative to an output's range from which no comparison is possible


class OtherShapeError(UserError):
    """The outputs that are compared are not of one shape, or are missing."""


def tolerance_of(precision: str) -> float | None:
    """The tolerance of a network that computes in ``precision``; None if that is its dtype."""
    return NARROW_TOLERANCE.get(precision)


def tolerances_of(model: ir.Model) -> Tolerance:
    """The tolerance between two runtimes, or two forms, of ``model``: see ``NARROW_TOLERANCE``.

    Args:
        model: with the types of its values inferred.

    Returns:
        One number for a model that ``lower`` converted; else the tolerances, by name, of the
        outputs that are computed in a type narrower than float32; None where there are none.
    """
    if converted := model.metadata_props.get(PRECISION, ""):
        return tolerance_of(converted)
    tolerances = {name: NARROW_TOLERANCE[kind] for name, kind in computed_in(model).items() if kind}
    return tolerances or None


def own_tolerance(model: ir.Model) -> Tolerance:
    """The tolerance between two forms of ONNX Runtime, for a model that nothing else computes.

    Operators on 8-bit integers round to their steps where they are fused, or not.
    """
    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    kinds = {tensor.dtype.name for tensor in tensors if tensor is not None}
    return NARROW_TOLERANCE["int8"] if kinds & {"INT8", "UINT8"} else None


def precision_of(model: ir.Model) -> str:
    """The precision that ``model`` was converted to, or else its least precise type.

    Returns "" for a model that computes in the dtypes of its outputs.
    """
    if converted := model.metadata_props.get(PRECISION, ""):
        return converted
    return _least_precise(computed_in(model).values())


def computed_in(model: ir.Model) -> dict[str, str]:
    """For each output, the least precise of float16 and bfloat16 between the inputs and it.

    The value is "" where neither occurs. Values that no input reaches are constants, and sizes are
    exact: neither counts.
    """
    met: dict[ir.Value, str] = {}
    for value in model.graph.inputs:
        if not value.is_initializer():
            met[value] = _narrow(value)
    _meet(model.graph, met)
    return {str(value.name): met.get(value, "") for value in model.graph.outputs}


def _meet(graph: ir.Graph, met: dict[ir.Value, str]) -> None:
    """Add to ``met``, for every value that an input reaches, the least precise type before it."""
    for node in graph:
        if node.op_type in ("Shape", "Size"):
            continue
        on_the_way = [met[value] for value in node.inputs if value in met]
        for body in bodies(node):
            met |= {value: _narrow(value) for value in body.inputs}
            before = len(met)
            _meet(body, met)
            if len(met) > before or body.inputs:
                inner = (met.get(v, "") for n in body.all_nodes() for v in n.outputs)
                on_the_way.append(_least_precise(inner))
        if on_the_way:
            lowest = _least_precise(on_the_way)
            met |= {value: _least_precise((lowest, _narrow(value))) for value in node.outputs}


def _narrow(value: ir.Value) -> str:
    name = value.dtype.name.lower() if value.dtype is not None else ""
    return name if name in ("float16", "bfloat16") else ""


def _least_precise(kinds: Iterable[str]) -> str:
    """The least precise of ``kinds``, the one with the largest tolerance; "" for none."""
    return max(kinds, key=lambda kind: NARROW_TOLERANCE.get(kind, 0.0), default="")


def compare(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], tolerance: Tolerance = None
) -> Difference:
    """Compare two models' outputs, and return the largest difference.

    Args:
        reference: the reference's outputs by name; axis 0 is the samples.
        candidate: the other model's outputs; names and shapes are those of ``reference``.
        tolerance: the limit on ``max_rel``, for all outputs or for some by name; outputs that are
            not named have that of ``TOLERANCE`` for the reference's dtypes. Where limits differ,
            the largest difference is the one that uses the largest share of its limit.

    Raises:
        OtherShapeError: outputs are missing or of another shape.
        UserError: there are none.
    """
    if not reference:
        raise UserError("there is nothing to compare: the model has no outputs")
    if isinstance(tolerance, Mapping):
        named = {name: _parts(name, value) for name, value in reference.items()}
        parts = [(part, x) for name, x in tolerance.items() for part in named.get(name, (name,))]
        tolerance = dict(parts)
    reference, candidate = _in_pairs(reference, candidate)
    worst_abs, worst_rel, where, samples, changed = 0.0, 0.0, "", 0, 0
    allowed = _allowed(reference, tolerance)
    limit, share = max(allowed.values()), 0.0
    for name, expected in reference.items():
        if name not in candidate or candidate[name].shape != expected.shape:
            shape = candidate[name].shape if name in candidate else "nothing"
            raise OtherShapeError(
                f"output {name} should have shape {expected.shape}, found {shape}"
            )
        absolute, relative = _output_difference(expected, candidate[name])
        used = Difference(absolute, relative, allowed[name], 0).share
        if not used <= share:  # NaN is the worst of all
            worst_rel, where, limit, share = relative, name, allowed[name], used
        worst_abs = absolute if not absolute <= worst_abs else worst_abs
        samples = max(samples, len(expected) if expected.ndim else 1)
        changed = max(changed, _changed_predictions(expected, candidate[name]))
    each = allowed if isinstance(tolerance, Mapping) or len({*allowed.values()}) > 1 else {}
    return Difference(worst_abs, worst_rel, limit, samples, where, changed, each)


def arrays(outputs: Mapping[str, Array | list[Array]]) -> dict[str, Array]:
    """The arrays of ``outputs``, those of a sequence under ``name[0]``, ``name[1]`` and so on."""
    return {part: x for name, value in outputs.items() for part, x in _parts(name, value).items()}


def _in_pairs(
    reference: Mapping[str, Array | list[Array]], candidate: Mapping[str, Array | list[Array]]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays of both, once their sequences are known to be of one length.

    Raises:
        UserError: they are not.
    """
    for name, value in reference.items():
        other = candidate.get(name)
        if isinstance(value, list) and isinstance(other, list) and len(value) != len(other):
            raise OtherShapeError(
                f"output {name} should have {len(value)} elements, found {len(other)}"
            )
    return arrays(reference), arrays(candidate)


def _parts(name: str, value: Array | list[Array]) -> dict[str, Array]:
    if isinstance(value, list):
        return {f"{name}[{i}]": x for i, x in enumerate(value)}
    return {name: value}


def _allowed(reference: Mapping[str, Array], tolerance: Tolerance) -> dict[str, float]:
    """The tolerance of each output; integers and texts have none of the floats beside them."""
    if isinstance(tolerance, float | int):
        return dict.fromkeys(reference, float(tolerance))
    named = dict(tolerance or {})
    others = [array.dtype.name for name, array in reference.items() if name not in named]
    usual = max((TOLERANCE.get(dtype, 0.0) for dtype in others), default=0.0)
    floats = {name for name, array in reference.items() if array.dtype.name in TOLERANCE}
    return {name: named.get(name, usual if name in floats else 0.0) for name in reference}


def _output_difference(expected: Array, candidate: Array) -> tuple[float, float]:
    """The largest absolute difference, and the same relative to the range of ``expected``.

    Of texts, the share that is another one.
    """
    if not expected.size:
        return 0.0, 0.0
    if expected.dtype.kind == "O":  # texts
        share = float(np.count_nonzero(expected != candidate)) / expected.size
        return share, share
    left, right = expected.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        distance = np.where(same, 0.0, np.abs(left - right))
    absolute = float(distance.max())
    if absolute == 0.0:
        return 0.0, 0.0
    return absolute, absolute / _scale(expected)


def _scale(expected: Array) -> float:
    """The range of an output, as differences of it are measured."""
    finite = expected[np.isfinite(expected)].astype(np.float64)
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    size = float(np.abs(finite).max()) if finite.size else 0.0
    # an output that varies by no more than rounding has no range: its magnitude is used instead
    return (span if span > ROUNDING.get(expected.dtype.name, 0.0) * size else size) or 1.0


def _magnitude(expected: Array) -> float:
    """The largest magnitude of an output, relative to its range."""
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max()) / _scale(expected) if finite.size else 0.0


def _changed_predictions(expected: Array, candidate: Array) -> int:
    """Count the samples whose largest class differs, in outputs of shape [samples, classes]."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return 0
    return int(np.count_nonzero(expected.argmax(1) != candidate.argmax(1)))


def worst(differences: Sequence[Difference]) -> Difference:
    """The largest of the differences of several runs, over the samples of all of them."""
    largest = max(differences, key=lambda x: (x.max_rel != x.max_rel, x.share))  # NaN is the worst
    return replace(
        largest,
        samples=sum(x.samples for x in differences),
        changed_predictions=sum(x.changed_predictions for x in differences),
    )


def exact_and_moved(
    model: Path | ir.Model, feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The outputs of ``model`` in float64, and the same with every result moved by rounding."""
    from prunedeploy.reference.evaluate import Evaluator

    wide = (Evaluator(model, float64=True, moved=how) for how in (False, True))
    exact, moved = (arrays(each.run(feeds)) for each in wide)
    return exact, moved


def at_ties(model: Path | ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """The outputs in float64 with every tie of a quantiser decided the other way.

    A sum that falls into the middle of two steps is rounded to either, by the order of its terms.
    In a small network that happens once or never, so one run at random may not show it. None where
    nothing quantises.
    """
    from prunedeploy.graph import model as models
    from prunedeploy.reference.evaluate import STEPPING, Evaluator

    program = models.load(model) if isinstance(model, Path) else model
    if not any(node.op_type in STEPPING for node in program.graph):
        return None
    return arrays(Evaluator(program, float64=True, ties=True).run(feeds))


def against_noise(
    model: Path | ir.Model,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array],
    outputs: Mapping[str, Array],
    tolerance: Tolerance,
) -> Difference:
    """Compare outputs with the model in float64, by how far rounding moves it on these inputs.

    Two computations tell how far that is: ``reference``, in float32, and one in float64 in which
    the result of every operator is moved at random by as much as float32 rounds it; where those
    leave a difference, a third one that decides ties the other way (``at_ties``). ``outputs`` may
    be ``NOISE_FACTOR`` times as far from float64, up to ``MAX_NOISE``, or within ``tolerance``. A
    fault of an engine does not shrink with the rounding, so one that is larger than it is found.
    """
    exact, moved = exact_and_moved(model, feeds)
    reference, outputs = _in_pairs(reference, outputs)
    allowed = _allowed(reference, tolerance)
    exact = {name: array.astype(reference[name].dtype) for name, array in exact.items()}

    def held(*rounded: Mapping[str, Array]) -> Difference:
        for name, array in exact.items():
            rounding = (_output_difference(array, each[name])[1] for each in rounded)
            noise = min(NOISE_FACTOR * max(rounding), MAX_NOISE)
            allowed[name] = max(allowed[name], noise)
        return compare(exact, outputs, allowed)

    difference = held(reference, moved)
    if not difference.passed and (tied := at_ties(model, feeds)) is not None:
        difference = held(tied)
    return replace(difference, where=f"{difference.where} (from float64)")


def exactly(
    difference: Difference,
    reference: Path | ir.Model,
    candidate: ir.Model,
    feeds: Mapping[str, Array],
) -> Difference:
    """Return ``difference`` if it passed, else the difference of the two models in float64.

    A deep network may amplify the rounding of float32 beyond the tolerance, in whichever order it
    is computed. In float64 that rounding is gone, and the difference of the models is left.

    A constant that a pass folds is still stored in float32, which may move an output by half a unit
    in its last place, 2**-24 of the largest magnitude M. An output that moves little about a large
    value, such as one near 0.7 whose range R is 8.7e-4, shows that as 2**-24 * M / R of its range,
    above ``TOLERANCE``. So much is allowed to a float32 output, and where a network amplifies the
    rounding of its folded weights, ``FOLDED_FACTOR`` times what float32 rounds the reference by.
    """
    from prunedeploy.reference.evaluate import HALF_ULP, Evaluator

    if difference.passed:
        return difference
    wide = [Evaluator(model, float64=True) for model in (reference, candidate)]
    exact, outputs = _in_pairs(*(each.run(feeds) for each in wide))
    allowed = _allowed(exact, difference.tolerances or difference.tolerance)
    rounded = {x.name for x in wide[0].outputs if x.dtype == "float32"} & exact.keys()
    for name in rounded:
        allowed[name] = max(allowed[name], HALF_ULP * _magnitude(exact[name]))
    in_float64 = compare(exact, outputs, allowed)
    if not in_float64.passed:
        narrow = arrays(Evaluator(reference).run(feeds))
        for name in rounded:
            noise = FOLDED_FACTOR * _output_difference(exact[name], narrow[name])[1]
            allowed[name] = max(allowed[name], min(noise, MAX_NOISE))
        in_float64 = compare(exact, outputs, allowed)
    return replace(in_float64, where=f"{in_float64.where} (in float64)")
