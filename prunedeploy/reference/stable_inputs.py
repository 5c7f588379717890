"""Random inputs on which rounding decides nothing.

The indices of a maximum, the boxes that NonMaxSuppression selects, and the shapes that follow from
them change where two numbers are closer than rounding is: such an output differs between two
computations that are both right. It is compared on inputs where it stays what it is while the
inputs are moved by more than the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.reference.drawing import random_feeds, turns
from prunedeploy.reference.verify import arrays

Feeds = dict[str, Array]
Run = Callable[[Feeds], Mapping[str, Array | list[Array]]]

MOVED = 1e-5  # of the magnitude of each element: some hundred times what float32 rounds it by
NEIGHBOURS = 3  # moved inputs that have to give the same
TRIES = 8  # random inputs that are tried
FURTHER = 10_007  # times the number of alternatives: between the seeds of two tries


def has_discrete(outputs: Mapping[str, Array | list[Array]]) -> bool:
    """Whether an output is no float, so that rounding changes it as a whole or not at all."""
    return any(array.dtype.kind != "f" for array in arrays(outputs).values())


def stable_feeds(
    run: Run, inputs: tuple[TensorSpec, ...], batch: int, turn: int = 0
) -> Feeds | None:
    """Draw inputs on which the outputs that are no floats, and all shapes, do not hang on rounding.

    Args:
        run: computes the outputs of the reference.
        inputs: its inputs.
        batch: inputs at once.
        turn: which of the inputs' alternatives, as ``random_feeds`` has it.

    Returns:
        The first of ``TRIES`` that are; None where none is.

    Raises:
        UserError: the reference cannot run on random inputs.
    """
    for index in range(TRIES):
        random = np.random.default_rng(index)
        feeds = random_feeds(inputs, batch, turn + FURTHER * index * turns(inputs))
        wanted = _discrete(run(feeds))
        if all(_same(wanted, _discrete(run(_moved(feeds, random)))) for _ in range(NEIGHBOURS)):
            return feeds
    return None


def _moved(feeds: Feeds, random: np.random.Generator) -> Feeds:
    """The inputs, every float moved by ``MOVED`` of its magnitude, up or down at random."""

    def moved(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        step = random.choice((-MOVED, MOVED), array.shape)
        changed: Array = (array.astype(np.float64) * (1 + step)).astype(array.dtype)
        return changed

    return {name: moved(array) for name, array in feeds.items()}


def _discrete(outputs: Mapping[str, Array | list[Array]]) -> dict[str, Array | tuple[int, ...]]:
    """What has to stay the same: outputs that are no floats, and the shapes of the others."""
    each = arrays(outputs)
    return {name: x.shape if x.dtype.kind == "f" else x for name, x in each.items()}


def _same(
    one: Mapping[str, Array | tuple[int, ...]], other: Mapping[str, Array | tuple[int, ...]]
) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(value, other[name]) for name, value in one.items()
    )
