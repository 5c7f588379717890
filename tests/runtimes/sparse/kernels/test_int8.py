"""Layers on bytes give exactly what NumPy computes in integers, on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from int8_cases import (
    Layer,
    case_of,
    expected,
    layers,
    padded,
    run,
    same_padding,
    taken_apart,
    view_of,
)
from kernels import Case, Library, portable_ones_slow

from prunedeploy.runtimes.sparse.kernels.int8.grouping import quadruples
from prunedeploy.runtimes.sparse.kernels.int8.packing import pack
from prunedeploy.runtimes.sparse.plan import quantised as steps

FIXED = [
    Layer(8, 8),
    Layer(1, 1, (1, 1)),
    Layer(64, 70, (14, 14), zero=None, residual=True, low=0.0),
    Layer(700, 30, (3, 3), density=0.9),  # more than one panel
    Layer(70, 70, (9, 9), 2, (3, 3), (1, 1), (1, 1, 1, 1), groups=70, density=1.0, x_zero=9),
    Layer(16, 33, (8, 8), 2, (3, 3), (2, 2), (1, 1, 1, 1), x_zero=128, zero=None),
    Layer(512, 4, (2, 2), density=1.0, extreme=True, zero=None),
    Layer(512, 4, (2, 2), density=1.0, extreme=True, zero=128),
    Layer(40, 40, (1, 1), 3, density=0.5, limit=255, x_zero=255, zero=3),
]


def cases(count: int, seed: int) -> list[Layer]:
    rng = np.random.default_rng(seed)
    drawn = layers(rng, count)
    return [*FIXED, *drawn, *map(same_padding, drawn[::2])]


def sweep() -> list[Case]:
    return [case_of(layer, np.random.default_rng(n)) for n, layer in enumerate(cases(24, 1))]


def check(isa: str, count: int, seed: int, *flags: str) -> int:
    """The number of layers with a wrong result; writing elsewhere is an error."""
    wanted = cases(count, seed)
    made, images = [], []
    for number, layer in enumerate(wanted):
        rng = np.random.default_rng([seed, number])
        made.append(case_of(layer, rng))
        shape = (layer.images, layer.channels, *layer.image)
        x = np.random.default_rng([seed, number]).integers(0, 256, shape, dtype=np.uint8)
        images.append(np.where(x < 128, 0, 255).astype(np.uint8) if layer.extreme else x)
    library = Library(made, isa, *flags)
    wrong = 0
    for number, (layer, x) in enumerate(zip(wanted, images, strict=True)):
        step = made[number].step
        assert isinstance(step, steps.Conv8)
        found, elsewhere, arrays = run(library, number, seed)
        assert not elsewhere.size, (layer, elsewhere[:8])
        residual = None if step.residual is None else view_of(step.residual, arrays)
        wrong += not np.array_equal(found, expected(layer, step, x, residual))
    return wrong


@pytest.mark.parametrize("isa", portable_ones_slow())
def test_exact(isa: str) -> None:
    assert check(isa, 24, 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("isa", portable_ones_slow())
def test_exact_of_many(isa: str) -> None:
    assert check(isa, 150, 2, "-O2") == 0


def test_twin_that_rounds_down_is_noticed() -> None:
    assert check("scalar", 4, 1, "-O1", "-Drintf=floorf") > 3


@pytest.mark.slow
def test_without_the_instruction_for_four_products() -> None:
    """Processors with AVX-512 and without VNNI take another way to the same sums."""
    assert check("avx512", 24, 1, "-O1", "-D__builtin_cpu_supports(x)=0") == 0


def test_a_wrong_byte_of_padding_is_noticed() -> None:
    layer = Layer(8, 8, (6, 6), 1, (3, 3), (1, 1), (1, 1, 1, 1), x_zero=40, zero=None)
    case = case_of(layer, np.random.default_rng(5))
    assert isinstance(case.step, steps.Conv8)
    twin = replace(case, step=replace(case.step, x_zero=41))
    library = Library([case, twin], "scalar")
    x = np.random.default_rng(5).integers(0, 256, (1, 8, 6, 6), dtype=np.uint8)
    wanted = expected(layer, case.step, x, None)
    assert np.array_equal(run(library, 0, 0)[0], wanted)
    assert not np.array_equal(run(library, 1, 0)[0], wanted)


@pytest.mark.parametrize("density", [0.05, 0.1, 0.3, 0.7])
def test_quadruples_hold_every_column_once(density: float) -> None:
    weights = np.random.default_rng(0).random((28, 200)) < density
    four = quadruples(weights)
    held = np.sort(four[four >= 0])
    assert np.array_equal(held, np.flatnonzero(weights.any(axis=0)))
    assert np.array_equal(four, quadruples(weights))


def test_chosen_quadruples_are_fuller_than_neighbours() -> None:
    weights = np.random.default_rng(0).random((28, 512)) < 0.1
    chosen = sum(int(weights[:, four].any(axis=1).sum()) for four in quadruples(weights))
    neighbours = int(weights.reshape(28, 128, 4).any(axis=2).sum())
    assert chosen < 0.6 * neighbours


def test_weights_that_no_byte_holds_are_two() -> None:
    case = case_of(Layer(4, 4, limit=255, density=1.0), np.random.default_rng(0))
    assert isinstance(case.step, steps.Conv8)
    assert (np.abs(case.step.weight) > 128).any()
    packed = pack(case.step)
    total = sum(int(p.weight.astype(np.int64).sum()) for group in packed.parts for p in group)
    assert total == int(case.step.weight.astype(np.int64).sum())


def test_taken_apart_rows_are_those_of_the_image() -> None:
    layer = Layer(2, 1, (4, 4), 1, (3, 3), (1, 1), (0, 0, 0, 0))
    x = np.arange(32, dtype=np.uint8).reshape(1, 2, 4, 4)
    rows = taken_apart(layer, x).reshape(2, 3, 4, 2)
    assert np.array_equal(rows[0, 1], x[0, 0, :, 1:3])
    assert padded(layer, x).shape == (1, 2, 12, 12)
