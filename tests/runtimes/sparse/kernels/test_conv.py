"""Layers cut into tiles: all kinds of ways to cut them, odd sizes, strides, groups, borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from convs import ACTIVATIONS, Layer, kind, schedules
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import Case, check, supported

from prunedeploy.runtimes.sparse.codegen import depthwise, narrow
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Activation
from prunedeploy.runtimes.sparse.plan.views import plane_stride
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry

SAME = (1, 1, 1, 1)
RELU = Activation("relu")
SILU = Activation("silu")

LAYERS = [
    Layer((1, 2, 37, 36), 7, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0),
    # 1x1: in place and packed, planes shorter than a unit, groups, strides
    Layer((1, 67, 17, 17), 13, activation=RELU),
    Layer((2, 31, 7, 7), 67, residual="own", activation=RELU),
    Layer((5, 17, 4, 4), 20, groups=1, residual="in place"),
    Layer((2, 4, 2, 2), 8, groups=4, density=0.9, empty=0),
    Layer((3, 6, 1, 1), 9, groups=3, density=0.8, activation=SILU),
    Layer((1, 6, 3, 3), 12, groups=2, residual="own"),
    Layer((1, 24, 5, 13), 16, groups=4, density=0.5),
    Layer((3, 9, 9, 9), 11, strides=(2, 2), residual="own"),
    Layer((2, 9, 8, 17), 11, strides=(2, 3)),
    Layer((4, 5, 3, 3), 6, strides=(2, 2), activation=RELU),
    Layer((1, 8, 6, 6), 10, pads=SAME, residual="own"),  # 1x1 with a border is a window
    # windows: strides, dilation, borders that differ, planes shorter than a unit
    Layer((1, 67, 13, 13), 5, (3, 3), pads=SAME, activation=RELU),
    Layer((4, 5, 7, 7), 33, (3, 3), pads=SAME, residual="own", activation=RELU),
    Layer((3, 3, 17, 17), 16, (7, 7), (2, 2), (3, 3, 3, 3), activation=RELU),
    Layer((2, 6, 14, 15), 9, (3, 3), (2, 2), SAME),
    Layer((1, 7, 16, 11), 8, (3, 3), (2, 1), (1, 0, 0, 2)),
    Layer((1, 7, 17, 16), 8, (2, 5), (3, 3), (0, 2, 1, 1)),
    Layer((2, 4, 13, 12), 9, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2), residual="in place"),
    Layer((1, 4, 15, 17), 6, (3, 2), (1, 2), (3, 0, 0, 1), (3, 2)),
    Layer((5, 3, 2, 3), 4, (3, 3), pads=SAME, activation=SILU),
    Layer((3, 1, 1, 1), 3, (3, 3), pads=SAME, density=0.9),
    Layer((2, 8, 5, 5), 6, (5, 5)),  # to a single pixel
    Layer((1, 5, 1, 17), 6, (1, 3), pads=(0, 1, 0, 1)),
    Layer((2, 5, 17, 1), 6, (3, 1), pads=(1, 0, 1, 0)),
    Layer((1, 12, 10, 9), 16, (3, 3), pads=SAME, groups=4, density=0.6),
    Layer((2, 3, 3, 40), 5, (1, 9), pads=(0, 4, 0, 4)),
    # wide enough for bands of columns
    Layer((1, 2, 5, 250), 3, (3, 3), pads=SAME, residual="in place"),
    Layer((1, 2, 3, 430), 3, (3, 3), (1, 2), SAME),
    # rows of two and of four vectors
    Layer((2, 7, 6, 28), 9, (3, 3), pads=SAME, residual="in place", activation=RELU),
    Layer((1, 9, 5, 32), 6, (3, 3), pads=SAME, residual="own"),
    Layer((1, 5, 7, 30), 6, (3, 5), pads=(2, 1, 0, 2), dilations=(2, 1), activation=SILU),
    Layer((1, 6, 9, 56), 8, (3, 3), pads=SAME, residual="own", activation=RELU),
    Layer((2, 3, 4, 64), 5, (3, 3), pads=SAME),
    Layer((1, 4, 5, 35), 6, (2, 3), pads=(0, 3, 1, 0), residual="in place"),
    # dense
    Layer((1, 19, 7, 7), 13, density=0.9, residual="own"),
    Layer((3, 6, 1, 5), 9, groups=3, density=1.0, empty=0),
    Layer((1, 3, 15, 15), 11, (3, 3), (2, 2), SAME, density=0.8, activation=RELU),
    Layer((2, 6, 6, 9), 15, (3, 3), pads=SAME, groups=3, density=1.0, activation=SILU),
    Layer((1, 9, 14, 14), 5, strides=(2, 2), density=0.7, residual="in place"),
    Layer((1, 20, 9, 11), 14, density=1.0, empty=0, residual="own", activation=RELU),
    Layer((1, 5, 40, 80), 8, density=1.0, empty=0),
    Layer((1, 20, 9, 11), 14, density=0.8, residual="own", activation=RELU),
    Layer((3, 5, 7, 7), 14, (3, 3), pads=SAME, density=1.0, empty=0),
    Layer((1, 3, 5, 120), 8, (3, 3), pads=SAME, density=1.0, empty=0),
    Layer((2, 4, 6, 40), 8, (3, 3), pads=SAME, density=1.0, residual="in place"),
    # nothing at all, and nearly nothing
    Layer((2, 9, 7, 5), 6, density=0.0, residual="own", activation=RELU),
    Layer((1, 9, 6, 6), 6, (3, 3), pads=SAME, density=0.0),
    Layer((1, 1, 4, 9), 1, (3, 3), pads=SAME, density=1.0, empty=0),
    Layer((2, 61, 8, 8), 64, density=0.02, empty=2, activation=RELU),
]

BESIDE = [  # sixteen images, one vector a pixel
    Layer((16, 9, 5, 7), 11, residual="own", activation=RELU, beside=True),
    Layer((16, 9, 6, 6), 11, strides=(2, 2), beside=True),
    Layer((16, 5, 5, 7), 9, (3, 3), pads=SAME, residual="in place", activation=RELU, beside=True),
    Layer((16, 5, 7, 6), 9, (3, 3), (2, 2), SAME, residual="own", beside=True),
    Layer((16, 4, 9, 8), 5, (3, 2), (1, 3), (2, 0, 1, 1), (2, 2), beside=True),
    Layer((16, 8, 3, 3), 12, (3, 3), pads=SAME, groups=4, density=0.7, beside=True),
    Layer((16, 3, 9, 9), 9, (3, 3), (2, 2), SAME, density=0.9, activation=SILU, beside=True),
    Layer((16, 6, 4, 4), 5, (4, 4), beside=True),
    Layer((16, 6, 3, 1), 5, density=0.0, beside=True),
]


def sweep(isa: str = supported()[0], seed: int = 0) -> list[Case]:
    """Every layer, cut in one way of each kind that it has."""
    rng = np.random.default_rng(seed)
    return [
        layer.case(schedule, seed + number)
        for number, layer in enumerate(LAYERS + BESIDE)
        for schedule in schedules(layer.step, isa, rng)
    ]


def edges() -> list[Case]:
    """Few kernels, every remainder of a tile in both directions."""
    found = []
    for number, pixels in enumerate(range(16, 59)):
        layer = Layer((1, 3, 1, pixels), 5, density=0.6, residual=_turn(number))
        for tile_width_x8 in (1, 2, 3):
            schedule = Schedule(
                "rows", 1, tile_width_x8, 1 + number % 3, 1 + number % 2, number % 4 == 0
            )
            found.append(layer.case(schedule, number))
    for width in range(1, 42):
        for height in (1, 2, 4, 5):
            number = width + height
            layer = Layer(
                (1 + width % 3, 2, height, width), 3, (3, 3), pads=SAME, residual=_turn(number)
            )
            for tile_rows, tile_width_x8 in ((1, 1), (3, 2), (2, 3)):
                schedule = Schedule("rows", tile_rows, tile_width_x8, 1 + width % 2, 1 + height % 2)
                found.append(layer.case(schedule, number))
    return found


def _turn(number: int) -> Literal["", "own", "in place"]:
    return ("", "own", "in place")[number % 3]  # type: ignore[return-value]


@pytest.mark.parametrize("isa", supported())
def test_every_kind_of_way_agrees_with_the_interpreter(isa: str) -> None:
    first = supported().index(isa)
    cases = sweep(isa, first)
    check(cases if first == 0 else cases[first::6], isa)


@pytest.mark.parametrize("isa", supported())
def test_tiles_end_where_the_plane_ends(isa: str) -> None:
    first = supported().index(isa)
    check(edges()[first :: 4 if first else 2], isa)


def test_the_sweep_has_every_kind_of_way() -> None:
    """What the candidates of real layers are made of is in the sweep."""
    isa = "avx512"
    swept, real = set(), set()
    rng = np.random.default_rng(0)
    for layer in LAYERS + BESIDE:
        swept |= {kind(layer.step, schedule) for schedule in schedules(layer.step, isa, rng)}
        assert not narrow.suits(layer.step), layer
        assert not depthwise.suits(layer.step), layer
    for layer in (
        Layer((1, 64, 56, 56), 64, (3, 3), pads=SAME),
        Layer((1, 3, 224, 224), 64, (7, 7), (2, 2), (3, 3, 3, 3), density=1.0),
        Layer((1, 256, 14, 14), 64),
        Layer((1, 256, 14, 14), 64, density=1.0),
        Layer((16, 64, 7, 7), 64, (3, 3), pads=SAME, beside=True),
        Layer((8, 64, 7, 7), 64, (3, 3), pads=SAME),
    ):
        real |= {kind(layer.step, schedule) for schedule in choose.candidates(layer.step, isa, 2)}
    assert real <= swept, sorted(real - swept)


@pytest.mark.parametrize("isa", [*supported()[:1], "generic"])
def test_every_activation(isa: str) -> None:
    """Whole vectors, halves, and the ends of rows."""
    cases = []
    for number, activation in enumerate(ACTIVATIONS):
        flat = Layer((1, 9, 3, 15), 5, activation=activation, residual=_turn(number))
        window = replace(flat, kernel=(3, 3), pads=SAME, density=0.9)
        cases.append(flat.case(Schedule("rows", 1, 3, 5), number))
        cases.append(window.case(Schedule("block", 2, 2, 9, rows=4), number))
    check(cases, isa)


@pytest.mark.parametrize("isa", supported())
def test_nan_and_infinity_go_where_their_window_does(isa: str) -> None:
    cases = []
    for activation in (Activation(), RELU, Activation("clip", (-1.0, 1.0)), SILU):
        flat = Layer((1, 3, 4, 11), 5, density=1.0, empty=0, activation=activation)
        window = replace(flat, kernel=(3, 3), pads=SAME)
        for layer, schedule in (
            (flat, Schedule("rows", 1, 3, 3)),
            (flat, Schedule("block", 1, 2, 2, rows=4)),
            (window, Schedule("rows", 2, 2, 2)),
            (window, Schedule("rows", 2, 2, 2, packing="copies")),
            (window, Schedule("rows", 1, 3, 2, packing="im2col")),
        ):
            case = layer.case(schedule)
            plane = plane_stride(44)
            data = np.linspace(-1, 1, case.buffers[0].size, dtype=np.float32)
            data[[0, plane + 18, 2 * plane + 43]] = np.nan, np.inf, -np.inf
            cases.append(replace(case, feeds={0: data}))
    check(cases, isa)


def test_an_offset_that_does_not_fit_is_no_kernel() -> None:
    layer = Layer((1, 9, 90, 90), 3, (3, 3), pads=SAME)
    case = layer.case(Schedule("rows", 90, 12, 9))
    with pytest.raises(ValueError, match="does not fit into 16 bits"):
        check([case], supported()[0])


# -- broken twins: what the checks above have to see -----------------------------------------------


def _broken(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunedeploy.runtimes.sparse.codegen import tiled

    whole_streams, whole_geometry, whole_record = KERNELS["rows"].pack, geometry, tiled._record
    assert whole_streams is not None

    def lost(*arguments: Any) -> Any:
        found = whole_streams(*arguments)
        found.parts[0][0].weights[1] = 0
        return found

    def shifted(*arguments: Any) -> Any:
        found = whole_geometry(*arguments)
        return replace(found, taps=((found.taps[0][1], *found.taps[0][1:]), *found.taps[1:]))

    def wide(*arguments: Any) -> str:
        text = whole_record(*arguments)
        out = f".out_height = {case.step.y.shape[2]}"  # type: ignore[union-attr]
        assert out in text
        return text.replace(out, f".out_height = {case.step.y.shape[2] + 1}")  # type: ignore[union-attr]

    if name == "weight":
        monkeypatch.setitem(KERNELS, "rows", replace(KERNELS["rows"], pack=lost))
    elif name == "tap":
        monkeypatch.setattr(tiled, "geometry", shifted)
    else:
        monkeypatch.setattr(tiled, "_record", wide)


@pytest.mark.parametrize("name", ["weight", "tap", "height"])
def test_a_broken_twin_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Layer((1, 4, 5, 9), 5, (3, 3), pads=SAME, density=0.9).case(Schedule("rows", 4, 2, 3))
    check([case], supported()[0])
    _broken(name, case, monkeypatch)
    with pytest.raises(AssertionError):
        check([case], supported()[0])


# -- random layers ---------------------------------------------------------------------------------


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Any layer that has a result."""
    beside = draw(st.booleans())
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilations = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(4))
    size = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilations[axis] + 1 - pads[axis] - pads[axis + 2]
        size.append(draw(st.integers(max(reach, 1), max(reach, 1) + 17)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return Layer(
        (
            16 if beside else draw(st.integers(1, 5)),
            groups * draw(st.integers(1, 9)),
            size[0],
            size[1],
        ),
        groups * draw(st.integers(1, 9)),
        kernel,
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        pads,  # type: ignore[arg-type]
        dilations,
        groups,
        draw(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0])),
        draw(st.sampled_from(["", "own", "in place"])),
        draw(st.sampled_from([Activation(), RELU, SILU])),
        beside,
        draw(st.sampled_from([0, 2, 7])),
    )


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(layers(), min_size=8, max_size=8), st.integers(0, 2**30))
def test_random_layers(found: list[Layer], seed: int) -> None:
    """Whatever the emitter takes them for: tiled, depthwise or narrow."""
    rng = np.random.default_rng(seed)
    isa = supported()[seed % 2]
    cases: list[Case] = []
    for layer in found:
        cases += list(_cases(layer, isa, rng))
    check(cases, isa, seed=seed)


def _cases(layer: Layer, isa: str, rng: np.random.Generator) -> Iterator[Case]:
    step = layer.step
    if narrow.suits(step) or depthwise.suits(step):
        yield layer.case()
        return
    found = list(schedules(step, isa, rng))
    assert found, layer
    for index in rng.permutation(len(found))[:3]:
        yield layer.case(found[index])
