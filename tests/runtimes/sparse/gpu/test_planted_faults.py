"""Faults planted in emitted kernels: each is found, by a check of the machine or by the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gpu_layers import Layer, emitted, feeds_of
from plan_interpreter import evaluate
from ptx.kernels import run_kernels
from ptx.parse import PtxError

from prunedeploy.runtimes.sparse.gpu import generated
from prunedeploy.runtimes.sparse.gpu.generated import Schedule
from prunedeploy.runtimes.sparse.gpu.launch import Kernel

LAYER = Layer((1, 24, 7, 7), 16, (3, 3), pads=(1, 1, 1, 1), activation="Relu", empty=0)
CUTS = {"whole": Schedule(8, 32), "split": Schedule(8, 32, 4)}


def run(cut: str, plant: Callable[[Kernel], Kernel]) -> float:
    """The difference to float64 as a share of the range, with a fault in the convolution."""
    plan = LAYER.plan()
    feeds = feeds_of(plan)
    kernels, constants = emitted(plan, lambda s, n, _: generated.emit(s, n, CUTS[cut]))
    planted = [plant(k) if k.kind in ("generated", "split") else k for k in kernels]
    (found,) = run_kernels(plan, planted, constants, feeds).values()
    (wanted,) = evaluate(plan, feeds).values()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def edit(old: str, new: str, count: int = 1) -> Callable[[Kernel], Kernel]:
    """Replace ``old`` in the text, which has to be there."""

    def plant(kernel: Kernel) -> Kernel:
        assert old in kernel.text
        return replace(kernel, text=kernel.text.replace(old, new, count))

    return plant


def first_line(kernel: Kernel, word: str) -> str:
    return next(line for line in kernel.text.splitlines() if word in line)


@pytest.mark.parametrize("cut", CUTS)
def test_without_a_fault_there_is_no_difference(cut: str) -> None:
    assert run(cut, lambda kernel: kernel) < 1e-5


@pytest.mark.parametrize(
    ("cut", "plant", "message"),
    [
        ("split", edit("bar.sync 0;", ""), "race in a block"),
        (
            "whole",
            lambda kernel: replace(kernel, grid=(kernel.grid[0] - 1, kernel.grid[1])),
            "not completely written|uninitialised read",
        ),
        (
            "whole",
            lambda kernel: replace(kernel, grid=(kernel.grid[0], kernel.grid[1] + 1)),
            "beyond its table",
        ),
        ("whole", lambda kernel: replace(kernel, block=64), "64 threads a block, 32 at most"),
        (
            "whole",
            edit("setp.ge.u32 %p0", "setp.gt.u32 %p0"),
            "outside every buffer|race|uninitialised read",
        ),
    ],
)
def test_the_machine_finds(cut: str, plant: Callable[[Kernel], Kernel], message: str) -> None:
    with pytest.raises((PtxError, AssertionError), match=message):
        run(cut, plant)


def test_a_wrong_offset_is_found() -> None:
    """One load that is an element off: aligned and in bounds, so that the result has to tell."""

    def plant(kernel: Kernel) -> Kernel:
        line = first_line(kernel, "ld.global.nc.f32")
        address = line[line.index("[") : line.index("]") + 1]
        base, _, offset = address[1:-1].partition("+")
        wrong = f"[{base}+{int(offset) + 4}]"
        return replace(kernel, text=kernel.text.replace(line, line.replace(address, wrong), 1))

    assert run("whole", plant) > 1e-3


def test_a_misaligned_load_is_found() -> None:
    def plant(kernel: Kernel) -> Kernel:
        line = first_line(kernel, "ld.global.nc.f32")
        return replace(kernel, text=kernel.text.replace(line, line.replace("]", "2]"), 1))

    with pytest.raises(PtxError, match=r"misaligned|outside"):
        run("whole", plant)


@pytest.mark.parametrize("cut", CUTS)
def test_a_missing_bound_of_the_epilogue_is_found(cut: str) -> None:
    def plant(kernel: Kernel) -> Kernel:
        return replace(kernel, text=kernel.text.replace("setp.lt.f32", "setp.nan.f32"))

    assert run(cut, plant) > 1e-3


def test_a_missing_bias_is_found() -> None:
    def plant(kernel: Kernel) -> Kernel:
        line = first_line(kernel, "mov.f32 %f0")
        zero = line[: line.index("0f")] + "0f00000000;"
        return replace(kernel, text=kernel.text.replace(line, zero, 1))

    assert run("whole", plant) > 1e-4


def test_a_border_that_is_not_checked_is_found() -> None:
    """A tap above the first row leaves the plane, and the buffer with it."""

    def plant(kernel: Kernel) -> Kernel:
        lines = [x for x in kernel.text.splitlines() if not x.startswith("setp.ge.u32 %p1,")]
        assert len(lines) < len(kernel.text.splitlines())
        text = "\n".join(x for x in lines if not x.startswith("@%p1 ")) + "\n"
        return replace(kernel, text=text)

    with pytest.raises(PtxError, match=r"outside|uninitialised"):
        run("whole", plant)
