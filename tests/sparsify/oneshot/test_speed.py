"""Budgets from latency: predicted times as ``predict`` has them, kept by every budget."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from sparse_nets import Small, stripes

import prunedeploy
from prunedeploy import OneShotOptions, UserError
from prunedeploy.sparsify.masks import apply
from prunedeploy.sparsify.oneshot import speed
from prunedeploy.sparsify.oneshot.costs import costs_of
from prunedeploy.sparsify.oneshot.one_shot import one_shot
from prunedeploy.sparsify.oneshot.study import Study, study

TARGET = "raspberry-pi-5"  # another machine, so that nothing is measured


@pytest.fixture(scope="module")
def looked() -> Study:
    return study(Small().eval().requires_grad_(False), [stripes().batch(torch.arange(200))])


def test_times_are_those_of_predict(looked: Study, tmp_path: Path) -> None:
    costs = costs_of(looked.dense, looked.inner, (1, 1, 8, 8), TARGET, threads=1)
    assert set(costs.found) == {layer.name for layer in looked.inner}
    generator = torch.Generator().manual_seed(0)
    masks = {x.name: torch.rand(x.shape, generator=generator) < 0.2 for x in looked.inner}
    sparse = deepcopy(looked.dense)
    apply(sparse, masks)
    path = prunedeploy.export(sparse, (1, 1, 8, 8), tmp_path / "sparse.onnx")
    forecast = prunedeploy.predict(path, TARGET, "sparse", threads=1).forecast
    assert costs.total(masks) == pytest.approx(forecast.seconds, rel=1e-6)
    path = prunedeploy.export(looked.dense, (1, 1, 8, 8), tmp_path / "dense.onnx")
    forecast = prunedeploy.predict(path, TARGET, "ort", threads=1).forecast
    assert costs.dense == pytest.approx(forecast.seconds)


@pytest.mark.parametrize("budget", ["latency", "global", "uniform", "erk"])
def test_every_budget_keeps_the_time(looked: Study, budget: str) -> None:
    for units in ("scattered", "mixed") if budget == "latency" else ("scattered",):
        options = OneShotOptions(speedup=1.0, target=TARGET, budget=budget, units=units, threads=1)
        planned = speed.plan(looked, options, lambda _: None)
        full = planned.costs.total({})
        for share in (0.9, 0.7):
            masks, patterns = planned.masks(share * full)
            assert planned.costs.total(masks) <= share * full * (1 + 1e-9)
            assert planned.costs.total(masks) > 0.6 * share * full
            assert set(patterns) == set(masks)


def test_the_least_error_is_the_budgets_from_latency(looked: Study) -> None:
    errors = {}
    for budget in ("latency", "uniform"):
        options = OneShotOptions(speedup=1.0, target=TARGET, budget=budget, threads=1)
        planned = speed.plan(looked, options, lambda _: None)
        masks, _ = planned.masks(0.8 * planned.costs.total({}))
        errors[budget] = sum(looked.pruned(masks)[1].values())
    assert errors["latency"] <= errors["uniform"]


def test_a_speed_that_cannot_be_reached_is_said_to_be_missed() -> None:
    batch = stripes().batch(torch.arange(64))
    options = OneShotOptions(speedup=1e4, target=TARGET, threads=1)
    done = one_shot(Small(), [batch], options)
    assert done.speed is not None
    assert done.speed.missed
    assert "10000x was asked for" in done.summary()
    assert "predicted" in done.summary()


def test_channels_that_are_gone_take_no_time() -> None:
    network = prunedeploy.models.by_name("resnet20").factory().eval().requires_grad_(False)
    found = study(network, [torch.randn(8, 3, 32, 32)], "wanda", every_layer=True)
    options = OneShotOptions(speedup=2.0, target=TARGET, units="channels", threads=1)
    planned = speed.plan(found, options, lambda _: None)
    full = planned.costs.total({}, cut=True)
    masks, _ = planned.masks(0.5 * full)
    assert 0.3 * full < planned.costs.total(masks, cut=True) <= 0.5 * full


def test_targets_without_the_sparse_runtime(looked: Study) -> None:
    options = OneShotOptions(speedup=2.0, target="jetson")
    if "sparse" in prunedeploy.targets.by_name("jetson").runtimes:
        pytest.skip("jetson has the sparse runtime")
    with pytest.raises(UserError, match="skips scattered zeros"):
        speed.plan(looked, options, lambda _: None)


@pytest.mark.slow
def test_built_and_measured_here() -> None:
    batch = stripes().batch(torch.arange(64))
    done = one_shot(Small(), [batch], OneShotOptions(speedup=0.01, threads=1))
    assert done.speed is not None
    assert done.speed.measured > 0
    assert "measured" in done.summary()
