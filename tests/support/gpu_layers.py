"""Layers for tests of GPU kernels: made, lowered, emitted, run in the PTX machine, compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lowered import Small
from plan_interpreter import evaluate
from ptx.arithmetic import fma32
from ptx.kernels import run_kernels

from prunedeploy import targets
from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu.emit import emit_step
from prunedeploy.runtimes.sparse.gpu.launch import Kernel
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan

TARGET = targets.by_name("rtx2080ti")
TOLERANCE = 1e-5  # of the range of the output
ForConv = Callable[[Conv, str, Constants], Kernel]


@dataclass(frozen=True)
class Layer:
    """A convolution in words: one of ``empty`` rows has no weight at all (0: left to chance)."""

    shape: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    density: float = 0.2
    empty: int = 3
    activation: str = ""
    residual: bool = False

    def plan(self, seed: int = 0) -> Plan:
        """The plan of a network that has this layer alone."""
        batch, channels, height, width = self.shape
        net = Small(seed=seed)
        x = net.input("n", channels, height, width)
        weight = net.normal(self.outputs, channels // self.groups, *self.kernel)
        weight[net.random.random(weight.shape) >= self.density] = 0
        if self.empty:
            weight[1 :: self.empty] = 0
        y = net.node(
            *("Conv", x, weight, net.normal(self.outputs)),
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
            group=self.groups,
        )
        if self.residual:
            flat = net.node(
                "Conv",
                x,
                net.normal(self.outputs, channels, *self.kernel),
                strides=self.strides,
                pads=self.pads,
                dilations=self.dilations,
            )
            y = net.node("Add", y, flat)
        if self.activation:
            y = net.node(self.activation, y)
        return lowered(net, batch, y)


def lowered(net: Small, batch: int, *outputs: str) -> Plan:
    """The plan of ``net``, images one after the other."""
    plan = lower(net.model(*outputs), batch, batch_innermost=False)
    assert isinstance(plan, Plan), plan
    return plan


def feeds_of(plan: Plan, seed: int = 1) -> dict[str, Array]:
    """Numbers from N(0, 1) for every input; integers from 0 to 4, and truth values."""
    random = np.random.default_rng(seed)
    return {
        p.name: random.standard_normal(p.shape).astype(np.float32)
        if p.dtype == "float32"
        else random.integers(0, 2 if p.dtype == "bool" else 5, p.shape).astype(p.dtype)
        for p in plan.inputs
    }


def check(plan: Plan, for_conv: ForConv | None = None, target: Any = TARGET) -> list[Kernel]:
    """Run ``plan`` in the PTX machine, compare with float64; its kernels.

    ``for_conv`` emits the convolutions instead of the kernel that the schedule chooses.
    """
    feeds = feeds_of(plan)
    kernels, constants = emitted(plan, for_conv, target)
    outputs = run_kernels(plan, kernels, constants, feeds)
    for name, wanted in evaluate(plan, feeds).items():
        scale = max(float(np.abs(wanted).max(initial=0)), 1e-6)
        assert np.abs(outputs[name] - wanted).max() <= TOLERANCE * scale
    return kernels


def emitted(
    plan: Plan, for_conv: ForConv | None = None, target: Any = TARGET
) -> tuple[list[Kernel], bytes]:
    """The kernels of a plan, one step after the other, and their constants."""
    kernels: list[Kernel] = []
    whole = Constants()
    for index, step in enumerate(plan.steps):
        if for_conv is not None and isinstance(step, Conv):
            kernels.append(for_conv(step, f"k{index}", whole))
            continue
        own, constants = emit_step(step, plan, f"k{index}", target)
        begin = whole.add(np.frombuffer(constants + bytes(4), np.uint8))
        kernels += [_moved(kernel, begin) for kernel in own]
    return kernels, whole.data()[: whole.size]


def _moved(kernel: Kernel, begin: int) -> Kernel:
    from dataclasses import replace

    arguments = tuple(x + begin if isinstance(x, int) else x for x in kernel.arguments)
    return replace(kernel, arguments=arguments)


def summed_in_order(step: Conv, x: Array) -> Array:
    """What ``step`` makes of ``x`` [N, C, H, W], summed in the order of generated kernels, fused.

    Bias first, then tap after tap, channel after channel: bit for bit what a GPU computes.
    """
    rows, depth, height, width = step.weight.shape
    top, left, _, _ = step.pads
    out = step.y.shape[2:]
    accumulators = np.empty((x.shape[0], rows, *out), np.float32)
    for row in range(rows):
        total = np.full((x.shape[0], *out), step.bias[row], np.float32)
        for tap in np.ndindex(height, width):
            begin = row // (rows // step.groups) * depth
            lines = np.arange(out[0]) * step.strides[0] - top + tap[0] * step.dilations[0]
            columns = np.arange(out[1]) * step.strides[1] - left + tap[1] * step.dilations[1]
            inside = _inside(lines, x.shape[2])[:, None] & _inside(columns, x.shape[3])
            where = np.ix_(lines.clip(0, x.shape[2] - 1), columns.clip(0, x.shape[3] - 1))
            for channel in np.flatnonzero(step.weight[row, :, tap[0], tap[1]]):
                weight = step.weight[row, channel, tap[0], tap[1]]
                value = x[:, begin + channel][:, where[0], where[1]]
                total = np.where(inside, fma32(value, np.full_like(value, weight), total), total)
        accumulators[:, row] = total
    return accumulators


def _inside(numbers: Array, size: int) -> Array:
    result: Array = (numbers >= 0) & (numbers < size)
    return result


def kinds(kernels: Sequence[Kernel]) -> list[str]:
    """Which emitters wrote the kernels."""
    return [kernel.kind for kernel in kernels]
