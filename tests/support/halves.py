"""Narrow layers whose weights are numbers of two bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from convs import ACTIVATIONS, Layer
from kernels import Case, Runner, results

from prunedeploy.runtimes.sparse.codegen.stored import Stored
from prunedeploy.runtimes.sparse.plan.steps import Conv

# rows and channels; the last ones have more than one run of sums (PD_RUN, PD_SPARSE_RUN)
SIZES = [(1, 1), (3, 2), (4, 7), (5, 16), (9, 33), (31, 67), (66, 129), (5, 1100), (3, 3001)]


def rounded(case: Case, kind: Stored) -> Case:
    """With weights that ``kind`` has, and a smaller kind has not."""
    assert isinstance(case.step, Conv)
    weight = np.ascontiguousarray(case.step.weight, np.float32)
    if kind == "float16":
        weight = weight.astype(np.float16).astype(np.float32)
        weight.reshape(-1)[np.flatnonzero(weight)[:1]] = 1 + 2.0**-10
    else:
        weight = (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return replace(case, step=replace(case.step, weight=weight))


def sweep(kind: Stored) -> list[Case]:
    """Sparse and dense, one pixel and several, with sizes that fill vectors and not."""
    cases = []
    for pixels in (1, 2, 3, 5, 8, 15):
        for number, (rows, channels) in enumerate(SIZES):
            turn = pixels + number
            layer = Layer(
                (1, channels, 1, pixels),
                rows,
                density=(0.1, 0.3, 1.0)[turn % 3],
                residual=("", "own", "in place")[turn % 3],  # type: ignore[arg-type]
                activation=ACTIVATIONS[turn % 3],
                empty=(0, 3)[turn % 2],
            )
            # sums of up to 3001 products near 1, some without fused additions
            cases.append(replace(rounded(layer.case(seed=turn), kind), tolerance=2e-5))
    return cases


def every_float16(pixels: int) -> tuple[Case, np.ndarray]:
    """A layer whose rows sum up to one finite number of float16 each, and these numbers."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)].astype(np.float32)
    case = Layer((1, 16, 1, pixels), numbers.size, density=0.0, empty=0).case()
    assert isinstance(case.step, Conv)
    weight = np.zeros((numbers.size, 16, 1, 1), np.float32)
    rows = np.arange(numbers.size)
    weight[rows, rows % 16, 0, 0] = numbers
    step = replace(case.step, weight=weight, bias=np.zeros(numbers.size, np.float32))
    ones = np.ones(case.buffers[0].size, np.float32)
    return replace(case, step=step, feeds={0: ones}), numbers


def check_every_float16(runner: Runner, numbers: np.ndarray) -> None:
    """``runner`` has the case of ``every_float16``: nothing is lost of any number."""
    (found,) = results(runner)
    pixels = found.size // numbers.size
    wanted = np.repeat(numbers[:, None], pixels, axis=1)
    np.testing.assert_array_equal(found.reshape(numbers.size, pixels), wanted)
