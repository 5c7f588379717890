"""Layers for tests of convolutions: made from a few words, and every kind of way to cut them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from kernels import Case, Memory

from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Activation, Conv
from prunedeploy.runtimes.sparse.plan.views import View
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import EIGHT, Schedule, is_flat, row_size

ACTIVATIONS = (
    Activation(),
    Activation("relu"),
    Activation("clip", (-0.5, 1.0)),
    Activation("leakyrelu", (0.1,)),
    Activation("elu", (1.0,)),
    Activation("sigmoid"),
    Activation("hardsigmoid", (0.2, 0.5)),
    Activation("hardswish"),
    Activation("silu"),
    Activation("tanh"),
    Activation("gelu"),
    Activation("gelu_tanh"),
    Activation("softplus"),
    Activation("mish"),
)


@dataclass(frozen=True)
class Layer:
    """A convolution in words; ``beside``: images lie side by side, every pixel one vector.

    ``density`` is the share of weights that are not zero. One of ``empty`` rows has none at all
    (0: that is left to chance).
    """

    shape: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    density: float = 0.2
    residual: Literal["", "own", "in place"] = ""
    activation: Activation = ACTIVATIONS[0]
    beside: bool = False
    empty: int = 7

    @property
    def out(self) -> tuple[int, int, int, int]:
        """Shape of the result."""
        rows, columns = (
            (self.shape[2 + axis] + self.pads[axis] + self.pads[2 + axis]
             - (self.kernel[axis] - 1) * self.dilations[axis] - 1) // self.strides[axis] + 1
            for axis in (0, 1)
        )  # fmt: skip
        return self.shape[0], self.outputs, rows, columns

    def case(self, schedule: Schedule | None = None, seed: int = 0) -> Case:
        """With random weights and memory, cut as ``schedule`` says."""
        rng = np.random.default_rng(seed)
        memory = Memory()
        x, y = memory.planar(self.shape), memory.planar(self.out)
        other = memory.planar(self.out) if self.residual == "own" else None
        views = [beside(v) if self.beside and v is not None else v for v in (x, y, other)]
        weight = rng.standard_normal(
            (self.outputs, self.shape[1] // self.groups, *self.kernel)
        ).astype(np.float32)
        weight[rng.random(weight.shape) >= self.density] = 0
        if self.empty:
            weight[min(3, self.empty - 1) :: self.empty] = 0
        bias = rng.standard_normal(self.outputs).astype(np.float32)
        assert views[0] is not None
        assert views[1] is not None
        step = Conv(
            "layer",
            views[0],
            views[1],
            weight,
            bias,
            self.strides,
            self.pads,
            self.dilations,
            self.groups,
            views[1] if self.residual == "in place" else views[2],
            self.activation,
        )
        return memory.case(step, tuned={"layer": schedule} if schedule else {})

    @property
    def step(self) -> Conv:
        """The layer as a step of a plan."""
        step = self.case().step
        assert isinstance(step, Conv)
        return step


def beside(view: View) -> View:
    """A planar view with its images side by side: height, width, batch."""
    images, _, _, width = view.shape
    return replace(view, strides=(1, view.strides[1], width * images, images))


def kind(step: Conv, schedule: Schedule) -> tuple[object, ...]:
    """What makes one way to cut a layer another piece of code than another."""
    flat = schedule.packing == "im2col" or is_flat(step)
    banded = not flat and schedule.tile_width_x8 * EIGHT < row_size(step)
    kernel = KERNELS[schedule.kernel]
    half = (kernel.max_rows == 1 or kernel.transforms is not None) and schedule.tile_width_x8 % 2
    filtered = schedule.tile_rows if kernel.winograd else 0
    return schedule.kernel, schedule.packing, schedule.interleaved, flat, banded, half, filtered


def schedules(step: Conv, isa: str, rng: np.random.Generator) -> Iterator[Schedule]:
    """One candidate of each kind, with a panel and groups of rows that are not the usual ones."""
    found: dict[tuple[object, ...], list[Schedule]] = {}
    for schedule in choose.candidates(step, isa, 2):
        found.setdefault(kind(step, schedule), []).append(schedule)
    for same in found.values():
        schedule = same[rng.integers(len(same))]
        panel = (
            int(rng.integers(1, schedule.channels + 1)) if rng.random() < 0.7 else schedule.channels
        )
        yield replace(schedule, channels=panel, groups=int(rng.integers(1, 5)))
