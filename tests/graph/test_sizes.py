"""Sizes of open dimensions: one name, one size."""

from __future__ import annotations

import pytest

from prunedeploy.core.records import Dim, TensorSpec
from prunedeploy.graph.sizes import resolve
from prunedeploy.reference import verify


def specs(*shapes: tuple[Dim, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"x{i}", "float32", shape) for i, shape in enumerate(shapes))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([("n", 3, 8)], [(2, 3, 8)]),
        ([("n", "h", "w")], [(2, 32, 32)]),
        ([("?", "?"), ("?",)], [(2, 32), (2,)]),
        ([("batch", 4), (1, "batch", 6)], [(2, 4), (1, 2, 6)]),
        ([(1, "batch", 6), ("batch", 4)], [(1, 2, 6), (2, 4)]),
        ([("n", "t"), ("n", "t", "t")], [(2, 32), (2, 32, 32)]),
        ([("n", "t"), ("2*n", "t + 1")], [(2, 32), (4, 33)]),
        ([("n", "t"), ("n", "t//2 - 1")], [(2, 32), (2, 15)]),
        ([("n", "n - n")], [(2, 32)]),  # no size: 0
        ([("n", "a b")], [(2, 32)]),  # a name, if an odd one
        ([("n", "a b"), ("a b",)], [(2, 32), (32,)]),
        ([("n", "f(n)")], [(2, 32)]),
        ([()], [()]),
    ],
)
def test_one_name_has_one_size(
    shapes: list[tuple[Dim, ...]], expected: list[tuple[int, ...]]
) -> None:
    found = resolve(specs(*shapes), 2, 32)
    assert list(found.values()) == expected
    feeds = verify.random_feeds(specs(*shapes), 2)
    assert [array.shape for array in feeds.values()] == expected


def test_a_size_that_is_given_is_taken_everywhere() -> None:
    found = resolve(specs(("n", "t"), ("n", "t", "2*t")), 2, 32, {"t": 5})
    assert list(found.values()) == [(2, 5), (2, 5, 10)]
