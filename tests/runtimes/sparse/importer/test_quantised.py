"""Quantised networks: on bytes where the runtime has them, in float32 everywhere else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from lowered import Small, check, reference, single
from plan_interpreter import evaluate

from prunedeploy.runtimes.sparse.plan.lower import Plan, Refusal, lower
from prunedeploy.runtimes.sparse.plan.quantised import Add8, Conv8
from prunedeploy.runtimes.sparse.plan.steps import Map

INT8, UINT8 = np.int8(0), np.uint8(0)


class Quantised(Small):
    """A model under construction, with pairs of QuantizeLinear and DequantizeLinear."""

    def pair(self, x: str, scale: float, zero: np.generic) -> str:
        step = np.float32(scale)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, step, zero), step, zero)

    def weight(self, *shape: int, axis: int = 0, zeros: float = 0.5) -> str:
        made = self.random.integers(-127, 128, shape).astype(np.int8)
        made[self.random.random(shape) < zeros] = 0
        scale = (self.random.random(shape[axis]) * 0.01 + 0.001).astype(np.float32)
        return self.node("DequantizeLinear", made, scale, np.zeros(len(scale), np.int8), axis=axis)


def residual(zero: np.generic) -> ir.Model:
    """A block with a residual sum, a pool and a linear layer, everything quantised."""
    net = Quantised()
    x = net.pair(net.input(1, 4, 8, 8), 0.02, zero)
    y = net.pair(net.node("Conv", x, net.weight(4, 4, 3, 3), pads=[1] * 4), 0.03, zero)
    y = net.pair(net.node("Relu", net.node("Add", x, y)), 0.03, zero)
    y = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.pair(net.node("GlobalAveragePool", net.pair(y, 0.03, zero)), 0.01, zero)
    y = net.node("Gemm", net.pair(net.node("Flatten", y), 0.01, zero), net.weight(4, 5, axis=1))
    return net.model(net.pair(y, 0.01, zero))


def kinds(model: ir.Model) -> Counter[str]:
    plan = lower(model, 1, on_bytes=True)
    assert isinstance(plan, Plan), plan
    return Counter(type(step).__name__ for step in plan.steps)


@pytest.mark.parametrize("zero", [INT8, np.int8(-128), UINT8, np.uint8(117)])
def test_a_block_stays_on_bytes(zero: np.generic) -> None:
    found = kinds(residual(zero))
    assert found == {"Quantise": 1, "Conv8": 2, "Add8": 1, "Pool8": 2, "Dequantise": 1}


@pytest.mark.parametrize("zero", [INT8, np.uint8(117)])
def test_without_bytes_it_is_computed_in_float32(zero: np.generic) -> None:
    model = residual(zero)
    plan = lower(model, 1)
    assert isinstance(plan, Plan)
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    (expected,) = reference(model, {"in0": x})
    (found,) = evaluate(plan, {"in0": x}, np.float32).values()
    assert np.abs(found - expected).max() <= 0.0101  # a step: sums are rounded in another order


def test_quantising_by_channel_is_computed_in_float32() -> None:
    net = Quantised()
    x = net.input(1, 3, 4)
    scale, zero = np.array([0.1, 0.2, 0.05], np.float32), np.array([3, 0, 200], np.uint8)
    y = net.node("QuantizeLinear", x, scale, zero, axis=1)
    model = net.model(net.node("DequantizeLinear", y, scale, zero, axis=1))
    check(model)
    plan = lower(model, 1, on_bytes=True)
    assert isinstance(plan, Plan)
    assert all(isinstance(step, Map) for step in plan.steps)


def test_what_bytes_cannot_do_reads_their_numbers() -> None:
    net = Quantised()
    x = net.pair(net.input(1, 4, 6, 6), 0.02, UINT8)
    y = net.node("Sigmoid", net.node("Conv", x, net.weight(4, 4, 1, 1)))
    found = kinds(net.model(net.node("Conv", net.pair(y, 0.01, UINT8), net.weight(2, 4, 1, 1))))
    assert found["Conv8"] == 2
    assert found["Quantise"] == 2
    assert found["Map"] == 1


def test_weights_in_float32_stay_there() -> None:
    net = Quantised()
    x = net.pair(net.input(1, 4, 6, 6), 0.02, UINT8)
    assert kinds(net.model(net.conv(x, 4, 4)))["Conv"] == 1


def test_a_residual_in_float32_is_added_by_the_layer() -> None:
    net = Quantised()
    x = net.input(1, 4, 6, 6)
    small = net.pair(x, 0.02, INT8)
    y = net.node("Conv", small, net.weight(4, 4, 3, 3), net.normal(4), pads=[1] * 4)
    plan = lower(net.model(net.node("Relu", net.node("Add", x, y))), 1, on_bytes=True)
    assert isinstance(plan, Plan)
    layer = next(step for step in plan.steps if isinstance(step, Conv8))
    assert layer.residual is not None
    assert (layer.low, layer.zero) == (0.0, None)
    assert not any(isinstance(step, Map | Add8) for step in plan.steps)


def test_an_activation_is_a_bound_of_bytes() -> None:
    net = Quantised()
    x = net.pair(net.input(1, 4, 6, 6), 0.02, UINT8)
    y = net.node("Clip", net.node("Conv", x, net.weight(4, 4, 1, 1)), np.float32(0), np.float32(6))
    plan = lower(net.model(net.pair(y, 0.05, np.int8(3))), 1, on_bytes=True)
    assert isinstance(plan, Plan)
    layer = next(step for step in plan.steps if isinstance(step, Conv8))
    assert (layer.zero, layer.low, layer.high) == (131, 0.0, 120.0)


def test_halves_are_rounded_to_even_numbers() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0], np.float32)
    model = single("QuantizeLinear", (7,), np.float32(1.0), INT8)
    (expected,) = reference(model, {"in0": x})
    assert expected.tolist() == [0, 2, 2, 0, -2, 127, -128]


def test_scales_of_blocks_are_refused() -> None:
    net = Small(21)
    x = net.node(
        "QuantizeLinear", net.input(1, 8), np.ones((1, 2), np.float32), axis=1, block_size=4
    )
    refused = lower(net.model(net.node("DequantizeLinear", x, np.float32(1))), 1)
    assert isinstance(refused, Refusal)
    assert "blocks" in str(refused)
