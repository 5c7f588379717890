"""Engines that differ by rounding are measured, those that differ by more are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import FLOAT, draw, info, model, node

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Engine
from prunedeploy.engines import building, opening
from prunedeploy.measure import verdicts
from prunedeploy.measure.verdicts import verdicts as judge
from prunedeploy.reference.drawing import random_feeds

pytest.importorskip("onnxruntime")


class Shifted:
    """A session whose outputs are off by a share of their range."""

    def __init__(self, session, share: float) -> None:
        self.session, self.share = session, share

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self.session.run(feeds)
        return {name: array + self.share * np.ptp(array) for name, array in outputs.items()}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A difference of nearly equal sums: 2e4 times what float32 rounds of them is left."""
    folder: Path = tmp_path_factory.mktemp("amplifier")
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "large"], ["b"]),
        node("Relu", ["b"], ["r"]),
        node("Sub", ["r", "large"], ["c"]),
        node("MatMul", ["c", "v"], ["y"]),
    ]
    weights = {
        "w": draw(64, 16),
        "large": np.full(16, 2e4, np.float32),
        "v": draw(16, 4, seed=1),
    }
    net = model(nodes, [info("x", FLOAT, ["n", 64])], [info("y", FLOAT, ["n", 4])], weights)
    onnx.save(net, folder / "net.onnx")
    return building.build(folder / "net.onnx", "host", "ort", folder / "engine")


def test_what_rounding_explains_is_measured(engine: Engine) -> None:
    inputs = engine.manifest.inputs
    with opening.open(engine) as session:
        shifted = Shifted(session, 5e-4)
        batches = [random_feeds(inputs, 8, seed) for seed in range(2)]
        dense, outputs = (verdicts._outputs(each, batches) for each in (session, shifted))
        assert not verdicts._compare(engine, dense, outputs).passed
        pairs = judge([engine] * 2, [session, shifted], inputs, 8, 0, None, lambda _: None)
        (_, (difference, _)) = pairs
    assert difference.passed
    assert difference.where.endswith("(from float64)")


def test_what_is_above_rounding_is_refused(engine: Engine) -> None:
    inputs = engine.manifest.inputs
    with opening.open(engine) as session:
        sessions = [session, Shifted(session, 0.2)]
        with pytest.raises(UserError, match=r"does not compute what its baseline does.*not timed"):
            judge([engine] * 2, sessions, inputs, 8, 0, None, lambda _: None)


def test_changed_predictions_are_counted() -> None:
    dense, found = np.array([0, 1, 2, 3]), np.array([0, 1, 1, 1])
    accuracy = verdicts._accuracy(dense, found, np.array([0, 1, 1, 3]))
    assert (accuracy.samples, accuracy.correct, accuracy.changed_predictions) == (4, 3, 2)
