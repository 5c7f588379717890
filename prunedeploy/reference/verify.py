"""Does a candidate compute what the reference computes? The only home of tolerances.

The error that counts is relative to the *range* of the reference's output, largest minus
smallest value over the samples: a logit of 1e-9 among logits of 10 may be off by all of itself
without a prediction noticing, while one bound on the absolute error would be nonsense for
networks whose outputs are in the thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Difference, InputRange, TensorSpec
from prunedeploy.graph.sizes import OPEN_SIZE, resolve
from prunedeploy.graph.subgraphs import bodies

if TYPE_CHECKING:
    import onnx_ir as ir

# A float32 sum of n products carries a relative error near sqrt(n) * 2**-24; the longest sums of
# the networks we meet (25,000 terms, some 100 layers deep) reach 1e-6 to 4e-6 of the range when
# nothing but the order of summation changes. A lost weight of ordinary size shows above 1e-4.
# float64 has the same argument at 2**-53; float16 and bfloat16 round at 2**-11 and 2**-8.
TOLERANCE: dict[str, float] = {
    "float64": 1e-12,
    "float32": 1e-5,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}

# What a whole network may be off by that computes in less than its outputs are given in: half of
# these would show in no prediction of the networks we meet, and what it really is goes on record.
# Converters leave the inputs and outputs of a network in float32 and compute in float16 between:
# every value there carries a rounding of 2**-11 (2**-8 in bfloat16), however it is computed, and
# two correct runtimes round at different places. So the tolerance of an output goes by the least
# precise type that any value between the inputs and it has, not by its own. A constant that is
# stored in float16 and widened before it is used is exact, and asks for no more than float32 does.
NARROW_TOLERANCE: dict[str, float] = {"float16": 1e-2, "bfloat16": 5e-2, "int8": 1e-1}
PRECISION = "prunedeploy.precision"  # in the metadata of a model that was converted

Tolerance = float | Mapping[str, float] | None  # of all outputs, of some by name, by their dtypes

# What may vary in an output that is one number, as far as arithmetic goes: 64 units in the last
# place, that is 64 * 2**-53 and so on.
ROUNDING: dict[str, float] = {
    "float64": 2.0**-47,
    "float32": 2.0**-18,
    "float16": 2.0**-5,
    "bfloat16": 2.0**-2,
}


def tolerance_of(precision: str) -> float | None:
    """What a network in ``precision`` may be off by; None for the precision of its outputs."""
    return NARROW_TOLERANCE.get(precision)


def tolerances_of(model: ir.Model) -> Tolerance:
    """What two runtimes, or two forms, of ``model`` may differ by: see ``NARROW_TOLERANCE``.

    Args:
        model: with the types of its values inferred.

    Returns:
        One number for a model that was converted; the tolerances of those outputs that are
        computed in less than float32; None where none is.
    """
    if converted := model.metadata_props.get(PRECISION, ""):
        return tolerance_of(converted)
    found = {name: NARROW_TOLERANCE[kind] for name, kind in computed_in(model).items() if kind}
    return found or None


def precision_of(model: ir.Model) -> str:
    """What ``model`` was converted to, or else the least precise type that it computes in.

    Empty for one that computes in the precision of its outputs.
    """
    if converted := model.metadata_props.get(PRECISION, ""):
        return converted
    return _least(computed_in(model).values())


def computed_in(model: ir.Model) -> dict[str, str]:
    """By output, the least precise of float16 and bfloat16 that is met between the inputs and it.

    Empty where there is none: what no input reaches is a constant, and sizes are exact.
    """
    met: dict[ir.Value, str] = {}
    for value in model.graph.inputs:
        if not value.is_initializer():
            met[value] = _narrow(value)
    _meet(model.graph, met)
    return {str(value.name): met.get(value, "") for value in model.graph.outputs}


def _meet(graph: ir.Graph, met: dict[ir.Value, str]) -> None:
    """For every value that an input reaches, the least precise type on the way there."""
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
                on_the_way.append(_least(inner))
        if on_the_way:
            least = _least(on_the_way)
            met |= {value: _least((least, _narrow(value))) for value in node.outputs}


def _narrow(value: ir.Value) -> str:
    name = value.dtype.name.lower() if value.dtype is not None else ""
    return name if name in ("float16", "bfloat16") else ""


def _least(kinds: Iterable[str]) -> str:
    """The one that allows the most; empty for none."""
    return max(kinds, key=lambda kind: NARROW_TOLERANCE.get(kind, 0.0), default="")


def random_feeds(
    inputs: tuple[TensorSpec, ...],
    batch: int = 2,
    seed: int = 0,
    size: int = OPEN_SIZE,
    known: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Inputs drawn from N(0, 1); bytes from all there are, other integers from {0, 1}; what has a
    range, evenly from within it.

    Args:
        inputs: what the model takes, and within what range. Its first dimension is ``batch``
            where it is dynamic, every other dynamic dimension is ``size``; those of one name are
            of one size (see ``sizes.resolve``).
        batch: samples per input.
        seed: the same seed gives the same arrays.
        size: length of dynamic dimensions other than the first.
        known: sizes of dynamic dimensions by name, where they are given.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    shapes = resolve(inputs, batch, size, known)
    for spec in inputs:
        shape = list(shapes[spec.name])
        kind = np.dtype(spec.dtype)
        if spec.range is not None and kind.kind != "b":
            feeds[spec.name] = _within(spec.range, shape, kind, random)
        elif _is_floating(kind):
            feeds[spec.name] = random.standard_normal(shape).astype(kind)
        else:
            # bytes are data, pixels say; wider integers are indices, which must exist
            few = kind not in (np.uint8, np.int8)
            least, most = (0, 1) if few else (np.iinfo(kind).min, np.iinfo(kind).max)
            feeds[spec.name] = random.integers(least, most + 1, shape).astype(kind)
    return feeds


def _within(
    limits: InputRange, shape: list[int], kind: np.dtype[np.generic], random: np.random.Generator
) -> Array:
    """Drawn evenly; where one bound is infinite, at the distance of an N(0, 1) from the other.

    A tenth of the elements lie on each bound: that is where proofs from ranges are tight.
    """
    aside = [1, -1, *[1] * (len(shape) - 2)] if len(limits.low) > 1 else [1] * len(shape)
    low, high = (np.broadcast_to(np.reshape(x, aside), shape) for x in (limits.low, limits.high))
    normal = np.abs(random.standard_normal(shape))
    least = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - normal, -normal))
    most = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low + normal, normal))
    where = random.uniform(-0.125, 1.125, shape).clip(0, 1)
    drawn = least + where * (most - least)
    if kind.kind in "iu":
        drawn, least, most = np.floor(drawn + 0.5), np.ceil(least), np.floor(most)
    found: Array = np.clip(drawn, least, most).astype(kind)
    return found


def _is_floating(dtype: np.dtype[np.generic]) -> bool:
    """NumPy files bfloat16, float8 and their like under void."""
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return dtype.kind != "c"


def compare(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], tolerance: Tolerance = None
) -> Difference:
    """The largest difference over all outputs, of those that may differ by the same.

    Args:
        reference: outputs by name, axis 0 the samples.
        candidate: the same of the other model.
        tolerance: on ``max_rel``, of all outputs or of some by name; those that are not named go
            by ``TOLERANCE`` and the reference's dtypes. The largest difference is then the one
            that takes most of what it may be.

    Raises:
        UserError: outputs are missing or of another shape, or there are none.
    """
    if not reference:
        raise UserError("there is nothing to compare: the model has no outputs")
    worst_abs, worst_rel, where, samples, changed = 0.0, 0.0, "", 0, 0
    allowed = _allowed(reference, tolerance)
    limit, share = max(allowed.values()), 0.0
    for name, expected in reference.items():
        if name not in candidate or candidate[name].shape != expected.shape:
            found = candidate[name].shape if name in candidate else "nothing"
            raise UserError(f"output {name} should have shape {expected.shape}, found {found}")
        absolute, relative = _output_difference(expected, candidate[name])
        used = Difference(absolute, relative, allowed[name], 0).share
        if not used <= share:  # NaN is the worst of all
            worst_rel, where, limit, share = relative, name, allowed[name], used
        worst_abs = absolute if not absolute <= worst_abs else worst_abs
        samples = max(samples, len(expected) if expected.ndim else 1)
        changed = max(changed, _changed_predictions(expected, candidate[name]))
    each = allowed if isinstance(tolerance, Mapping) else {}
    return Difference(worst_abs, worst_rel, limit, samples, where, changed, each)


def _allowed(reference: Mapping[str, Array], tolerance: Tolerance) -> dict[str, float]:
    """What each output may differ by."""
    if isinstance(tolerance, float | int):
        return dict.fromkeys(reference, float(tolerance))
    named = dict(tolerance or {})
    others = [array.dtype.name for name, array in reference.items() if name not in named]
    usual = max((TOLERANCE.get(dtype, 0.0) for dtype in others), default=0.0)
    return {name: named.get(name, usual) for name in reference}


def _output_difference(expected: Array, found: Array) -> tuple[float, float]:
    """Largest absolute difference, and the same relative to the range of ``expected``."""
    if not expected.size:
        return 0.0, 0.0
    left, right = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        distance = np.where(same, 0.0, np.abs(left - right))
    absolute = float(distance.max())
    if absolute == 0.0:
        return 0.0, 0.0
    finite = left[np.isfinite(left)]
    span = float(finite.max() - finite.min()) if finite.size else 0.0
    size = float(np.abs(finite).max()) if finite.size else 0.0
    # an output that varies by no more than rounding has no range: its size stands in
    scale = (span if span > ROUNDING.get(expected.dtype.name, 0.0) * size else size) or 1.0
    return absolute, absolute / scale


def _changed_predictions(expected: Array, found: Array) -> int:
    """Samples whose largest class differs, for outputs of shape [samples, classes]."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return 0
    return int(np.count_nonzero(expected.argmax(1) != found.argmax(1)))


def exactly(
    difference: Difference,
    reference: Path | ir.Model,
    candidate: ir.Model,
    feeds: Mapping[str, Array],
) -> Difference:
    """``difference``, or where it is too large, how far the two models are in float64.

    A deep network may make more of float32's rounding than the tolerance allows, whichever way it
    is computed. In float64 that is gone, and what is left is the difference between the models.
    """
    from prunedeploy.reference.evaluate import Evaluator

    if difference.passed:
        return difference
    wide = [Evaluator(model, float64=True).run(feeds) for model in (reference, candidate)]
    found = compare(wide[0], wide[1], difference.tolerances or difference.tolerance)
    return replace(found, where=f"{found.where} (in float64)")
