"""Maps with few different rows and columns become tables, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net

from prunedeploy.graph import model as models
from prunedeploy.passes import FoldConstants, TabulateMaps, run
from prunedeploy.passes.shrink.tables import tabulate
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator


def bordered(random: np.random.Generator, channels: int = 5, size: int = 12) -> np.ndarray:
    """What a padded 3x3 convolution makes of a constant: first, middle and last rows differ."""
    rows = np.array([0] + [1] * (size - 2) + [2])
    return random.standard_normal((1, channels, 3, 3))[:, :, rows][:, :, :, rows]


def model_with(array: np.ndarray, operator: str = "Add") -> ir.Model:
    net = Net(channels=5, size=12)
    return net.model(net.node(operator, "input", net.weight(array)))


@pytest.mark.parametrize("fold", [False, True])
def test_a_map_becomes_a_table_and_folding_leaves_it(fold: bool) -> None:
    model = model_with(bordered(np.random.default_rng(0)))
    feeds = verify.random_feeds(models.specs(model)[0])
    before = Evaluator(model).run(feeds)
    (report, *_) = run(model, (TabulateMaps(), *([FoldConstants()] if fold else [])), feeds)
    assert report.result.changed
    assert report.result.notes[0].count == 5 * (12 * 12 - 3 * 3)
    assert models.weight_bytes(model) == 8 * (5 * 9 + 2 * 12)
    after = Evaluator(model).run(feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "model",
    [
        model_with(np.random.default_rng(1).standard_normal((1, 5, 12, 12))),
        model_with(np.ones((1, 5, 1, 1))),
        model_with(bordered(np.random.default_rng(0)), "Mul"),
        model_with(np.concatenate([bordered(np.random.default_rng(0))] * 2)),
    ],
    ids=["all different", "no map", "not added", "widens the batch"],
)
def test_others_stay(model: ir.Model) -> None:
    assert not TabulateMaps()(model).changed


def test_tables_repeat_to_what_they_were() -> None:
    array = bordered(np.random.default_rng(2))
    table, (rows, columns) = tabulate(array)
    assert table.shape == (1, 5, 3, 3)
    assert np.array_equal(table[:, :, rows][:, :, :, columns], array)
