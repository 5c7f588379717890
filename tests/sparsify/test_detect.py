"""The times at which EarlyCroP and Early-Bird prune, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunedeploy.sparsify.detect import Drift
from prunedeploy.sparsify.methods.early_bird import distance


def test_the_drift_is_relative_to_the_first_epoch() -> None:
    module = nn.Linear(3, 2)
    drift = Drift(module)
    start = module.weight.detach().clone()
    for moved in (1.0, 2.0, 2.1):
        with torch.no_grad():
            module.weight.copy_(start + moved)
        drift.update()
    # squared distances 6, 24, 26.46: they grow by 6, 18 and 2.46
    assert drift.changes == pytest.approx([1.0, 3.0, 0.41], rel=1e-5)


def test_a_network_that_stands_still() -> None:
    drift = Drift(nn.Linear(3, 2))
    assert drift.update() == 0.0


def test_the_distance_of_masks() -> None:
    one = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])}
    other = {"a": torch.tensor([False, True]), "b": torch.tensor([True, True])}
    assert distance(one, one) == 0.0
    assert distance(one, other) == 0.5
