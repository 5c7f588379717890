"""Inputs on which rounding decides nothing, drawn against references that are chosen for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.stable_inputs import Run, has_discrete, stable_feeds

INPUTS = (TensorSpec("x", "float32", ("batch", 6)),)


def largest(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"index": feeds["x"].argmax(1)}


def above(bound: float) -> Run:
    """The elements above ``bound``: as many as there are, as NonMaxSuppression's boxes."""

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"chosen": feeds["x"][feeds["x"] > np.float32(bound)]}

    return run


def test_the_first_inputs_are_taken_where_nothing_is_close():
    found = stable_feeds(largest, INPUTS, batch=2)
    assert found is not None
    assert np.array_equal(found["x"], random_feeds(INPUTS, 2)["x"])


def test_others_are_taken_where_a_shape_hangs_on_rounding():
    first = random_feeds(INPUTS, 2)["x"]
    close = float(first.max()) * (1 - 1e-6)  # the largest of the first inputs is hardly above it
    found = stable_feeds(above(close), INPUTS, batch=2)
    assert found is not None
    assert not np.array_equal(found["x"], first)


def test_none_are_found_where_rounding_decides_everywhere():
    def equal(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        twice = np.stack(
            [feeds["x"][:, 0] * np.float32(3), feeds["x"].astype(np.float64)[:, 0] * 3]
        )
        return {"index": (twice * 2**20).astype(np.int64)}

    assert stable_feeds(equal, INPUTS, batch=2) is None


def test_only_floats_of_one_shape_are_decided_by_nothing():
    feeds = random_feeds(INPUTS, 2)
    assert not has_discrete({"y": feeds["x"]})
    assert has_discrete(largest(feeds))
