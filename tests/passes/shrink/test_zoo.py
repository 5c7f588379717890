"""Exact shrink on the reference networks, against counts derived by hand from their structure.

One network of each family in float64, in all four regimes; ``benchmarks/exactness.py`` runs them
all, in float32 too.
"""

from __future__ import annotations

import pytest
import torch
import zoo

from prunedeploy import models

SMALL = ("squeezenet1_1", "resnet20")
MEDIUM = ("resnet18", "mobilenet_v2", "vgg16_bn_cifar")
LARGE = ("resnet50", "mobilenet_v1", "densenet121", "wide_resnet32_2", "vgg11")
CASES = (
    *((name, regime) for name in SMALL for regime in zoo.REGIMES),
    *((name, "beta") for name in MEDIUM),
    *(
        pytest.param(name, regime, marks=pytest.mark.slow)
        for name in MEDIUM
        for regime in zoo.REGIMES
        if regime != "beta"
    ),
)


@pytest.mark.parametrize(("name", "regime"), CASES)
def test_network(name: str, regime: str) -> None:
    recipe = models.by_name(name)
    row = zoo.check(recipe, regime, torch.float64)
    assert row.difference.max_rel <= 1e-12
    assert row.after < row.before
    if row.attainable >= 0:
        assert row.after == row.attainable


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["clean", "beta"])
@pytest.mark.parametrize("name", LARGE)
def test_larger_network(name: str, regime: str) -> None:
    test_network(name, regime)
