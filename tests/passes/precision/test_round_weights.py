"""Weights rounded to two bytes: those that are waited for alone, to the nearest, once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from net import Net

from prunedeploy import passes
from prunedeploy.core.records import PassReport
from prunedeploy.graph import model as models
from prunedeploy.passes import RoundWeights
from prunedeploy.passes.precision import round_weights
from prunedeploy.passes.precision.round_weights import to_bfloat16, to_float16
from prunedeploy.reference import verify
from prunedeploy.runtimes.sparse.plan.views import UNIT


def network(size: int = 8) -> ir.Model:
    """A convolution, a 1x1 convolution on one position and two linear layers."""
    net = Net(channels=3, size=size, dtype=np.float32)
    x = net.node("Relu", net.conv("input", (3, 8), name="window"))
    x = net.node("GlobalAveragePool", x)
    x = net.node("Relu", net.conv(x, (8, 8), kernel=1, name="squeeze"))
    flat = net.node("Flatten", x)
    hidden = net.node("MatMul", flat, net.weight(np.linspace(-1, 1, 96).reshape(8, 12), "product"))
    head = net.weight(np.linspace(-0.3, 0.7, 60).reshape(5, 12), "head.weight")
    return net.model(net.node("Gemm", hidden, head, net.weight(np.ones(5)), transB=1))


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    values = model.graph.initializers.items()
    return {name: value.const_value.numpy().copy() for name, value in values}  # type: ignore[union-attr]


def apply(model: ir.Model, each: RoundWeights) -> PassReport:
    feeds = verify.random_feeds(models.specs(model)[0], batch=4, seed=3)
    (report,) = passes.run(model, (each,), feeds)
    return report


@pytest.mark.parametrize(("to", "most"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_layers_on_few_positions_are_rounded(to: str, most: float) -> None:
    model = network()
    before = weights(model)
    report = apply(model, RoundWeights(to))  # type: ignore[arg-type]
    after = weights(model)
    rounded = {name for name in before if not np.array_equal(before[name], after[name])}
    assert rounded == {"squeeze.weight", "product", "head.weight"}
    assert {n.where for n in report.result.notes} == {"squeeze", "product", "head"}
    assert report.difference is not None
    assert 0 < report.difference.max_rel < most
    assert all(array.dtype == before[name].dtype for name, array in after.items())


def test_a_second_run_and_what_stays() -> None:
    model = network()
    head = next(node.name for node in model.graph if node.op_type == "Gemm")
    before = weights(model)
    assert apply(model, RoundWeights(keep=frozenset({str(head)}))).result.changed
    assert np.array_equal(weights(model)["head.weight"], before["head.weight"])
    assert not RoundWeights(keep=frozenset({str(head)}))(model).changed
    assert RoundWeights()(model).changed


def test_few_positions_are_those_of_the_sparse_runtime() -> None:
    assert round_weights.FEW == UNIT


def test_nothing_to_wait_for_is_said() -> None:
    net = Net(channels=3, size=8, dtype=np.float32)
    result = RoundWeights()(net.model(net.node("Relu", net.conv("input", (3, 4)))))
    assert not result.changed
    assert "no layer uses its weights on fewer than 16 positions" in result.notes[0].reason


def test_refused() -> None:
    model = network()
    value = model.graph.initializers["head.weight"]
    large = value.const_value.numpy().copy()  # type: ignore[union-attr]
    large[0, 0] = 70000.0
    value.const_value = ir.tensor(large, name="head.weight")
    notes = {note.where: note for note in RoundWeights()(model).notes}
    assert (notes["head"].status, notes["squeeze"].status) == ("refused", "taken")
    assert "beyond the range of float16" in notes["head"].reason
    notes = {note.where: note for note in RoundWeights("bfloat16")(model).notes}
    assert notes["head"].status == "taken"


def test_a_second_run_finds_nothing_whatever_the_weights() -> None:
    model = network()
    value = model.graph.initializers["head.weight"]
    odd = value.const_value.numpy().copy()  # type: ignore[union-attr]
    odd[0, :3] = np.nan, np.inf, -np.inf
    value.const_value = ir.tensor(odd, name="head.weight")
    assert RoundWeights()(model).changed
    assert not RoundWeights()(model).changed
    found = weights(model)["head.weight"]
    assert np.isnan(found[0, 0])
    assert list(found[0, 1:3]) == [np.inf, -np.inf]


def test_layers_that_an_engine_would_not_store_so_are_left() -> None:
    """Many positions in a fixed batch; a stride; weights that are multiplied once more."""
    tokens = Net(channels=8, size=1, dtype=np.float32, batch=32)
    flat = tokens.node("Flatten", "input")
    result = RoundWeights()(tokens.model(tokens.linear(flat, (8, 5))))
    assert "no layer uses its weights" in result.notes[0].reason
    strided = Net(channels=3, size=4, dtype=np.float32)
    result = RoundWeights()(strided.model(strided.conv("input", (3, 4), kernel=1, strides=[2, 2])))
    assert "no layer uses its weights" in result.notes[0].reason
    scaled = Net(channels=8, size=1, dtype=np.float32)
    w = scaled.weight(np.linspace(-1, 1, 40).reshape(5, 8), "head.weight")
    y = scaled.node("Gemm", scaled.node("Flatten", "input"), w, transB=1, alpha=0.3)
    (note,) = RoundWeights()(scaled.model(y)).notes
    assert (note.status, "alpha" in note.reason) == ("refused", True)


FLOATS = arrays(np.float32, 5, elements=st.floats(width=32))


def check_nearest(weight: np.ndarray, found: np.ndarray) -> None:
    """``found`` is bfloat16, and none of its numbers is nearer to ``weight``."""
    finite = np.isfinite(weight)
    assert np.array_equal(np.isnan(found), np.isnan(weight))
    assert not np.any(found[finite].view(np.uint32) & 0xFFFF)
    tie = finite & (weight.view(np.uint32) & 0xFFFF == 0x8000)
    assert not np.any(found[tie].view(np.uint32) & 0x10000)  # to even
    cut = weight.view(np.uint32) & np.uint32(0xFFFF0000)
    down, up = cut.view(np.float32), (cut + np.uint32(0x10000)).view(np.float32)
    with np.errstate(all="ignore"):
        exact = weight.astype(np.float64)
        nearest = np.minimum(np.abs(exact - down), np.abs(exact - up))
        inside = finite & np.isfinite(up)
        assert np.all(np.abs(exact - found)[inside] == nearest[inside])


@given(FLOATS)
def test_bfloat16_is_the_nearest(weight: np.ndarray) -> None:
    check_nearest(weight, to_bfloat16(weight))


def test_a_planted_bug_that_cuts_bits_off_is_found() -> None:
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], np.float32)
    check_nearest(ties, to_bfloat16(ties))
    weight = np.array([1 + 2.0**-8 + 2.0**-9], np.float32)
    check_nearest(weight, to_bfloat16(weight))
    with pytest.raises(AssertionError):
        check_nearest(weight, (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))


@given(arrays(np.float32, 5, elements=st.floats(-65504, 65504, width=32)))
def test_float16_is_the_nearest(weight: np.ndarray) -> None:
    found = to_float16(weight)
    half = found.astype(np.float16)
    assert np.array_equal(half.astype(np.float32), found)
    error = np.abs(weight.astype(np.float64) - found)
    for end in (-np.inf, np.inf):
        with np.errstate(over="ignore"):
            other = np.nextafter(half, np.float16(end))
        away = np.abs(weight.astype(np.float64) - other.astype(np.float64))
        assert np.all(error <= away)
        assert not np.any((error == away) & (half.view(np.uint16) & 1 == 1))  # to even
