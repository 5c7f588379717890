"""Percentiles, throughput and ratios with their intervals, from raw samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.measurements import Measurement
from prunedeploy.core.records import Ratio

RESAMPLES = 2000
CONFIDENCE = 0.95
VALUES_AT_ONCE = 2_000_000  # of the resamples, to bound memory however many rounds there are


@dataclass(frozen=True)
class Summary:
    """Latencies in milliseconds of one run of ``batch`` inputs; throughput in inputs a second."""

    p50: float
    p90: float
    p99: float
    throughput: float


def summary(measurement: Measurement) -> Summary:
    """Percentiles (linear interpolation) and the throughput over the whole time measured."""
    samples = np.asarray(measurement.samples_ns, np.float64)
    p50, p90, p99 = (float(x) for x in np.percentile(samples, (50, 90, 99)) / 1e6)
    return Summary(p50, p90, p99, measurement.batch * len(samples) / (samples.sum() / 1e9))


def ratio(baseline_ns: Sequence[int], candidate_ns: Sequence[int], seed: int = 0) -> Ratio:
    """The candidate's speed relative to the baseline: the ratio of medians, with a 95 % interval.

    A paired percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13): whole rounds are drawn with replacement, baseline and candidate of a round
    together, so what slows both (clock, other load) cancels out instead of widening the
    interval. Rounds follow one another in time and are not independent, so they are drawn in
    runs of consecutive ones (Kuensch, Annals of Statistics 17, 1989) of length n^(1/3).

    Args:
        baseline_ns: one sample a round.
        candidate_ns: the same rounds, in the same order.
        seed: of the resampling, which is deterministic.

    Raises:
        ValueError: the numbers of samples differ, or there are none.
    """
    pairs = np.array([baseline_ns, candidate_ns], np.float64)
    count = pairs.shape[1]
    if count == 0:
        raise ValueError("no samples")
    random = np.random.default_rng(seed)
    at_once = max(1, VALUES_AT_ONCE // count)
    resampled = np.concatenate(
        [
            _ratios(pairs[:, _blocks(random, min(at_once, RESAMPLES - done), count)])
            for done in range(0, RESAMPLES, at_once)
        ]
    )
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, (tail, 100 - tail))
    return Ratio(float(_ratios(pairs)), float(low), float(high))


def _blocks(random: np.random.Generator, resamples: int, count: int) -> NDArray[np.intp]:
    """Indices [resamples, count] of rounds, drawn as runs of consecutive ones that may wrap."""
    length = max(1, round(count ** (1 / 3)))
    starts = random.integers(0, count, (resamples, -(-count // length), 1))
    indices: NDArray[np.intp] = (starts + np.arange(length)) % count
    return indices.reshape(resamples, -1)[:, :count]


def _ratios(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of the medians along the last axis of baseline and candidate, [2, ..., rounds]."""
    baseline, candidate = np.median(pairs, axis=-1)
    return np.asarray(baseline / candidate)
