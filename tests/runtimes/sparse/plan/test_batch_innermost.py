"""The batch-innermost layout: the same numbers, and no change where it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from convs import beside
from lowered import Small, agree, reference
from plan_interpreter import evaluate

from prunedeploy.engines import building, opening
from prunedeploy.graph.model import save
from prunedeploy.runtimes.sparse.plan import lower as lowering
from prunedeploy.runtimes.sparse.plan.batch_innermost import innermost_images, to_batch_innermost
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan, Pool
from prunedeploy.runtimes.sparse.plan.views import View, planar

IMAGES = 16


def _conv(net: Small, x: str, ins: int, outs: int, kernel: int = 3, **attributes: Any) -> str:
    """A layer with scattered zeros."""
    group = attributes.get("group", 1)
    weight = net.normal(outs, ins // group, kernel, kernel, scale=0.5)
    if group == 1:
        weight[net.random.random(weight.shape) > 0.3] = 0
    attributes.setdefault("pads", [kernel // 2] * 4)
    result: str = net.node("Conv", x, weight, net.normal(outs), **attributes)
    return result


def residual(net: Small, x: str) -> str:
    """A stem with a stride, a pool, residual sums, a projection with a stride, a head."""
    x = net.node("Relu", _conv(net, x, 3, 8, 3, strides=[2, 2]))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = net.node("Relu", _conv(net, x, 8, 8))
    x = net.node("Relu", net.node("Add", _conv(net, y, 8, 8), x))
    y = _conv(net, net.node("Relu", _conv(net, x, 8, 12, strides=[2, 2])), 12, 12)
    x = net.node("Relu", net.node("Add", y, _conv(net, x, 8, 12, 1, strides=[2, 2])))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    head: str = net.node("Gemm", pooled, net.normal(12, 7), net.normal(7))
    return head


def mobile(net: Small, x: str) -> str:
    """Depthwise layers with strides and borders that differ, squeeze and excitation."""
    x = net.node("HardSwish", _conv(net, x, 3, 8, 3, strides=[2, 2], pads=[0, 0, 1, 1]))
    x = net.node("Relu", _conv(net, x, 8, 8, 3, group=8))
    gate = net.node("Relu", _conv(net, net.node("GlobalAveragePool", x), 8, 4, 1))
    gate = net.node("HardSigmoid", _conv(net, gate, 4, 8, 1), alpha=1 / 6, beta=0.5)
    x = _conv(net, net.node("Mul", x, gate), 8, 10, 1)
    x = net.node("Relu", _conv(net, x, 10, 10, 5, group=10, strides=[2, 2]))
    x = net.node("AveragePool", _conv(net, x, 10, 6, 1), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    logits: str = net.node("Softmax", x, axis=1)
    return logits


def branches(net: Small, x: str) -> str:
    """Concatenation, slices, a border of its own, and an image as the result."""
    left = _conv(net, x, 3, 5)
    right = net.node("Sigmoid", _conv(net, x, 3, 4, 1))
    joined = net.node("Concat", left, right, axis=1)
    first, second = net.node("Split", joined, np.array([4, 5]), axis=1, outputs=2)
    first = net.node("Pad", first, np.array([0, 0, 1, 0, 0, 0, 0, 2]))
    first = _conv(net, first, 4, 5, 3, pads=[0, 0, 1, 0])
    result: str = net.node("Add", net.node("Tanh", first), _conv(net, second, 5, 5, 3))
    return result


Network = Callable[[Small, str], str]
MOVED: list[tuple[Network, int]] = [(residual, 33), (residual, 20), (mobile, 19), (mobile, 32)]


def _model(network: Network, size: int) -> ir.Model:
    net = Small(seed=size)
    return net.model(network(net, net.input("n", 3, size, size)))


def _plans(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Plan]:
    """Side by side, and one image after the other."""
    found = lower(model, IMAGES, {})
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "to_batch_innermost", lambda plan: plan)
        other = lower(model, IMAGES, {})
    assert isinstance(found, Plan)
    assert isinstance(other, Plan)
    return found, other


def _feeds(plan: Plan, seed: int = 0) -> Mapping[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {p.name: random.standard_normal(p.shape).astype(np.float32) for p in plan.inputs}


def _is_beside(plan: Plan) -> bool:
    views = [step.x for step in plan.steps if isinstance(step, Conv | Pool)]
    return any(innermost_images(view) == IMAGES for view in views)


@pytest.mark.parametrize(("network", "size"), MOVED)
def test_the_same_numbers(network: Network, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(network, size)
    found, other = _plans(model, monkeypatch)
    assert _is_beside(found)
    assert not _is_beside(other)
    feeds = _feeds(found)
    (one,), (two,) = evaluate(found, feeds).values(), evaluate(other, feeds).values()
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-12 * np.abs(two).max())
    agree(one, reference(model, feeds)[0])


@pytest.mark.parametrize("size", [9, 12])
def test_a_plan_that_may_stay_is_right_too(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(branches, size)
    found, other = _plans(model, monkeypatch)
    feeds = _feeds(found)
    (one,), (two,) = evaluate(found, feeds).values(), evaluate(other, feeds).values()
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-12 * np.abs(two).max())


def test_engines_agree(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, both ways, for a batch of 16 and for one with the usual layout."""
    outputs: dict[str, list[np.ndarray]] = {}
    for network, size in ((residual, 33), (mobile, 19), (branches, 9)):
        model = _model(network, size)
        path = tmp_path / f"{network.__name__}.onnx"
        save(model, path)
        for name in ("beside", "behind"):
            with monkeypatch.context() as patch:
                if name == "behind":
                    patch.setattr(lowering, "to_batch_innermost", lambda plan: plan)
                engine = building.build(
                    path, "host", "sparse", tmp_path / f"{name}-{network.__name__}", tune="none",
                    batch=IMAGES, threads=2,
                )  # fmt: skip
            for threads in (1, 2, 3):
                x = np.random.default_rng(size).standard_normal((IMAGES, 3, size, size))
                with opening.open(engine, threads) as session:
                    feeds = {engine.manifest.inputs[0].name: x.astype(np.float32)}
                    (found,) = session.run(feeds).values()
                agree(found, reference(model, feeds)[0])
                outputs.setdefault(name + network.__name__, []).append(found)
        for found in outputs[f"beside{network.__name__}"]:
            np.testing.assert_array_equal(found, outputs[f"beside{network.__name__}"][0])


@pytest.mark.parametrize("batch", [1, 2, 8, 15, 17, 32])
def test_other_batches_stay(batch: int) -> None:
    plan = lower(_model(residual, 20), batch, {})
    assert isinstance(plan, Plan)
    assert not _is_beside(plan)
    assert to_batch_innermost(plan) is plan


def _stays(build: Callable[[Small], str], monkeypatch: pytest.MonkeyPatch) -> None:
    net = Small()
    model = net.model(build(net))
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "to_batch_innermost", lambda plan: plan)
        plan = lower(model, IMAGES, {})
    assert isinstance(plan, Plan)
    assert to_batch_innermost(plan) is plan


def test_tokens_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of computed tensors and norms are not images."""

    def attention(net: Small) -> str:
        x = net.input("n", 6, 8)
        y = net.node("MatMul", x, net.normal(8, 8))
        scores = net.node(
            "Softmax", net.node("MatMul", y, net.node("Transpose", x, perm=[0, 2, 1]))
        )
        result: str = net.node("MatMul", scores, y)
        return result

    _stays(attention, monkeypatch)


def test_vectors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def linear(net: Small) -> str:
        result: str = net.node("Gemm", net.input("n", 8), net.normal(8, 5), net.normal(5))
        return result

    _stays(linear, monkeypatch)


def test_growing_from_a_pixel_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout cannot be told by an input of single pixels."""

    def grown(net: Small) -> str:
        return _conv(net, net.input("n", 4, 1, 1), 4, 3, 3, pads=[2, 2, 2, 2])

    _stays(grown, monkeypatch)


@pytest.mark.parametrize("shape", [(16, 3, 5, 7), (16, 3, 5, 1), (16, 3, 1, 7), (4, 2, 3, 3)])
def test_images_are_told_by_strides(shape: tuple[int, int, int, int]) -> None:
    usual = planar(0, shape, 1)
    assert innermost_images(usual) == 1
    assert innermost_images(beside(usual)) == shape[0]


def test_single_pixels_lie_the_same_either_way() -> None:
    view = planar(0, (16, 3, 1, 1), 1)
    assert innermost_images(view) == innermost_images(beside(view)) == 1
    assert innermost_images(View(0, (1, 3, 4, 4), (0, 16, 4, 1))) == 1
