"""Steps on bytes with random weights and geometry, and what they give, computed with NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from kernels import Case, Library, Memory

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan import quantised as steps
from prunedeploy.runtimes.sparse.plan import unfold, views

MARGIN = 4096  # bytes around a tensor, which kernels may read and must not write


@dataclass(frozen=True)
class Layer:
    """The shape of a layer on bytes, and how it is quantised."""

    channels: int
    rows: int
    image: tuple[int, int] = (5, 5)
    images: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    density: float = 0.3
    limit: int = 127  # of the weights
    x_zero: int = 0
    zero: int | None = 0
    residual: bool = False
    extreme: bool = False  # inputs and weights at the ends of their types
    low: float = -np.inf
    high: float = np.inf


def planes(
    memory: Memory, shape: tuple[int, ...], place: views.MemorySpace, dtype: views.Dtype
) -> views.View:
    """A planar tensor of the caller's memory, with a margin around it."""
    view = views.planar(0, shape, 1)
    reach = sum((n - 1) * stride for n, stride in zip(shape, view.strides, strict=True)) + 1
    buffer = memory.add(reach + 2 * MARGIN, place, dtype)
    return views.View(buffer, shape, view.strides, MARGIN)


def case_of(layer: Layer, rng: np.random.Generator) -> Case:
    """The layer as a step, its input random."""
    memory = Memory()
    out = _out(layer)
    window = unfold.Window(layer.kernel, out, layer.strides, layer.pads, layer.dilations)
    direct = unfold.is_direct(layer.image, window)
    shape = (layer.images, layer.channels, *layer.image)
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    weight = rng.integers(
        -layer.limit,
        layer.limit + 1,
        (layer.rows, layer.channels // layer.groups, *layer.kernel),
    )
    if layer.extreme:
        x = np.where(x < 128, 0, 255).astype(np.uint8)
        weight = np.where(weight < 0, -128, 127)
    weight[rng.random(weight.shape) >= layer.density] = 0
    fan = max(int(np.count_nonzero(weight) / layer.rows), 1)
    scale = (rng.random(layer.rows) + 0.2) / (layer.limit * 60 * np.sqrt(fan)) * 100
    to_bytes = layer.zero is not None
    y = planes(
        memory, (layer.images, layer.rows, *out), "output", "uint8" if to_bytes else "float32"
    )
    residual = planes(memory, y.shape, "input", "float32") if layer.residual else None
    unfolded_shape = (layer.channels, layer.images * unfold.unfold_layout(window).size)
    source = planes(memory, shape, "input", "uint8")
    if not direct:
        view = views.planar(0, unfolded_shape, 0)
        buffer = memory.add(unfolded_shape[0] * view.strides[0] + 2 * MARGIN, "input", "uint8")
        source = views.View(buffer, unfolded_shape, view.strides, MARGIN)
    step = steps.Conv8(
        "layer",
        source,
        y,
        weight.astype(np.int16),
        rng.integers(-3000, 3000, layer.rows).astype(np.int32),
        scale.astype(np.float32),
        (rng.standard_normal(layer.rows) * 3).astype(np.float32),
        layer.x_zero,
        layer.image,
        max(layer.low, -layer.zero) if layer.zero is not None else layer.low,
        min(layer.high, 255 - layer.zero) if layer.zero is not None else layer.high,
        layer.strides,
        layer.pads,
        layer.dilations,
        layer.groups,
        not direct,
        residual,
        layer.zero,
    )
    flat = rng.integers(0, 256, memory.buffers[source.buffer].size, dtype=np.uint8)
    _view(source, flat)[...] = x if direct else taken_apart(layer, x)
    feeds: dict[int, Array] = {source.buffer: flat}
    return memory.case(step, feeds)


def _out(layer: Layer) -> tuple[int, int]:
    sizes = [
        (n + a + b - d * (k - 1) - 1) // s + 1
        for n, a, b, d, k, s in zip(
            layer.image, layer.pads[:2], layer.pads[2:], layer.dilations, layer.kernel,
            layer.strides, strict=True,
        )
    ]  # fmt: skip
    return sizes[0], sizes[1]


def padded(layer: Layer, x: Array) -> Array:
    """The input with its border, and some more behind it."""
    top, left, bottom, right = layer.pads
    pads = ((0, 0), (0, 0), (top, bottom + 8), (left, right + 8))
    return np.pad(x, pads, constant_values=layer.x_zero)


def taken_apart(layer: Layer, x: Array) -> Array:
    """What ``plan.Unfold`` makes, [channels, all else]."""
    height, width = _out(layer)
    window = unfold.Window(
        layer.kernel, (height, width), layer.strides, layer.pads, layer.dilations
    )
    wide, columns = padded(layer, x), []
    for tap in range(layer.kernel[1]):
        begin = tap * layer.dilations[1]
        across = wide[..., begin : begin + (width - 1) * layer.strides[1] + 1 : layer.strides[1]]
        for remainder, _, count in unfold.unfold_layout(window).phases:
            lines = remainder + np.arange(count) * layer.strides[0]
            columns.append(across[:, :, lines])
    whole = np.concatenate(columns, axis=2)
    return whole.transpose(1, 0, 2, 3).reshape(layer.channels, -1)


def expected(layer: Layer, step: steps.Conv8, x: Array, residual: Array | None) -> Array:
    """The layer's result: exact sums, one rounding of each operation in float32."""
    height, width = _out(layer)
    wide = padded(layer, x).astype(np.int64) - layer.x_zero
    size, depth = layer.rows // layer.groups, layer.channels // layer.groups
    sums = np.zeros((layer.images, layer.rows, height, width), np.int64)
    for i, j in np.ndindex(*layer.kernel):
        top, left = i * layer.dilations[0], j * layer.dilations[1]
        part = wide[
            :, :,
            top : top + (height - 1) * layer.strides[0] + 1 : layer.strides[0],
            left : left + (width - 1) * layer.strides[1] + 1 : layer.strides[1],
        ]  # fmt: skip
        for group in range(layer.groups):
            rows = slice(group * size, (group + 1) * size)
            taps = step.weight[rows, :, i, j].astype(np.int64)
            of = part[:, group * depth : (group + 1) * depth]
            sums[:, rows] += np.einsum("mc,nchw->nmhw", taps, of)
    sums += step.bias[:, None, None]
    wrapped = sums.astype(np.uint64).astype(np.uint32).view(np.int32)
    one = wrapped.astype(np.float32).astype(np.float64)  # a product of two floats is exact
    scaled = one * step.scale[:, None, None] + step.shift[:, None, None].astype(np.float64)
    numbers = scaled.astype(np.float32)
    if residual is not None:
        numbers = numbers + residual
    cut = np.clip(numbers, np.float32(step.low), np.float32(step.high))
    if step.zero is None:
        return cut
    return (np.rint(cut).astype(np.int64) + step.zero).astype(np.uint8)


def run(library: Library, number: int, seed: int) -> tuple[Array, Array, list[Array]]:
    """What a step writes, what else its buffer holds changed, and all arrays."""
    from kernels import data_of

    case = library.cases[number]
    arena, arrays = data_of(case, np.random.default_rng(seed))
    y = case.step.y  # type: ignore[union-attr]
    before = arrays[y.buffer].copy()
    assert library.run(number, arrays, arena, 1 + number % 3) == 0
    found = _view(y, arrays[y.buffer]).copy()
    _view(y, before)[...] = found
    return found, np.flatnonzero(before != arrays[y.buffer]), arrays


def _view(view: views.View, flat: Array) -> Array:
    from numpy.lib.stride_tricks import as_strided

    step = flat.itemsize
    return as_strided(flat[view.offset :], view.shape, [s * step for s in view.strides])


def view_of(view: views.View, arrays: list[Array]) -> Array:
    """The elements of a view."""
    return _view(view, arrays[view.buffer])


def layers(rng: np.random.Generator, count: int) -> list[Layer]:
    """Layers of all kinds, drawn at random."""
    made = []
    for _ in range(count):
        groups = int(rng.choice([1, 1, 1, 2, 4]))
        channels, rows = (int(n) * groups for n in rng.integers(1, 12, 2))
        kernel = tuple(int(n) for n in rng.choice([1, 1, 2, 3, 5], 2))
        strides = tuple(int(n) for n in rng.choice([1, 1, 2, 3], 2))
        dilations = tuple(int(n) for n in rng.choice([1, 1, 2], 2))
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        pads = tuple(int(n) for n in rng.integers(0, 3, 4))
        image = tuple(int(n + rng.integers(0, 14)) for n in reach)
        to_bytes = bool(rng.random() < 0.7)
        made.append(
            Layer(
                channels, rows, image, int(rng.integers(1, 4)), kernel, strides, pads, dilations,
                groups, float(rng.choice([0.0, 0.1, 0.3, 0.9])), int(rng.choice([127, 255])),
                int(rng.choice([0, 128, 255, 37])), int(rng.integers(0, 256)) if to_bytes else None,
                not to_bytes and bool(rng.random() < 0.5), bool(rng.random() < 0.2),
            )
        )  # fmt: skip
    return made


def same_padding(layer: Layer) -> Layer:
    """The layer with a result of the size of its input."""
    odd = tuple(k | 1 for k in layer.kernel)
    half = [d * (k - 1) // 2 for d, k in zip(layer.dilations, odd, strict=True)]
    return replace(layer, kernel=odd, strides=(1, 1), pads=(half[0], half[1], half[0], half[1]))
