"""Linear layers on few pixels: dense and sparse, one pixel and several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convs import ACTIVATIONS, Layer
from kernels import Case, Library, check, supported

from prunedeploy.runtimes.sparse.codegen import narrow
from prunedeploy.runtimes.sparse.plan.steps import Activation

SIZES = [(1, 1), (1, 2), (3, 1), (4, 7), (5, 16), (9, 33), (31, 67), (66, 129)]  # rows, channels
MANY = [(5, 1100), (3, 3001)]  # more than one run of sums (PD_RUN, PD_SPARSE_RUN)


def sweep() -> list[Case]:
    """Every number of pixels, both ways to store the weights, every epilogue."""
    cases = []
    for pixels in range(1, 16):
        for number, (rows, channels) in enumerate(SIZES):
            turn = pixels + number
            shape = (1, channels, 1, pixels) if turn % 2 else (pixels, channels, 1, 1)
            layer = Layer(
                shape,
                rows,
                density=(0.0, 0.1, 0.3, 0.5, 1.0)[turn % 5],
                residual=("", "own", "in place")[turn % 3],  # type: ignore[arg-type]
                activation=ACTIVATIONS[turn % len(ACTIVATIONS)],
                empty=(0, 3)[turn % 2],
            )
            cases.append(layer.case(seed=turn))
    return cases


@pytest.mark.parametrize("isa", supported())
def test_sums_of_several_runs(isa: str) -> None:
    cases = [
        replace(Layer((1, channels, 1, pixels), rows, density=density).case(), tolerance=2e-5)
        for rows, channels in MANY
        for pixels in (1, 3, 6)
        for density in (0.1, 0.16, 1.0)
    ]
    check(cases, isa)


@pytest.mark.parametrize("isa", supported())
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_more_columns_than_two_bytes_say(density: float, isa: str) -> None:
    layers = [Layer((1, 2**16 + 9, 1, pixels), 2, density=density) for pixels in (1, 2)]
    cases = [replace(layer.case(), tolerance=2e-4) for layer in layers]
    assert all("uint32" in code.body for code in Library(cases, isa).codes)
    check(cases, isa)


@pytest.mark.parametrize("isa", supported())
def test_narrow_agrees_with_the_interpreter(isa: str) -> None:
    first = supported().index(isa)
    cases = sweep()
    assert all(narrow.suits(case.step) for case in cases)  # type: ignore[arg-type]
    check(cases if first == 0 else cases[first::3], isa)


@pytest.mark.parametrize(
    ("layer", "suited"),
    [
        (Layer((1, 9, 1, 1), 3), True),
        (Layer((3, 9, 1, 5), 3), True),
        (Layer((2, 9, 2, 4), 3), False),  # 16 pixels: a vector
        (Layer((1, 9, 2, 2), 3, strides=(2, 2)), False),
        (Layer((1, 8, 2, 2), 4, groups=2), False),
        (Layer((1, 8, 2, 2), 4, (3, 3), pads=(1, 1, 1, 1)), False),
    ],
)
def test_what_is_narrow(layer: Layer, suited: bool) -> None:
    assert narrow.suits(layer.step) is suited


@pytest.mark.parametrize("isa", supported())
@pytest.mark.parametrize("pixels", [1, 5])
def test_nan_and_infinity_stay(isa: str, pixels: int) -> None:
    cases = []
    for activation in (Activation(), Activation("relu"), Activation("clip", (-1.0, 1.0))):
        for channel, value in ((0, np.nan), (7, np.inf), (18, -np.inf)):
            layer = Layer((1, 19, 1, pixels), 6, density=1.0, empty=0, activation=activation)
            case = layer.case()
            data = np.linspace(-1, 1, case.buffers[0].size, dtype=np.float32)
            data[channel * pixels] = value
            cases.append(replace(case, feeds={0: data}))
    check(cases, isa)


@pytest.mark.parametrize("density", [0.2, 0.9])
@pytest.mark.parametrize("pixels", [1, 6])
def test_a_broken_twin_is_found(
    density: float, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    isa = supported()[0]
    case = Layer((1, 21, 1, pixels), 7, density=density, empty=0).case()
    check([case], isa)
    for name in ("_sparse", "_dense"):
        whole = getattr(narrow, name)

        def lost(weight, *rest, whole=whole):  # type: ignore[no-untyped-def]
            changed = weight.copy()
            changed[tuple(index[-1] for index in np.nonzero(weight))] *= 1.01
            return whole(changed, *rest)

        monkeypatch.setattr(narrow, name, lost)
    with pytest.raises(AssertionError):
        check([case], isa)
