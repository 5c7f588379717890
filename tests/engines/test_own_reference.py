"""Files that ONNX Runtime optimised or quantised: only it computes their operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_onnx import FLOAT, draw, info, model, node

from prunedeploy.core.errors import UserError
from prunedeploy.engines import building, opening
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.ort.cpu import Ort
from prunedeploy.shrinking.pipeline import shrink


def optimised(folder: Path, seed: int = 0) -> Path:
    """A convolution with ReLU as ONNX Runtime writes it: one operator of its own."""
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        [info("x", FLOAT, ["n", 3, 8, 8])],
        [info("y", FLOAT, ["n", 4, 6, 6])],
        {"w": draw(4, 3, 3, 3, seed=seed)},
    )
    onnx.save(proto, folder / "plain.onnx")
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / f"optimised{seed}.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(folder / "plain.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return folder / f"optimised{seed}.onnx"


def test_it_is_built_with_itself_as_reference_and_says_so(tmp_path: Path) -> None:
    path = optimised(tmp_path)
    lines: list[str] = []
    engine = building.build(path, runtime="ort", output=tmp_path / "e", progress=lines.append)
    check = engine.manifest.cross_check
    assert check is not None
    assert check.oracle == ""
    assert "com.microsoft::FusedConv" in check.reason
    assert any("compared with itself only" in line for line in lines)
    assert engine.manifest.difference is not None
    assert engine.manifest.difference.tolerance == 1e-5
    with opening.open(engine) as session:
        feeds = random_feeds(session.inputs, 3)
        found = session.run(feeds)["y"]
    plain = onnxruntime.InferenceSession(str(tmp_path / "plain.onnx"))
    np.testing.assert_allclose(found, plain.run(None, feeds)[0], atol=1e-5)


def test_a_wrong_engine_of_it_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wrong = optimised(tmp_path), optimised(tmp_path, seed=1)
    real = Ort.build
    monkeypatch.setattr(Ort, "build", lambda self, _, *rest: real(self, wrong, *rest))
    with pytest.raises(UserError, match="computes something else"):
        building.build(path, runtime="ort", output=tmp_path / "e")


def test_what_needs_the_interpreter_says_what_to_do(tmp_path: Path) -> None:
    path = optimised(tmp_path)
    with pytest.raises(UserError, match=r"FusedConv .* is unknown.*before ONNX Runtime optimised"):
        shrink(path, tmp_path / "s.onnx", align=1)
