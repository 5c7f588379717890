"""Fourier transforms, windows of signals, the matrix of mel bands; losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from prunedeploy.reference import table
from prunedeploy.reference.reductions import log_softmax
from prunedeploy.reference.table import Kernel, Numbers, Table, has, integer, same, text, wanted


def _complex(x: Numbers) -> Numbers:
    """The last axis holds the real part, and the imaginary one if it is two long."""
    wide: Numbers = x[..., 0].astype(np.complex128)
    return wide + 1j * x[..., 1] if x.shape[-1] == 2 else wide


def _parts(x: Numbers, like: Numbers) -> Numbers:
    return np.stack([x.real, x.imag], -1).astype(like.dtype)


def _fourier(node: ir.Node, x: Numbers, length: Numbers | None, axis: int) -> Numbers:
    along = table.within(axis, x.ndim)
    if along == x.ndim - 1:
        raise ValueError("a transform along the axis of real and imaginary parts")
    one_sided, inverse = integer(node, "onesided", 0), integer(node, "inverse", 0)
    usual = 2 * (x.shape[along] - 1) if one_sided and inverse else x.shape[along]
    count = usual if length is None else int(length.reshape(()))
    signal = _complex(x)
    if inverse and one_sided:
        return np.fft.irfft(signal, count, along)[..., None].astype(x.dtype)
    if inverse:
        return _parts(np.fft.ifft(signal, count, along), x)
    if one_sided:
        return _parts(np.fft.rfft(signal.real, count, along), x)
    return _parts(np.fft.fft(signal, count, along), x)


def _fourier_17(node: ir.Node, x: Numbers, length: Numbers | None = None) -> Numbers:
    """The axis is an attribute, by default the one after the batch."""
    return _fourier(node, x, length, integer(node, "axis", 1))


def _fourier_20(
    node: ir.Node, x: Numbers, length: Numbers | None = None, axis: Numbers | None = None
) -> Numbers:
    """The axis is an input, by default the last of the signal."""
    return _fourier(node, x, length, -2 if axis is None else int(axis.reshape(())))


def _short_time(
    node: ir.Node,
    signal: Numbers,
    step: Numbers,
    window: Numbers | None = None,
    length: Numbers | None = None,
) -> Numbers:
    if length is not None:
        count = int(length.reshape(()))
    else:
        count = signal.shape[1] if window is None else len(window)
    x = _complex(signal)
    frames = sliding_window_view(x, count, 1)[:, :: int(step.reshape(()))]
    frames = frames * (1 if window is None else window.astype(np.float64))
    spectrum = np.fft.fft(frames, axis=-1)
    if integer(node, "onesided", 1):
        spectrum = spectrum[..., : count // 2 + 1]
    return _parts(spectrum, signal)


def _cosines(*weights: float) -> Kernel:
    """Windows that are sums of cosines."""

    def run(node: ir.Node, size: Numbers) -> Numbers:
        count = int(size.reshape(()))
        period = count if integer(node, "periodic", 1) else count - 1
        angle = 2 * math.pi * np.arange(count) / period
        window = sum(w * np.cos(i * angle) for i, w in enumerate(weights))
        kind = ir.DataType(integer(node, "output_datatype", ir.DataType.FLOAT)).numpy()
        return np.asarray(window).astype(kind)

    return run


def _mel(
    node: ir.Node, bands: Numbers, length: Numbers, rate: Numbers, low: Numbers, high: Numbers
) -> Numbers:
    """Triangles between edges that are even on the mel scale, in whole bins."""
    count, size, hertz = (int(x.reshape(())) for x in (bands, length, rate))
    first, last = (2595 * math.log10(1 + float(x.reshape(())) / 700) for x in (low, high))
    edges = first + np.arange(count + 2) * (last - first) / (count + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)
    bins = np.floor((size + 1) * edges / hertz).astype(int)
    weights = np.zeros((size // 2 + 1, count))
    for i in range(count):
        left, centre, right = bins[i : i + 3].tolist()
        if left == centre:
            weights[centre, i] = 1
        else:
            weights[left : centre + 1, i] = np.arange(centre - left + 1) / (centre - left)
        if right > centre:
            weights[centre:right, i] = np.arange(right - centre, 0, -1) / (right - centre)
    kind = ir.DataType(integer(node, "output_datatype", ir.DataType.FLOAT)).numpy()
    return weights.astype(kind)


def _likelihood(node: ir.Node, x: Numbers, target: Numbers, weight: Numbers | None = None) -> Any:
    """Minus the log-probability of the class of every sample, reduced as asked for."""
    how = text(node, "reduction", "mean")
    ignored = integer(node, "ignore_index", 0) if has(node, "ignore_index") else None
    whole = target.astype(np.int64)
    kept = np.ones(whole.shape, bool) if ignored is None else whole != ignored
    whole = np.where(kept, whole, 0)
    if whole.size and not (whole.min() >= 0 and whole.max() < x.shape[1]):
        raise IndexError(f"a class outside of {x.shape[1]}")
    picked = -np.take_along_axis(x, np.expand_dims(whole, 1), 1).squeeze(1)
    scale = kept.astype(x.dtype)
    if weight is not None:
        scale = scale * weight[whole]
    loss = picked * scale
    if how == "none":
        return loss.astype(x.dtype)
    if how == "sum":
        return np.asarray(loss.sum()).astype(x.dtype)
    if how != "mean":
        raise ValueError(f"reduction {how!r} is not known")
    return np.asarray(loss.sum() / scale.sum()).astype(x.dtype)


def _cross_entropy(
    node: ir.Node, scores: Numbers, labels: Numbers, weight: Numbers | None = None
) -> Any:
    logs = log_softmax(scores, 1)
    loss = _likelihood(node, logs, labels, weight)
    return (loss, logs) if wanted(node, 1) else loss


TABLE: Table = {
    "BlackmanWindow": same(_cosines(0.42, -0.5, 0.08), 17),
    "DFT": same(_fourier_17, 17) | same(_fourier_20, 20),
    "HammingWindow": same(_cosines(25 / 46, 25 / 46 - 1), 17),
    "HannWindow": same(_cosines(0.5, -0.5), 17),
    "MelWeightMatrix": same(_mel, 17),
    "NegativeLogLikelihoodLoss": same(_likelihood, 12, 13, 22),
    "STFT": same(_short_time, 17),
    "SoftmaxCrossEntropyLoss": same(_cross_entropy, 12, 13),
}
