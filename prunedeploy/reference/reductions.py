"""Reductions over axes, indices of extremes, running sums, softmax and its kin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference import table
from prunedeploy.reference.table import Kernel, Numbers, Table, Versions, integer, same, within

# An array, the axes to reduce, whether they stay with length one.
Reduce = Callable[[Numbers, tuple[int, ...], bool], Any]


def _by_attribute(reduce: Reduce) -> Kernel:
    """The axes are an attribute; without it all of them."""

    def run(node: ir.Node, x: Numbers) -> Numbers:
        axes = table.integers(node, "axes") or list(range(x.ndim))
        return _reduced(node, reduce, x, axes)

    return run


def _by_input(reduce: Reduce) -> Kernel:
    """The axes are an input; without it, or where it is empty, all or none of them."""

    def run(node: ir.Node, x: Numbers, axes: Numbers | None = None) -> Numbers:
        chosen = [] if axes is None else table.listed(axes)
        if not chosen and not integer(node, "noop_with_empty_axes", 0):
            chosen = list(range(x.ndim))
        return _reduced(node, reduce, x, chosen)

    return run


def _reduced(node: ir.Node, reduce: Reduce, x: Numbers, axes: list[int]) -> Numbers:
    keep = bool(integer(node, "keepdims", 1))
    chosen = tuple(sorted({within(axis, x.ndim) for axis in axes}))
    return np.asarray(reduce(x, chosen, keep)).astype(x.dtype)


def _sum(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return x.sum(axis=axes, keepdims=keep, dtype=x.dtype)


def _product(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return x.prod(axis=axes, keepdims=keep, dtype=x.dtype)


def _mean(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    """The mean; that of integers is truncated towards zero."""
    if x.dtype.kind == "f":
        return x.mean(axis=axes, keepdims=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return np.trunc(x.sum(axis=axes, keepdims=keep, dtype=x.dtype) / count)


def _bound(x: Numbers, lowest: bool) -> Any:
    """The maximum, or minimum, of no elements."""
    if x.dtype.kind == "f":
        return -np.inf if lowest else np.inf
    if x.dtype.kind == "b":
        return not lowest
    limits = np.iinfo(x.dtype)
    return limits.min if lowest else limits.max


def _maximum(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return x.max(axis=axes, keepdims=keep, initial=_bound(x, lowest=True))


def _minimum(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return x.min(axis=axes, keepdims=keep, initial=_bound(x, lowest=False))


def _l1(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return _sum(np.abs(x), axes, keep)


def _l2(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return np.sqrt(_squares(x, axes, keep))


def _squares(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return _sum(np.square(x), axes, keep)


def _log_sum(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    return np.log(_sum(x, axes, keep))


def _log_sum_exp(x: Numbers, axes: tuple[int, ...], keep: bool) -> Any:
    """log(sum(exp(x))), with the largest element factored out so that nothing overflows."""
    wide = x if x.dtype.kind == "f" else x.astype(np.float64)
    largest = wide.max(axis=axes, keepdims=True, initial=-np.inf)
    largest = np.where(np.isfinite(largest), largest, 0).astype(wide.dtype)
    total = np.exp(wide - largest).sum(axis=axes, keepdims=True)
    result = np.log(total) + largest
    return result if keep else result.squeeze(axis=axes)


def _reductions(reduce: Reduce, attribute: tuple[int, ...], by_input: tuple[int, ...]) -> Versions:
    return same(_by_attribute(reduce), *attribute) | same(_by_input(reduce), *by_input)


def _extreme(first: Callable[[Numbers, int], Any], ties: bool) -> Kernel:
    """``ties``: an attribute may ask for the last of equal elements."""

    def run(node: ir.Node, x: Numbers) -> Numbers:
        axis = within(integer(node, "axis", 0), x.ndim)
        last = ties and bool(integer(node, "select_last_index", 0))
        result = np.asarray(first(np.flip(x, axis) if last else x, axis))
        result = x.shape[axis] - 1 - result if last else result
        result = result.astype(np.int64)
        return np.expand_dims(result, axis) if integer(node, "keepdims", 1) else result

    return run


def _extremes(first: Callable[[Numbers, int], Any]) -> Versions:
    return same(_extreme(first, ties=False), 1, 11) | same(_extreme(first, ties=True), 12, 13)


def _running(accumulate: Callable[..., Any], neutral: int) -> Kernel:
    def run(node: ir.Node, x: Numbers, axis: Numbers) -> Numbers:
        along = within(int(axis.reshape(())), x.ndim)
        backwards = bool(integer(node, "reverse", 0))
        x = np.flip(x, along) if backwards else x
        result = accumulate(x, axis=along, dtype=x.dtype)
        if integer(node, "exclusive", 0):
            first = np.full_like(result.take([0] if x.shape[along] else [], along), neutral)
            kept = result.take(range(x.shape[along] - 1), along) if x.shape[along] else result
            result = np.concatenate([first, kept], along)
        return np.flip(result, along) if backwards else result

    return run


def softmax(x: Numbers, axis: int) -> Numbers:
    """exp(x) / sum(exp(x)) along an axis, without overflow."""
    small = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return np.asarray(small / small.sum(axis=axis, keepdims=True))


def log_softmax(x: Numbers, axis: int) -> Numbers:
    """x - log(sum(exp(x))) along an axis, without overflow."""
    low = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return np.asarray(low - np.log(np.exp(low).sum(axis=axis, keepdims=True)))


def hardmax(x: Numbers, axis: int) -> Numbers:
    """1 at the first of the largest elements along an axis, 0 elsewhere."""
    result = np.zeros_like(x)
    if x.size:
        np.put_along_axis(result, np.expand_dims(x.argmax(axis), axis), 1, axis)
    return result


Along = Callable[[Numbers, int], Numbers]


def flattened(along: Along) -> Kernel:
    """The form before opset 13: over all axes from ``axis`` on as one; ``axis`` is 1 by default."""

    def run(node: ir.Node, x: Numbers) -> Numbers:
        axis = within(integer(node, "axis", 1), x.ndim) if x.ndim else 0
        matrix = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return along(matrix, 1).reshape(x.shape)

    return run


def along_axis(along: Along) -> Kernel:
    """The form from opset 13 on: over one axis, the last by default."""
    return lambda node, x: along(x, within(integer(node, "axis", -1), x.ndim))


def _softmax(along: Along) -> Versions:
    return same(flattened(along), 1, 11) | same(along_axis(along), 13)


OLD, NEW = (1, 11, 13), (18,)

TABLE: Table = {
    "ArgMax": _extremes(lambda x, axis: x.argmax(axis)),
    "ArgMin": _extremes(lambda x, axis: x.argmin(axis)),
    "CumProd": same(_running(np.cumprod, 1), 26),
    "CumSum": same(_running(np.cumsum, 0), 11, 14),
    "Hardmax": _softmax(hardmax),
    "LogSoftmax": _softmax(log_softmax),
    "ReduceL1": _reductions(_l1, OLD, NEW),
    "ReduceL2": _reductions(_l2, OLD, NEW),
    "ReduceLogSum": _reductions(_log_sum, OLD, (18, 28)),
    "ReduceLogSumExp": _reductions(_log_sum_exp, OLD, (18, 28)),
    "ReduceMax": _reductions(_maximum, (1, 11, 12, 13), (18, 20)),
    "ReduceMean": _reductions(_mean, OLD, NEW),
    "ReduceMin": _reductions(_minimum, (1, 11, 12, 13), (18, 20)),
    "ReduceProd": _reductions(_product, OLD, NEW),
    "ReduceSum": _reductions(_sum, (1, 11), (13,)),
    "ReduceSumSquare": _reductions(_squares, OLD, NEW),
    "Softmax": _softmax(softmax),
}
