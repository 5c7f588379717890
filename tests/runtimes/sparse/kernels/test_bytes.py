"""Everything on bytes but layers: to bytes and back, sums, pools, and planes taken apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from int8_cases import MARGIN, planes
from kernels import Case, Memory, check, portable_ones_slow

from prunedeploy.runtimes.sparse.plan import quantised as steps
from prunedeploy.runtimes.sparse.plan import unfold, views

COUNT = 12  # cases of each kind


def _numbers(kind: str, rng: np.random.Generator) -> Case:
    memory = Memory()
    shape = tuple(int(n) for n in rng.integers(1, 40, rng.integers(1, 4)))
    zero, scale = int(rng.integers(0, 256)), float(np.float32(rng.random() * 0.05 + 0.001))
    types: tuple[views.Dtype, views.Dtype] = ("float32", "uint8")
    if kind == "dequantise":
        types = ("uint8", "float32")
    x, y = memory.rows(shape, "input", types[0]), memory.rows(shape, "output", types[1])
    if len(shape) > 1 and rng.random() < 0.5:  # another order of axes
        axes = tuple(rng.permutation(len(shape)).tolist())
        x = views.View(
            x.buffer, tuple(shape[a] for a in axes), tuple(x.strides[a] for a in axes), 0
        )
        y = views.row_major(y.buffer, x.shape)
    made = steps.Quantise if kind == "quantise" else steps.Dequantise
    feeds = {}
    if kind == "quantise":
        values = rng.standard_normal(x.size).astype(np.float32) * scale * 150
        values[::3] = (np.round(values[::3] / scale) + 0.5) * scale  # halves, nearly all of them
        feeds[x.buffer] = values
    else:
        feeds[x.buffer] = rng.integers(0, 256, x.size).astype(np.uint8)
    return memory.case(made("numbers", x, y, scale, zero), feeds)


def _sum(_: str, rng: np.random.Generator) -> Case:
    memory = Memory()
    shape = tuple(int(n) for n in rng.integers(1, 40, 2))
    a, b = (memory.rows(shape, "input", "uint8") for _ in range(2))
    y = memory.rows(shape, "output", "uint8")
    signed = 128 if rng.random() < 0.5 else 0
    scales = [float(np.float32(n)) for n in rng.choice([0.5, 0.25, 0.731, 1.37], 2)]
    low, high = (0, 255) if rng.random() < 0.5 else (40, 220)
    fixed = float(np.float32(rng.integers(-40, 40)))
    offsets = (signed, 0, signed)
    step = steps.Add8("sum", a, b, y, (scales[0], scales[1]), fixed, offsets, low, high)
    feeds = {v.buffer: rng.integers(0, 256, v.size).astype(np.uint8) for v in (a, b)}
    return memory.case(step, feeds)


def _windows(rng: np.random.Generator) -> tuple[unfold.Window, tuple[int, int]]:
    kernel, dilations = (tuple(int(n) for n in rng.integers(1, m, 2)) for m in (4, 3))
    strides = tuple(int(n) for n in rng.integers(1, 4, 2))
    pads = tuple(int(rng.integers(0, kernel[axis % 2])) for axis in range(4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    image = tuple(int(n + rng.integers(0, 80)) for n in reach)
    out = tuple(
        (n + a + b - r) // s + 1
        for n, a, b, r, s in zip(image, pads[:2], pads[2:], reach, strides, strict=True)
    )
    return unfold.Window(kernel, out, strides, pads, dilations), image  # type: ignore[arg-type]


def _pool(kind: str, rng: np.random.Generator) -> Case:
    memory = Memory()
    window, image = _windows(rng)
    images, channels = (int(n) for n in rng.integers(1, 4, 2))
    x = planes(memory, (images, channels, *image), "input", "uint8")
    y = planes(memory, (images, channels, *window.out), "output", "uint8")
    step = steps.Pool8(
        "pool", x, y, kind, window.kernel, window.strides, window.pads, window.dilations,  # type: ignore[arg-type]
        bool(rng.random() < 0.5), 0.02, 0.013, int(rng.integers(0, 256)), int(rng.integers(0, 256)),
    )  # fmt: skip
    size = memory.buffers[x.buffer].size
    return memory.case(step, {x.buffer: rng.integers(0, 256, size).astype(np.uint8)})


def _apart(_: str, rng: np.random.Generator) -> Case:
    memory = Memory()
    window, image = _windows(rng)
    images, channels = (int(n) for n in rng.integers(1, 4, 2))
    x = planes(memory, (images, channels, *image), "input", "uint8")
    shape = (channels, images * unfold.unfold_layout(window).size)
    flat = views.planar(0, shape, 0)
    buffer = memory.add(channels * flat.strides[0] + 2 * MARGIN, "output", "uint8")
    y = views.View(buffer, shape, flat.strides, MARGIN)
    given = (window.kernel, window.out, window.strides, window.pads, window.dilations)
    step = steps.Unfold("apart", x, y, *given, int(rng.integers(0, 256)))
    size = memory.buffers[x.buffer].size
    return memory.case(step, {x.buffer: rng.integers(0, 256, size).astype(np.uint8)})


KINDS = {
    "quantise": _numbers,
    "dequantise": _numbers,
    "sum": _sum,
    "max": _pool,
    "average": _pool,
    "apart": _apart,
}


def sweep() -> list[Case]:
    return [
        make(kind, np.random.default_rng([number, len(kind)]))
        for kind, make in KINDS.items()
        for number in range(COUNT)
    ]


@pytest.mark.parametrize("isa", portable_ones_slow())
def test_every_step_gives_what_the_interpreter_does(isa: str) -> None:
    check(sweep(), isa)


def test_twin_that_fills_with_another_byte_is_noticed() -> None:
    case = next(
        case
        for case in sweep()
        if isinstance(case.step, steps.Unfold) and any(case.step.pads) and case.step.y.size
    )
    assert isinstance(case.step, steps.Unfold)
    check([case], "scalar")
    with pytest.raises(AssertionError):
        check([case], "scalar", "-O1", "-Dpd_unfold_run(a,b,c,d,e)=(void)(b)")
    assert replace(case.step, fill=case.step.fill ^ 1) != case.step
