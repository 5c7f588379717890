"""Weights in two bytes: where nothing is lost, and then a layer is the same to the last bit."""

from __future__ import annotations

import halves
import numpy as np
import pytest
from convs import Layer
from hypothesis import given
from hypothesis import strategies as st
from kernels import Case, Library, check, portable_ones_slow, results, supported

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen import narrow
from prunedeploy.runtimes.sparse.codegen.stored import Stored, index_type, kind_of, stored


def widened(bits: Array, kind: Stored) -> Array:
    """What stored numbers stand for."""
    if kind == "float32":
        return bits
    if kind == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


@given(st.lists(st.floats(width=32), max_size=9))
def test_no_number_changes(numbers: list[float]) -> None:
    weights = np.array(numbers, np.float32)
    kind = kind_of(weights)
    assert widened(stored(weights, kind), kind).tobytes() == weights.tobytes()


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ([], "bfloat16"),
        ([0.0, -0.0, 1.0, -1.5, 2.0**100, np.inf], "bfloat16"),
        ([1 + 2.0**-10, 2.0**-24, -3 * 2.0**-24, 65504.0], "float16"),
        ([1 + 2.0**-10, 65536.0], "float32"),  # one is in neither alone
        ([1 + 2.0**-10, np.inf], "float32"),
        ([1 + 2.0**-10, 2.0**-25], "float32"),
        ([1 + 2.0**-11], "float32"),
        ([0.1], "float32"),
    ],
)
def test_the_kind(numbers: list[float], kind: str) -> None:
    assert kind_of(np.array(numbers, np.float32)) == kind


def test_columns_take_as_many_bits_as_they_need() -> None:
    assert [index_type(count) for count in (1, 2**16, 2**16 + 1)] == [
        "uint16_t",
        "uint16_t",
        "uint32_t",
    ]


def sweep() -> list[Case]:
    """Both kinds, for the sanitizers."""
    return [*halves.sweep("bfloat16"), *halves.sweep("float16")]


@pytest.mark.parametrize("isa", portable_ones_slow())
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_a_layer_computes_the_same_bits(
    kind: Stored, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = halves.sweep(kind)
    check(cases, isa)
    library = Library(cases, isa)
    assert [code.choice.split()[-1] for code in library.codes].count(kind) > 0.9 * len(cases)
    half = results(library)
    monkeypatch.setattr(narrow, "kind_of", lambda weights: "float32")
    whole = results(Library(cases, isa))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(half, whole, strict=True))


@pytest.mark.parametrize("isa", supported())
@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_every_finite_float16(
    sparse: float, pixels: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "sparse_up_to", lambda *_: sparse)
    case, numbers = halves.every_float16(pixels)
    assert kind_of(case.step.weight) == "float16"  # type: ignore[union-attr]
    halves.check_every_float16(Library([case], isa), numbers)


def test_a_twin_that_loses_bits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    isa = supported()[0]
    case = Layer((1, 21, 1, 1), 7, density=1.0, empty=0).case()
    check([case], isa)
    monkeypatch.setattr(narrow, "kind_of", lambda weights: "float16")  # whatever they are
    with pytest.raises(AssertionError):
        check([case], isa)
