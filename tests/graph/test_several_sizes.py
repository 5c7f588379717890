"""Several sizes of a model's inputs: what they share, and their names."""

from __future__ import annotations

import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim, TensorSpec
from prunedeploy.graph.several_sizes import (
    common,
    each_size,
    merged,
    one_size,
    size_names,
    stated_names,
)


def specs(*shapes: tuple[Dim, ...]) -> list[TensorSpec]:
    return [TensorSpec(f"x{number}", "float32", shape) for number, shape in enumerate(shapes)]


def test_one_or_several() -> None:
    one, other = {"x": (1, 8)}, {"x": (1, 16)}
    assert each_size(None) == each_size(()) == ({},)
    assert each_size(one) == each_size([one]) == (one,)
    assert each_size([one, other]) == (one, other)
    assert one_size([one], "it") == one
    with pytest.raises(UserError, match="it has one size"):
        one_size([one, other], "it")


def test_what_all_agree_in() -> None:
    sizes = [{"a": (1, 64), "b": (2, 3)}, {"a": (1, 128), "b": (2, 3)}]
    assert common(sizes) == {"a": (1, None), "b": (2, 3)}
    assert common(sizes[:1]) == sizes[0]
    assert common([{"a": (1,)}, {"b": (1,)}]) == {}
    assert common([{"a": (None, 3)}, {"a": (1, 3)}]) == {"a": (None, 3)}
    assert common([{"a": (1, 3)}, {"a": (1, 3, 4)}]) == {}


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ([specs((1, 64)), specs((1, 128))], ("1x64", "1x128")),
        ([specs((1, 64), (1, 64)), specs((1, 128), (1, 128))], ("1x64", "1x128")),
        ([specs((1, 64), (1, 3)), specs((1, 128), (1, 3))], ("1x64", "1x128")),
        ([specs((1, 2), (3, 4)), specs((1, 5), (3, 6))], ("1x2_3x4", "1x5_3x6")),
        ([specs(("batch", 8)), specs(("a/b", 9))], ("batchx8", "nx9")),
        ([specs(("a/b", 8)), specs(("../", 8))], ("size1", "size2")),
        (
            [specs(*[(1, n)] * 2, *[(n, n)] * 30) for n in (7, 8)],
            ("size1", "size2"),  # too long for a folder
        ),
    ],
)
def test_names(sizes: list[list[TensorSpec]], names: tuple[str, ...]) -> None:
    assert size_names(sizes) == names


def test_names_of_what_is_stated() -> None:
    assert stated_names([{"x": (1, 8)}]) == ("",)
    assert stated_names([{"x": (None, 8)}, {"x": (None, 9)}]) == ("nx8", "nx9")
    with pytest.raises(UserError, match="two of the sizes are the same, 1x8"):
        stated_names([{"x": (1, 8)}, {"x": (1, 9)}, {"x": (1, 8)}])
    with pytest.raises(UserError, match="not of the same inputs"):
        stated_names([{"x": (1, 8)}, {"y": (1, 8)}])


def test_all_sizes_at_once() -> None:
    (spec,) = merged(specs(("batch", 3, "side")), [specs((1, 3, 8)), specs((1, 3, 9))])
    assert spec.shape == (1, 3, "side")
    (spec,) = merged(specs((4, 8)), [specs((4, 8)), specs((4, 9))])
    assert spec.shape == (4, "?")  # inferred at one size, other at another
    (spec,) = merged(specs(()), [specs((1, 8)), specs((1, 9))])
    assert spec.shape == (1, "?")  # the rank was not known
