"""Depthwise kernels: rows read in place under masks, and rows packed with their border."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from convs import ACTIVATIONS, Layer
from kernels import Case, Library, check, supported

from prunedeploy.runtimes.sparse.codegen import depthwise
from prunedeploy.runtimes.sparse.plan.steps import Activation
from prunedeploy.runtimes.sparse.plan.views import plane_stride

WINDOWS: list[tuple[tuple[int, int], tuple[int, int, int, int]]] = [
    ((3, 3), (1, 1, 1, 1)),
    ((5, 5), (2, 2, 2, 2)),
    ((7, 7), (3, 3, 3, 3)),
    ((3, 2), (2, 0, 0, 1)),
]
STRIDES = [(1, 1), (2, 2), (3, 3), (1, 2), (3, 1)]
MAPS = [(1, 1), (2, 5), (3, 3), (7, 7), (4, 17), (13, 13), (6, 33)]
TURN: tuple[Literal["", "own", "in place"], ...] = ("", "own", "in place")


def _layer(
    number: int,
    size: tuple[int, int],
    window: tuple[tuple[int, int], tuple[int, int, int, int]],
    strides: tuple[int, int],
    images: int,
) -> Layer | None:
    groups = 2 + number % 4
    layer = Layer(
        (images, groups, *size),
        groups * (1 + number % 3),
        *(window[0], strides, window[1]),
        dilations=((1, 1), (1, 1), (2, 1), (1, 3))[number % 4],
        groups=groups,
        density=0.7,
        residual=TURN[number % 3],
        activation=ACTIVATIONS[0 if number % 2 else number % len(ACTIVATIONS)],
        beside=images == 16,
    )
    return layer if min(layer.out) > 0 else None


def layers() -> list[Layer]:
    """All windows, strides and maps, with other numbers of images and channels, and epilogues."""
    found: list[Layer | None] = []
    for number, (window, strides) in enumerate(itertools.product(WINDOWS, STRIDES)):
        for more, size in enumerate(MAPS):
            # kernels are made for a window, its strides and dilation, and a width of the input
            if (number + more) % 3 == 0:
                found.append(_layer(number + more, size, window, strides, 1 + more % 5))
            if (number + more) % 6 == 1:
                found.append(_layer(number + more, size, window, strides, 16))
    return [layer for layer in found if layer is not None]


def sweep() -> list[Case]:
    """A case a layer."""
    return [layer.case(seed=number) for number, layer in enumerate(layers())]


@pytest.mark.parametrize("isa", supported())
def test_depthwise_agrees_with_the_interpreter(isa: str) -> None:
    first = supported().index(isa)
    cases = sweep()
    check(cases if first == 0 else cases[first::4], isa, seed=first)


def test_both_kernels_are_swept() -> None:
    """In place where masked loads are at hand and strides are 1 or 2; packed elsewhere."""
    for isa in {"avx512", "avx2"} & set(supported()):
        found = Library(sweep()[::8], isa, "-O0")
        choices = {code.choice for code in found.codes}
        wanted = {"depthwise packed"} | ({"depthwise in place"} if isa == "avx512" else set())
        assert choices == wanted


@pytest.mark.parametrize(("height", "isa"), [(90, "avx2"), (75, "generic")])
def test_channels_that_do_not_fit_into_the_cache(height: int, isa: str) -> None:
    """They are packed in bands of rows."""
    if isa not in supported():
        pytest.skip("not on this machine")
    layer = Layer(
        (2, 2, height, 131), 4, (3, 3), (1, 1), (1, 1, 1, 1), groups=2, residual="own", density=1.0
    )
    assert depthwise._layout(layer.step).tile < height
    check([layer.case(), replace(layer, strides=(3, 3), residual="").case()], isa)


@pytest.mark.parametrize(
    ("layer", "suited"),
    [
        (Layer((1, 4, 6, 6), 4, (3, 3), groups=4), True),
        (Layer((1, 4, 6, 6), 8, (3, 3), groups=4), True),
        (Layer((1, 4, 9, 9), 4, (7, 7), groups=4), True),
        (Layer((1, 4, 9, 9), 4, (8, 7), groups=4), False),  # more taps than registers and cache
        (Layer((1, 4, 6, 6), 4, groups=4), False),  # a scale a channel
        (Layer((1, 1, 6, 6), 4, (3, 3)), False),  # one channel, read by all rows
        (Layer((1, 4, 6, 6), 4, (3, 3), groups=2), False),
    ],
)
def test_what_is_depthwise(layer: Layer, suited: bool) -> None:
    assert depthwise.suits(layer.step) is suited


@pytest.mark.parametrize("isa", supported())
def test_nan_and_infinity_go_where_their_window_does(isa: str) -> None:
    cases = []
    for strides, activation in itertools.product(
        ((1, 1), (2, 2), (3, 3)), (Activation(), Activation("relu"), Activation("silu"))
    ):
        layer = Layer(
            (1, 2, 5, 19), 2, (3, 3), strides, (1, 1, 1, 1), groups=2, density=1.0, empty=0,
            activation=activation,
        )  # fmt: skip
        case = layer.case()
        data = np.linspace(-1, 1, case.buffers[0].size, dtype=np.float32)
        data[[0, 40, plane_stride(95) + 94]] = np.nan, np.inf, -np.inf
        cases.append(replace(case, feeds={0: data}))
    check(cases, isa)


@pytest.mark.parametrize("isa", supported()[:2])
def test_a_broken_twin_is_found(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Layer((2, 3, 6, 9), 6, (3, 3), pads=(1, 1, 1, 1), groups=3, density=1.0).case()
    check([case], isa)
    whole = depthwise._body

    def lost(uses: dict[str, list[tuple[int, int]]]) -> str:
        """The last row's last tap is never added."""
        place = list(uses)[-1]
        return whole({**uses, place: uses[place][:-1]})

    monkeypatch.setattr(depthwise, "_body", lost)
    with pytest.raises(AssertionError):
        check([replace(case, step=replace(case.step, name="broken"))], isa)
