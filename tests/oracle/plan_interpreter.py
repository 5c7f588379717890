"""A plain interpreter of plans: it runs the steps of ``plan/steps.py`` in NumPy.

Tests check kernels and lowering against it. It works on flat buffers through strided views, as
the engine does; what no step has written is NaN, and so is the part of a plane that kernels may
overwrite, so that a step which reads either is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from plan_interpreter_bytes import run as run_on_bytes

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer.operations import OPERATIONS, Values, run_code
from prunedeploy.runtimes.sparse.plan.quantised import Quantised
from prunedeploy.runtimes.sparse.plan.steps import (
    Activation,
    Conv,
    Copy,
    Fill,
    Lookup,
    Map,
    MatMul,
    Norm,
    Plan,
    Pool,
    Recurrence,
    Reduce,
    Resize,
    Softmax,
    Step,
    Take,
    Top,
    reads,
    writes,
)
from prunedeploy.runtimes.sparse.plan.views import UNIT, View


def evaluate(plan: Plan, feeds: Mapping[str, Array], dtype: Any = np.float64) -> dict[str, Array]:
    """Every output by name.

    With ``plan.offsets`` the arena is one array, laid out as the engine's is; without, every
    buffer is an array of its own. Outputs are of ``dtype``.
    """
    buffers = memory(plan, feeds, dtype)
    for step in plan.steps:
        run_step(step, buffers)
    return {port.name: buffers[port.buffer].reshape(port.shape).copy() for port in plan.outputs}


def memory(plan: Plan, feeds: Mapping[str, Array], dtype: Any) -> list[Array]:
    """One flat array a buffer: the feeds, the constants, and NaN everywhere else."""
    arena = np.full(plan.arena, np.nan, dtype)
    inputs = {port.buffer: port for port in plan.inputs}
    buffers: list[Array] = []
    for index, buffer in enumerate(plan.buffers):
        if buffer.space == "input":
            array = np.asarray(feeds[inputs[index].name])
            assert array.shape == inputs[index].shape, (array.shape, inputs[index])
            buffers.append(_flat(array, dtype))
        elif buffer.space == "constant":
            assert buffer.value is not None
            buffers.append(_flat(buffer.value, dtype))
        elif buffer.space == "arena" and plan.offsets:
            start = plan.offsets[index]
            buffers.append(arena[start : start + buffer.size])
        else:
            whole = buffer.dtype != "float32"
            kind = buffer.dtype if whole else dtype
            buffers.append(np.full(buffer.size, 0 if whole else np.nan, kind))
        assert buffers[-1].size == buffer.size, (index, buffer.size, buffers[-1].size)
    return buffers


def _flat(array: Array, dtype: Any) -> Array:
    return np.array(array, dtype if array.dtype.kind == "f" else array.dtype).reshape(-1)


def run_step(step: Step, buffers: Sequence[Array]) -> None:
    """Execute one step on flat arrays, one for each buffer of the plan; for tests of kernels.

    Raises:
        IndexError: a Lookup's index lies outside its table.
    """
    if isinstance(step, Quantised):
        run_on_bytes(step, [strided(view, buffers) for view in (*reads(step), *writes(step))])
        return
    _STEPS[type(step)](step, buffers)
    for view in writes(step):
        _spoil(view, buffers[view.buffer])


def strided(view: View, buffers: Sequence[Array]) -> Any:
    """The elements of ``view``, as a window on its buffer."""
    flat = buffers[view.buffer]
    if not view.size:
        return np.empty(view.shape, flat.dtype)
    ends = [(n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)]
    lowest = view.offset + sum(end for end in ends if end < 0)
    highest = view.offset + sum(end for end in ends if end > 0)
    assert 0 <= lowest <= highest < flat.size, (view, flat.size)
    step = flat.strides[0]
    return as_strided(flat[view.offset :], view.shape, [stride * step for stride in view.strides])


def _spoil(view: View, flat: Array) -> None:
    """What kernels may overwrite: the rounding of each plane, where the axes lie as planes do.

    Planes are told by their strides: one axis goes from plane to plane, the rest fill one.
    """
    axes = sorted(
        (stride, size) for size, stride in zip(view.shape, view.strides, strict=True) if size > 1
    )
    pixels, position = 1, 0
    while position < len(axes) and axes[position][0] == pixels:
        pixels *= axes[position][1]
        position += 1
    rounded = -(-pixels // UNIT) * UNIT
    if pixels < UNIT or pixels == rounded or position == len(axes):
        return
    if axes[position][0] != rounded or any(stride % rounded for stride, _ in axes[position:]):
        return
    starts = np.array([view.offset])
    for stride, size in axes[position:]:
        starts = (starts[:, None] + np.arange(size) * stride).reshape(-1)
    for start in starts:
        flat[start + pixels : start + rounded] = np.nan


def activate(activation: Activation, x: Array) -> Array:
    """``activation`` of every element."""
    with np.errstate(all="ignore"):
        return np.asarray(OPERATIONS[activation.op](x, *activation.numbers), x.dtype)


# -- steps -----------------------------------------------------------------------------------------


def _windows(
    x: Values, kernel: tuple[int, int], step: Conv | Pool, out: tuple[int, ...], border: float
) -> list[Values]:
    """For each tap in order the part of ``x`` that it meets, with ``border`` around ``x``."""
    top, left, bottom, right = step.pads
    (sh, sw), (dh, dw) = step.strides, step.dilations
    height = max(x.shape[2] + top + bottom, (out[0] - 1) * sh + (kernel[0] - 1) * dh + 1)
    width = max(x.shape[3] + left + right, (out[1] - 1) * sw + (kernel[1] - 1) * dw + 1)
    wide = np.full((*x.shape[:2], height, width), border, x.dtype)
    wide[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    return [
        wide[:, :, i * dh :: sh, j * dw :: sw][:, :, : out[0], : out[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _conv(step: Conv, buffers: Sequence[Array]) -> None:
    x, y = strided(step.x, buffers), strided(step.y, buffers)
    rows, depth, kh, kw = step.weight.shape
    groups, batch, out = step.groups, x.shape[0], y.shape[2:]
    weight = step.weight.reshape(groups, rows // groups, depth, kh * kw).astype(x.dtype)
    total = np.zeros((batch, groups, rows // groups, math.prod(out)), x.dtype)
    for tap, part in enumerate(_windows(x, (kh, kw), step, out, 0.0)):
        total += weight[..., tap] @ part.reshape(batch, groups, depth, -1)
    result = total.reshape(y.shape) + step.bias.astype(x.dtype)[:, None, None]
    if step.residual is not None:
        result = result + strided(step.residual, buffers)
    y[...] = activate(step.activation, result)


def _map(step: Map, buffers: Sequence[Array]) -> None:
    y = strided(step.y, buffers)
    inputs = [strided(view, buffers) for view in step.inputs]
    y[...] = run_code(step.code, [*inputs, *step.constants], y.dtype)


def _copy(step: Copy, buffers: Sequence[Array]) -> None:
    data = strided(step.x, buffers).copy()
    if step.fill is not None and step.outer is not None:
        strided(step.outer, buffers)[...] = step.fill
    strided(step.y, buffers)[...] = data


def _pool(step: Pool, buffers: Sequence[Array]) -> None:
    x, y = strided(step.x, buffers), strided(step.y, buffers)
    out = y.shape[2:]
    if step.kind == "max":
        y[...] = np.maximum.reduce(_windows(x, step.kernel, step, out, -np.inf))
        return
    top, left, bottom, right = step.pads
    counted: Values = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if step.count_include_pad:
        counted = np.ones((1, 1, x.shape[2] + top + bottom, x.shape[3] + left + right), x.dtype)
        whole = Pool(step.name, step.x, step.y, "max", step.kernel, step.strides)
        whole = Pool(**{**whole.__dict__, "dilations": step.dilations})
        counts = sum(_windows(counted, step.kernel, whole, out, 0.0))
    else:
        counts = sum(_windows(counted, step.kernel, step, out, 0.0))
    y[...] = sum(_windows(x, step.kernel, step, out, 0.0)) / counts


def _logsumexp(x: Values, axis: tuple[int, ...], keepdims: bool) -> Values:
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    total: Values = np.log(np.exp(x - largest).sum(axis=axis, keepdims=keepdims))
    return total + largest.reshape(total.shape)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "l1": lambda x, **how: np.abs(x).sum(**how),
    "l2": lambda x, **how: np.sqrt((x * x).sum(**how)),
    "sumsquare": lambda x, **how: (x * x).sum(**how),
    "logsumexp": _logsumexp,
}


def _reduce(step: Reduce, buffers: Sequence[Array]) -> None:
    x = strided(step.x, buffers)
    with np.errstate(all="ignore"):
        result = REDUCTIONS[step.kind](x, axis=step.axes, keepdims=True)
    strided(step.y, buffers)[...] = result


def _softmax(step: Softmax, buffers: Sequence[Array]) -> None:
    x = strided(step.x, buffers)
    shifted = x - x.max(axis=step.axis, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=step.axis, keepdims=True)
    strided(step.y, buffers)[...] = shifted - np.log(total) if step.log else powers / total


def _norm(step: Norm, buffers: Sequence[Array]) -> None:
    x = strided(step.x, buffers)
    centred = x - x.mean(axis=step.axes, keepdims=True) if step.centre else x
    variance = (centred * centred).mean(axis=step.axes, keepdims=True)
    result = centred / np.sqrt(variance + step.epsilon)
    if step.scale is not None:
        result = result * step.scale.astype(x.dtype)
    if step.bias is not None:
        result = result + step.bias.astype(x.dtype)
    strided(step.y, buffers)[...] = result


def _matmul(step: MatMul, buffers: Sequence[Array]) -> None:
    result = step.alpha * (strided(step.a, buffers) @ strided(step.b, buffers))
    if step.bias is not None:
        result = result + strided(step.bias, buffers)
    strided(step.y, buffers)[...] = result


def _lookup(step: Lookup, buffers: Sequence[Array]) -> None:
    indices = strided(step.indices, buffers).astype(np.int64)
    y = strided(step.y, buffers)
    y[...] = step.table[indices]  # NumPy counts negative ones from the end and checks the rest


def _take(step: Take, buffers: Sequence[Array]) -> None:
    index = strided(step.index, buffers).astype(np.int64)
    index = np.where(index < 0, index + step.size, index)
    if np.any((index < 0) | (index >= step.size)):
        raise IndexError(step.name)
    y, x = strided(step.y, buffers), buffers[step.x.buffer]
    at = step.x.offset + index * step.stride
    for axis, stride in enumerate(step.x.strides):
        at = at + (np.arange(y.shape[axis]) * stride).reshape(-1, *[1] * (y.ndim - axis - 1))
    y[...] = x[at]


def _top(step: Top, buffers: Sequence[Array]) -> None:
    x, y = strided(step.x, buffers), strided(step.y, buffers)
    keys = np.where(np.isnan(x), np.inf, x)
    keys = -keys if step.largest else keys
    length = x.shape[step.axis]
    if step.later:
        keys = np.flip(keys, step.axis)
    order = np.argsort(keys, step.axis, kind="stable")
    order = length - 1 - order if step.later else order
    order = order.take(range(y.shape[1 + step.axis]), step.axis)
    y[0], y[1] = np.take_along_axis(x, order, step.axis), order


def _resize(step: Resize, buffers: Sequence[Array]) -> None:
    result = strided(step.x, buffers)
    for axis, taps in ((2, step.rows), (3, step.columns)):
        first, second = ([tap[i] for tap in taps] for i in (0, 1))
        shape = (-1, 1) if axis == 2 else (-1,)
        weight = np.array([tap[2] for tap in taps], result.dtype).reshape(shape)
        near = result.take(first, axis=axis)
        mixed = near * (1 - weight) + result.take(second, axis=axis) * weight
        result = np.where(weight == 0, near, mixed)
    strided(step.y, buffers)[...] = result


def _recurrence(step: Recurrence, buffers: Sequence[Array]) -> None:
    x, y = strided(step.x, buffers), strided(step.y, buffers)
    length, batch = x.shape[0], x.shape[2]
    gates = x.reshape(length, len(step.weight), -1, batch)
    for d, weight in enumerate(step.weight.astype(x.dtype)):
        bias = None if step.bias is None else step.bias[d, :, None].astype(x.dtype)
        empty = np.zeros((weight.shape[1], batch), x.dtype)
        states = [
            empty if view is None else strided(view, buffers)[d]
            for view in (step.hidden, step.cell)
        ]
        for t in range(length)[:: -1 if step.backward[d] else 1]:
            states = _cell(step, gates[t, d], weight, bias, states)
            y[t, d] = states[0]
        if step.kind == "lstm":
            y[length, d] = states[1]


def _cell(
    step: Recurrence, gates: Array, weight: Array, bias: Array | None, states: list[Array]
) -> list[Array]:
    """The states after one step of one direction."""
    hidden, cell = states
    parts = np.split(gates, len(weight) // weight.shape[1])
    weights = np.split(weight, len(parts))

    def function(index: int, x: Array) -> Array:
        return activate(step.functions[index], x)

    if step.kind == "rnn":
        return [function(0, parts[0] + weight @ hidden), cell]
    first, second, third, *rest = (p + w @ hidden for p, w in zip(parts, weights, strict=True))
    if step.kind == "lstm":
        fresh = function(1, rest[0])
        cell = function(0, third) * cell + function(0, first) * fresh
        return [function(0, second) * function(2, cell), cell]
    update, reset = function(0, first), function(0, second)
    if bias is None:
        candidate = parts[2] + weights[2] @ (reset * hidden)
    else:
        candidate = parts[2] + reset * (weights[2] @ hidden + bias)
    return [(1 - update) * function(1, candidate) + update * hidden, cell]


def _fill(step: Fill, buffers: Sequence[Array]) -> None:
    strided(step.y, buffers)[...] = step.value


_STEPS: dict[type, Callable[[Any, Sequence[Array]], None]] = {
    Conv: _conv,
    Map: _map,
    Copy: _copy,
    Pool: _pool,
    Reduce: _reduce,
    Softmax: _softmax,
    Norm: _norm,
    MatMul: _matmul,
    Lookup: _lookup,
    Resize: _resize,
    Recurrence: _recurrence,
    Take: _take,
    Top: _top,
    Fill: _fill,
}
