"""Budgets from latency: predicted times as ``predict`` has them, kept by every budget."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from sparse_nets import Small, stripes

import prunedeploy
from prunedeploy import OneShotOptions
from prunedeploy.sparsify.masks import apply
from prunedeploy.sparsify.oneshot import speed
from prunedeploy.sparsify.oneshot.costs import Costs, costs_of
from prunedeploy.sparsify.oneshot.one_shot import one_shot
from prunedeploy.sparsify.oneshot.study import Study, study

TARGET = "raspberry-pi-5"  # another machine, so that nothing is measured


@pytest.fixture(scope="module")
def looked() -> Study:
    return study(Small().eval().requires_grad_(False), [stripes().batch(torch.arange(200))])


@pytest.fixture(scope="module")
def costs(looked: Study) -> Costs:
    return costs_of(looked.dense, looked.inner, (1, 1, 8, 8), TARGET, threads=1)


def test_times_are_those_of_predict(looked: Study, costs: Costs, tmp_path: Path) -> None:
    assert set(costs.steps) == {layer.name for layer in looked.inner}
    generator = torch.Generator().manual_seed(0)
    masks = {x.name: torch.rand(x.shape, generator=generator) < 0.2 for x in looked.inner}
    sparse = deepcopy(looked.dense)
    apply(sparse, masks)
    path = prunedeploy.export(sparse, (1, 1, 8, 8), tmp_path / "sparse.onnx")
    forecast = prunedeploy.predict(path, TARGET, "sparse", threads=1).forecast
    assert costs.total(masks) == pytest.approx(forecast.seconds, rel=1e-6)
    forecast = prunedeploy.predict(path, TARGET, "ort", threads=1).forecast
    assert costs.dense == pytest.approx(forecast.seconds)  # which computes zeros


def test_every_budget_keeps_the_time(looked: Study, costs: Costs) -> None:
    full, errors = costs.total({}), {}
    kinds = [("mixed", "latency"), *(("scattered", b) for b in ("latency", "global", "uniform"))]
    for units, budget in kinds:
        options = OneShotOptions(speedup=1.0, target=TARGET, budget=budget, units=units, threads=1)
        planned = speed.planned(looked, costs, options, lambda _: None)
        for share in (0.9, 0.8):
            masks, patterns = planned.masks(share * full)
            assert 0.6 * share * full < costs.total(masks) <= share * full * (1 + 1e-9)
            assert set(patterns) == set(masks)
        errors[units, budget] = sum(looked.pruned(masks)[1].values())
    least = errors["scattered", "latency"]
    assert least <= 1.1 * errors["scattered", "uniform"]  # options go in steps of density
    assert errors["mixed", "latency"] <= least + 1e-9


def test_a_speed_that_cannot_be_reached_is_said_to_be_missed() -> None:
    batch = stripes().batch(torch.arange(64))
    options = OneShotOptions(speedup=1e4, target=TARGET, threads=1)
    done = one_shot(Small(), [batch], options)
    assert done.speed is not None
    assert done.speed.missed
    assert "10000x was asked for" in done.summary()
    assert "predicted" in done.summary()


def test_channels_that_are_gone_take_no_time() -> None:
    batch = stripes().batch(torch.arange(64))
    found = study(Small().eval().requires_grad_(False), [batch], "wanda", every_layer=True)
    options = OneShotOptions(speedup=2.0, target=TARGET, units="channels", threads=1)
    planned = speed.plan(found, options, lambda _: None)
    full = planned.costs.total({}, cut=True)
    masks, _ = planned.masks(0.7 * full)
    assert 0.4 * full < planned.costs.total(masks, cut=True) <= 0.7 * full


@pytest.mark.slow
def test_built_and_measured_here() -> None:
    batch = stripes().batch(torch.arange(64))
    done = one_shot(Small(), [batch], OneShotOptions(speedup=0.01, threads=1))
    assert done.speed is not None
    assert done.speed.measured > 0
    assert "measured" in done.summary()
