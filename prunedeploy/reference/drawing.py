"""Draws random inputs for models, which comparisons of outputs and measurements run on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, InputRange, TensorSpec
from prunedeploy.graph.sizes import OPEN_SIZE, resolve

MAX_FED = 1 << 28  # elements of all inputs of a model
COARSE = 4  # neighbours of one value on an axis, in inputs that have structure as images have
DIGITS = ("0", "1")  # texts that can be numbers too
MAX_TURNS = 8  # runs on other values of single numbers


def fed_shapes(
    inputs: Sequence[TensorSpec],
    batch: int,
    size: int = OPEN_SIZE,
    known: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that ``random_feeds`` draws, by name.

    Raises:
        UserError: they are larger than any that could be computed with.
    """
    shapes = resolve(inputs, batch, size, known)
    if (total := sum(math.prod(shape) for shape in shapes.values())) > MAX_FED:
        raise UserError(
            f"the inputs have {total:,} elements: export the network with sizes of less than"
            f" {MAX_FED:,} in all"
        )
    return shapes


def random_feeds(
    inputs: tuple[TensorSpec, ...],
    batch: int = 2,
    seed: int = 0,
    size: int = OPEN_SIZE,
    known: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Draw random inputs for a model.

    Floating-point inputs are drawn from N(0, 1), 8-bit integers from all their values, other
    integers from {0, 1}, texts from "0" and "1", unless the input's ``sample`` says otherwise;
    inputs with a stated range are drawn evenly from it. A single number that the network compares
    with others takes one of the values that matter, the next one for the next seed: ``turns`` seeds
    try all of them.

    Args:
        inputs: the model's inputs. The first dimension is ``batch`` where it is dynamic, every
            other dynamic dimension is ``size``; dimensions of one name have one size (see
            ``sizes.resolve``).
        batch: samples per input.
        seed: the same seed gives the same arrays.
        size: length of dynamic dimensions other than the first.
        known: sizes of dynamic dimensions by name, where they are given.

    Raises:
        UserError: the inputs are larger than any that could be computed with.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    shapes = fed_shapes([_sized(spec, seed) for spec in inputs], batch, size, known)
    turn = seed
    for spec in inputs:
        shape = list(shapes[spec.name])
        if _takes_turns(spec):
            turn, index = divmod(turn, len(spec.sample.values))
            feeds[spec.name] = np.full(shape, spec.sample.values[index]).astype(spec.dtype)
        else:
            feeds[spec.name] = _drawn(spec, shape, random)
    return feeds


def turns(inputs: Iterable[TensorSpec]) -> int:
    """How many seeds of ``random_feeds`` run every branch that a single number decides on."""
    counts = [len(spec.sample.values) for spec in inputs if _takes_turns(spec)]
    return min(math.prod(counts), MAX_TURNS)


def _takes_turns(spec: TensorSpec) -> bool:
    single = all(dim == 1 for dim in _sized(spec, 0).shape)
    return single and bool(spec.sample.values) and spec.range is None


def _sized(spec: TensorSpec, turn: int) -> TensorSpec:
    """``spec`` with the sizes of its sample."""
    if not spec.sample.sizes:
        return spec
    sizes = spec.sample.sizes[turn % len(spec.sample.sizes)]
    return replace(spec, shape=tuple(x or dim for x, dim in zip(sizes, spec.shape, strict=True)))


def _drawn(spec: TensorSpec, shape: list[int], random: np.random.Generator) -> Array:
    kind, sample = np.dtype(spec.dtype), spec.sample
    if kind.kind == "O":
        return random.choice(np.array(sample.words or DIGITS, object), shape)
    if spec.range is not None and kind.kind != "b":
        return _within(spec.range, shape, kind, random)
    if _is_floating(kind):
        return _floats(sample.floats, shape, random).astype(kind)
    if sample.count or sample.values:
        few = random.integers(0, sample.count or 2, shape)
        named = [x for x in sample.values if 0 <= x < (sample.count or math.inf)]
        if named:  # a quarter, so that each of them occurs
            few = np.where(random.random(shape) < 0.25, random.choice(named, shape), few)
        return few.astype(kind)
    # bytes are data, pixels say; wider integers are indices, which must exist
    data = kind in (np.uint8, np.int8)
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if data else (0, 1)
    return random.integers(low, high + 1, shape).astype(kind)


def _floats(how: str, shape: list[int], random: np.random.Generator) -> Array:
    if how != "coarse" or len(shape) < 3:
        values: Array = random.standard_normal(shape)
        return np.abs(values) if how == "positive" else values
    height, width = shape[-2:]
    few = random.standard_normal((*shape[:-2], -(-height // COARSE), -(-width // COARSE)))
    return few.repeat(COARSE, -2).repeat(COARSE, -1)[..., :height, :width]


def _within(
    limits: InputRange, shape: list[int], kind: np.dtype[np.generic], random: np.random.Generator
) -> Array:
    """Draw evenly from ``limits``, or at the distance of an N(0, 1) from the only finite bound.

    A tenth of the elements lie on each bound, where proofs from ranges are tight.
    """
    aside = [1, -1, *[1] * (len(shape) - 2)] if len(limits.low) > 1 else [1] * len(shape)
    low, high = (np.broadcast_to(np.reshape(x, aside), shape) for x in (limits.low, limits.high))
    normal = np.abs(random.standard_normal(shape))
    low_end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - normal, -normal))
    high_end = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low + normal, normal))
    where = random.uniform(-0.125, 1.125, shape).clip(0, 1)
    drawn = low_end + where * (high_end - low_end)
    if kind.kind in "iu":
        drawn, low_end, high_end = np.floor(drawn + 0.5), np.ceil(low_end), np.floor(high_end)
    values: Array = np.clip(drawn, low_end, high_end).astype(kind)
    return values


def _is_floating(dtype: np.dtype[np.generic]) -> bool:
    """Whether ``dtype`` is floating-point; NumPy gives bfloat16 and float8 the kind of void."""
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return dtype.kind != "c"
