"""What counts as a difference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.reference import verify


def outputs(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"y": np.array(rows, np.float32)}


def test_relative_to_the_range_of_the_output() -> None:
    found = verify.compare(outputs([0, 10], [20, 5]), outputs([0, 10.1], [20, 5]))
    assert found.max_abs == pytest.approx(0.1, rel=1e-4)
    assert found.max_rel == pytest.approx(0.1 / 20, rel=1e-4)
    assert not found.passed
    assert found.where == "y"


def test_equal_outputs_pass_whatever_they_hold() -> None:
    odd = outputs([np.inf, np.nan], [-np.inf, 0])
    assert verify.compare(odd, odd).passed


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_not_a_number_never_passes(wrong: float) -> None:
    assert not verify.compare(outputs([0, 10]), outputs([0, wrong])).passed
    assert not verify.compare(outputs([0, wrong]), outputs([0, 10])).passed


def test_a_wrong_copy_of_a_constant_output_fails() -> None:
    assert not verify.compare(outputs([3, 3]), outputs([3, 4])).passed
    assert not verify.compare(outputs([0, 0]), outputs([0, 1])).passed


def test_rounding_passes_and_a_lost_weight_does_not() -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((8, 512)), random.standard_normal((512, 10)) / 16
    exact = {"y": x @ w}
    rounded = {"y": (x.astype(np.float32) @ w.astype(np.float32))}
    assert verify.compare(exact, rounded, verify.TOLERANCE["float32"]).passed
    w[100, 3] = 0
    assert not verify.compare(rounded, {"y": x @ w}).passed


def test_changed_predictions_are_counted() -> None:
    found = verify.compare(outputs([0, 1], [1, 0], [0, 2]), outputs([1, 0], [1, 0], [2, 0]))
    assert (found.changed_predictions, found.samples) == (2, 3)


def test_missing_or_reshaped_outputs() -> None:
    with pytest.raises(UserError, match="should have shape"):
        verify.compare(outputs([0, 1]), outputs([0, 1, 2]))
    with pytest.raises(UserError, match="no outputs"):
        verify.compare({}, {})
    with pytest.raises(UserError, match="nothing"):
        verify.compare(outputs([0, 1]), {})


def test_random_feeds_are_reproducible_and_shaped() -> None:
    specs = (TensorSpec("x", "float32", ("n", 3, "h", 8)), TensorSpec("i", "int64", (4,)))
    feeds = verify.random_feeds(specs, batch=5, seed=1, size=6)
    assert feeds["x"].shape == (5, 3, 6, 8)
    assert feeds["x"].dtype == np.float32
    assert set(np.unique(feeds["i"])) <= {0, 1}
    assert np.array_equal(feeds["x"], verify.random_feeds(specs, batch=5, seed=1, size=6)["x"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_random_feeds_of_narrow_floats_are_normal(dtype: str) -> None:
    feed = verify.random_feeds((TensorSpec("x", dtype, (2, 64)),))["x"]
    assert feed.dtype == np.dtype(dtype)
    assert feed.astype(np.float32).min() < -0.5
    assert len(np.unique(feed.astype(np.float32))) > 10


def test_random_feeds_of_narrow_integers() -> None:
    feed = verify.random_feeds((TensorSpec("x", "int4", (2, 64)),))["x"]
    assert feed.dtype == ml_dtypes.int4
    assert set(np.unique(feed.astype(np.int32))) == {0, 1}


def test_random_bytes_are_data_of_all_sizes() -> None:
    feed = verify.random_feeds((TensorSpec("x", "uint8", (2, 512)),))["x"]
    assert feed.min() < 16
    assert feed.max() > 240


def test_an_output_that_varies_by_rounding_alone_has_no_range() -> None:
    reference = {"y": np.array([1.0, 1.0 + 2**-52])}
    assert verify.compare(reference, {"y": np.array([1.0, 1.0])}).max_rel < 1e-15
    assert verify.compare(reference, {"y": np.array([1.0, 1.1])}).max_rel > 0.09
