"""What counts as a difference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from small_onnx import FLOAT, info, model, node

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Difference, TensorSpec
from prunedeploy.graph import preparation
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


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


def test_integers_have_no_tolerance_of_the_floats_beside_them() -> None:
    ids = np.arange(1000, dtype=np.int64)
    half = np.linspace(0, 1, 5, dtype=np.float16)
    found = verify.compare({"ids": ids, "y": half}, {"ids": ids + (ids == 7), "y": half})
    assert not found.passed
    assert (found.where, found.tolerance) == ("ids", 0.0)
    texts = np.array(["a"] * 999 + ["b"], object)
    wrong = np.array(["a"] * 1000, object)
    assert not verify.compare({"t": texts, "y": half}, {"t": wrong, "y": half}).passed
    near = half + np.float16(1e-3)
    assert verify.compare({"ids": ids, "y": half}, {"ids": ids, "y": near}).passed


def test_sequences_of_another_length_are_refused() -> None:
    one = np.ones(2, np.float32)
    with pytest.raises(UserError, match="should have 1 elements, found 2"):
        verify.compare({"s": [one]}, {"s": [one, one]})
    # a tolerance for an output that is not there, or for an element of a sequence, is no mistake
    assert verify.compare({"s": [one]}, {"s": [one]}, {"s[0]": 1e-3, "t": 1e-3}).passed


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


def shifted(*bias: float) -> ir.Model:
    """``x / 4096`` plus each of ``bias``: an output that varies little about a large value."""
    nodes = [node("Mul", ["x", "scale"], ["s0"])]
    nodes += [node("Add", [f"s{i}", f"b{i}"], [f"s{i + 1}"]) for i in range(len(bias))]
    nodes[-1].output[0] = "y"
    weights = {f"b{i}": np.float32(x) for i, x in enumerate(bias)} | {"scale": np.float32(2**-12)}
    shape = [4, 8]
    proto = model(nodes, [info("x", FLOAT, shape)], [info("y", FLOAT, shape)], weights)
    return preparation.from_proto(proto).model


def held(reference: ir.Model, candidate: ir.Model) -> Difference:
    feeds = {"x": np.linspace(-0.5, 0.5, 32, dtype=np.float32).reshape(4, 8)}
    outputs = [Evaluator(each).run(feeds) for each in (reference, candidate)]
    return verify.exactly(verify.compare(*outputs), reference, candidate, feeds)


def test_a_constant_rounded_to_float32_is_no_difference_and_a_few_bits_are() -> None:
    ulp = 2.0**-24
    parts = (np.float32(0.7), 0.3 * ulp, 0.3 * ulp)  # neither part reaches a float32 by itself
    folded = np.float32(sum(map(float, parts)))
    assert folded > parts[0]
    found = held(shifted(*parts), shifted(folded))
    assert found.max_rel > verify.TOLERANCE["float32"]
    assert found.passed
    assert found.tolerance == pytest.approx(ulp * 0.7 / 2.0**-12, rel=1e-3)
    for ulps in (5, -5):
        wrong = folded + np.float32(ulps * ulp)
        assert not held(shifted(*parts), shifted(wrong)).passed


SCALE, LARGE = np.float32(1.1), np.float32(2e4)


def scaled(*, folded: bool, fault: float = 0.0) -> ir.Model:
    """``SCALE`` times a small number beside a large one, and what of it is small again."""
    ahead = [node("Add", ["x", "large"], ["a"]), node("Mul", ["a", "scale"], ["b"])]
    if folded:
        ahead = [node("Mul", ["x", "scale"], ["a"]), node("Add", ["a", "product"], ["b"])]
    product = np.float32(float(SCALE) * float(LARGE))
    weights = {"scale": SCALE, "large": LARGE, "back": product, "product": product + fault}
    nodes = [*ahead, node("Sub", ["b", "back"], ["y"])]
    inputs, outputs = [info("x", FLOAT, [4, 8])], [info("y", FLOAT, [4, 8])]
    named = {name: np.float32(value) for name, value in weights.items()}
    return preparation.from_proto(model(nodes, inputs, outputs, named)).model


def test_folding_may_round_as_much_as_float32_does_and_a_fault_above_it_is_found() -> None:
    found = held(scaled(folded=False), scaled(folded=True))
    assert found.max_rel > verify.TOLERANCE["float32"]
    assert found.passed
    assert found.tolerance < verify.MAX_NOISE
    assert not held(scaled(folded=False), scaled(folded=True, fault=0.02)).passed
