"""Ranges of a model's inputs: stated by the user and stored in the model's metadata.

A shrunk model that used such a range says so in its metadata, under ``KEY``: a JSON object of
input names to ``{"low": [...], "high": [...]}``, one number each or one a channel (axis 1).
Whoever draws inputs for the model finds it in its ``TensorSpec``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import InputRange, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

KEY = "prunedeploy.graph.input_range"
RECIPE = "recipe"
ROUNDING = 4 * 2.0**-24

Numbers = float | Sequence[float]
Bounds = tuple[Numbers, Numbers]
Stated = str | Bounds | Mapping[str, Bounds]


def resolve(
    stated: Stated | None,
    inputs: tuple[TensorSpec, ...],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> dict[str, InputRange]:
    """The ranges by input name; ranges that ``inputs`` already have are narrowed, never widened.

    Args:
        stated: (low, high) for the only input, numbers or one a channel; the same by input name;
            or "recipe": pixels in [0, 1], normalised by ``mean`` and ``std``.
        inputs: what the model takes.
        mean: of the recipe, per channel; empty where there is none.
        std: the same.

    Raises:
        UserError: no such input, a range of another number of channels, of NaN, or of nothing.
    """
    ranges = {spec.name: spec.range for spec in inputs if spec.range is not None}
    given = _by_name(stated, inputs, mean, std)
    specs = {spec.name: spec for spec in inputs}
    for name, bounds in given.items():
        if name not in specs:
            raise UserError(f"no input is called {name!r}: the model takes {', '.join(specs)}")
        new = _range(name, bounds)
        _check(specs[name], new)
        ranges[name] = meet(name, ranges.get(name), new)
    return ranges


def _by_name(
    stated: Stated | None,
    inputs: tuple[TensorSpec, ...],
    mean: Sequence[float],
    std: Sequence[float],
) -> Mapping[str, Bounds]:
    if stated is None:
        return {}
    if isinstance(stated, Mapping):
        return stated
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise UserError(f"the model takes {names}: state the input range of each by its name")
    if not isinstance(stated, str):
        return {inputs[0].name: stated}
    if stated != RECIPE:
        raise UserError(f"the input range {stated!r} is neither two numbers nor '{RECIPE}'")
    if not mean:
        raise UserError(
            "no recipe says how this network's pixels are normalised: state the range in numbers"
        )
    # whoever normalises does so in float32; pixels that are taken as they are do not round
    pairs = [
        (m, s, ROUNDING * (abs(m) + 1) / s if (m, s) != (0, 1) else 0.0)
        for m, s in zip(mean, std, strict=True)
    ]
    low = [(0.0 - m) / s - slack for m, s, slack in pairs]
    return {inputs[0].name: (low, [(1.0 - m) / s + slack for m, s, slack in pairs])}


def _range(name: str, bounds: Bounds) -> InputRange:
    try:
        low, high = (
            tuple(map(float, side)) if isinstance(side, Sequence) else _numbers(side)
            for side in bounds
        )
    except (TypeError, ValueError):
        raise UserError(
            f"the range of {name} must be (low, high), numbers or one a channel, found {bounds!r}"
        ) from None
    size = max(len(low), len(high))
    low, high = (side * size if len(side) == 1 else side for side in (low, high))
    return InputRange(low, high)


def _numbers(side: Any) -> tuple[float, ...]:
    """A number, or an array of numbers."""
    return tuple(map(float, side.reshape(-1))) if hasattr(side, "reshape") else (float(side),)


def _check(spec: TensorSpec, given: InputRange) -> None:
    channels = spec.shape[1] if len(spec.shape) > 1 else None
    if len(given.low) != len(given.high) or (len(given.low) not in (1, channels)):
        raise UserError(
            f"the range of {spec.name} has {len(given.low)} and {len(given.high)} numbers: "
            f"give one for all{f' or {channels}' if isinstance(channels, int) else ''}"
        )
    for low, high in zip(given.low, given.high, strict=True):
        if not low <= high or low == math.inf or high == -math.inf:  # NaN is never in order
            raise UserError(f"the range {low:g} to {high:g} of {spec.name} holds no number")


def meet(name: str, one: InputRange | None, other: InputRange | None) -> InputRange:
    """The intersection of two ranges; None stands for all numbers.

    Raises:
        UserError: no number lies in both.
    """
    if one is None or other is None:
        only = one or other
        assert only is not None
        return only
    size = max(len(one.low), len(other.low))
    lows, highs = (
        [side * size if len(side) == 1 else side for side in sides]
        for sides in ((one.low, other.low), (one.high, other.high))
    )
    both = InputRange(
        tuple(map(max, zip(*lows, strict=True))), tuple(map(min, zip(*highs, strict=True)))
    )
    if any(low > high for low, high in zip(both.low, both.high, strict=True)):
        raise UserError(
            f"no number of {name} is both within {words(one)} and within {words(other)}"
        )
    return both


def attach(model: ir.Model, ranges: Mapping[str, InputRange]) -> None:
    """Write the ranges into the model's metadata."""
    if ranges:
        model.metadata_props[KEY] = json.dumps({k: asdict(v) for k, v in sorted(ranges.items())})


def of(model: ir.Model) -> dict[str, InputRange]:
    """The ranges in the model's metadata.

    Raises:
        UserError: something else stands there.
    """
    text = model.metadata_props.get(KEY)
    if text is None:
        return {}
    try:
        ranges = {name: _range(name, (v["low"], v["high"])) for name, v in json.loads(text).items()}
        for name, each in ranges.items():
            _check(TensorSpec(name, "float32", (1, len(each.low))), each)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError):
        raise UserError(f"the model's metadata {KEY} is not a range for each input") from None
    return ranges


def words(limits: InputRange) -> str:
    """A range as reports print it: one for all channels, or the widest of them."""
    low, high = min(limits.low), max(limits.high)
    each = ", a range for each channel" if len(limits.low) > 1 else ""
    return f"[{low:.4g}, {high:.4g}]{each}"


def claim(ranges: Mapping[str, InputRange]) -> str:
    """The condition under which a model computes what the original does; empty without one."""
    if not ranges:
        return ""
    if len(ranges) == 1:
        return f"for inputs within {words(next(iter(ranges.values())))}"
    return "for inputs with " + ", ".join(f"{k} within {words(v)}" for k, v in ranges.items())
