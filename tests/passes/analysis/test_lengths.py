"""Lengths as products: what a reshape does to each axis, whatever the dynamic lengths are."""

from __future__ import annotations

import pytest

from prunedeploy.passes.analysis.lengths import Length, groups, solved


def lengths(*dims: int | str) -> list[Length]:
    return [Length.of(dim) for dim in dims]


@pytest.mark.parametrize("dim", [12, "n", "4*n", "h*w", "2*h*w"])
def test_a_length_is_written_as_it_was_read(dim: int | str) -> None:
    assert Length.of(dim).dim == dim


def test_only_products_are_taken_apart() -> None:
    assert Length.of("n//2") == Length(1, ("n//2",))
    assert Length.of("n + 1*m") == Length(1, ("n + 1*m",))


def test_a_quotient_comes_out_even_or_is_none() -> None:
    assert Length.of("8*n").over(Length.of(2)) == Length.of("4*n")
    assert Length.of("h*n*w").over(Length.of("w*h")) == Length.of("n")
    assert Length.of("9*n").over(Length.of(2)) is None
    assert Length.of("n").over(Length.of("n*n")) is None
    assert Length.of("n").over(Length.of(0)) is None


def test_one_length_follows_from_the_others() -> None:
    assert solved(lengths("n", 5, 16), lengths("m", 16)) == (
        lengths("n", 5, 16),
        lengths("5*n", 16),
    )
    assert solved(lengths("m", 5, 4), lengths("n", 4, 5, 4)) == (
        lengths("4*n", 5, 4),
        lengths("n", 4, 5, 4),
    )
    assert solved(lengths("n", 6), lengths("a", "b", 3)) is None
    assert solved(lengths("n", 6), lengths("m", 4)) is None
    assert solved(lengths("n", 0), lengths("m", 0)) is None


def test_runs_hold_the_same_elements_whatever_the_dynamic_lengths_are() -> None:
    found = groups(lengths("n", 8, "h", "w"), lengths("4*n", 2, "h*w"))
    assert found == [([0, 1], [0, 1]), ([2, 3], [2])]
    assert groups(lengths("n", 8, "h", "w"), lengths("n", 4, "m")) == [
        ([0], [0]),
        ([1, 2, 3], [1, 2]),
    ]
    assert groups(lengths("n", 42), lengths("m", 6, 7)) == [([0], [0]), ([1], [1, 2])]
    assert groups(lengths("n", 30), lengths(5, "n", 6)) == [([0, 1], [0, 1, 2])]
    found = groups(lengths("n", 5, 42, 2), lengths(30, "n", 7, 2))
    assert found == [([0, 1, 2], [0, 1, 2]), ([3], [3])]
    assert groups(lengths(6, 4, 1), lengths(4, 6)) == [([0, 1], [0, 1]), ([2], [])]
