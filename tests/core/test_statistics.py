from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunedeploy.core.measurements import Measurement
from prunedeploy.core.records import Difference
from prunedeploy.core.statistics import ratio, summary

times = st.lists(st.integers(10**3, 10**9), min_size=1, max_size=60)


def measurement(samples: list[int], batch: int = 1) -> Measurement:
    return Measurement(
        "m", "ort", "CPU", "0", batch, 1, tuple(samples), 0, Difference(0, 0, 1e-5, 1)
    )


@given(times)
def test_percentiles_are_ordered_and_within_the_samples(samples):
    found = summary(measurement(samples))
    low, high = min(samples) / 1e6, max(samples) / 1e6
    assert low <= found.p50 <= found.p90 <= found.p99 <= high * (1 + 1e-12)


def test_percentiles_and_throughput_of_known_samples():
    found = summary(measurement([n * 10**6 for n in range(101)], batch=4))
    assert (found.p50, found.p90, found.p99) == (50, 90, 99)
    assert found.throughput == pytest.approx(4 * 101 / 5.05)


@settings(max_examples=15, deadline=None)
@given(times, st.integers(2, 9))
def test_an_engine_that_is_always_k_times_faster(samples, k):
    """Whatever slows a round slows both alike: the interval is the ratio itself."""
    found = ratio([k * n for n in samples], samples)
    assert found.value == found.low == found.high == pytest.approx(k)


@settings(max_examples=10, deadline=None)
@given(times, st.integers(0, 5))
def test_the_interval_holds_the_estimate_and_is_reproducible(samples, seed):
    other = samples[::-1]
    found = ratio(samples, other, seed)
    assert found.low <= found.value <= found.high
    assert found == ratio(samples, other, seed)


def _covered(true: float, count: int, drift: float, trials: int = 200) -> float:
    """How often the interval holds the true ratio, with noise as a machine makes it: skewed, and
    with ``drift`` that both share."""
    random, hits = np.random.default_rng(1), 0
    for _ in range(trials):
        shared = np.exp(drift * np.cumsum(random.standard_normal(count)))
        noise = np.exp(0.1 * np.abs(random.standard_normal((2, count))))
        dense, quick = 1e7 * shared * noise[0], 1e7 / true * shared * noise[1]
        found = ratio(dense.astype(int).tolist(), quick.astype(int).tolist())
        hits += found.low <= true <= found.high
    return hits / trials


@pytest.mark.parametrize(("true", "drift"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.003)])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(true, drift):
    assert 0.89 <= _covered(true, 50, drift) <= 1.0


def test_the_interval_narrows_with_more_rounds():
    random = np.random.default_rng(2)

    def width(count: int) -> float:
        dense, quick = (1e6 * np.exp(0.1 * random.standard_normal((2, count)))).astype(int).tolist()
        found = ratio(dense, quick)
        return found.high - found.low

    assert width(2000) < width(200) / 2 < width(20) / 4


def test_a_wrong_interval_would_be_noticed():
    """The broken twin: a ratio that is off by a tenth is outside of nearly every interval."""
    random = np.random.default_rng(3)
    noise = np.exp(0.1 * random.standard_normal((2, 100)))
    found = ratio((1.1e6 * noise[0]).astype(int).tolist(), (1e6 * noise[1]).astype(int).tolist())
    assert found.low > 1.0


def test_unequal_and_empty_samples_are_bugs():
    with pytest.raises(ValueError, match="shape"):
        ratio([1, 2], [1])
    with pytest.raises(ValueError, match="no samples"):
        ratio([], [])
