"""torch modules as ONNX models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunedeploy.core.errors import UserError
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import export


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.linear(x.view(x.size(0), -1))


class FixedBatch(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.linear(x.view(1, -1)) if x.shape[0] == 1 else self.linear(x.view(2, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dynamic_batch_and_parameter_names(
    tmp_path: Path, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    module = Small().to(dtype).eval()
    evaluator = Evaluator(export(module, (1, 3, 8, 8), tmp_path / "a.onnx"))
    assert "linear.weight" in evaluator._model.graph.initializers
    assert evaluator.inputs[0].name == "input"
    assert evaluator.outputs[0].name == "output"
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8, dtype=dtype)
        found = evaluator.run({"input": x.numpy()})["output"]
        assert np.abs(found - module(x).detach().numpy()).max() < 1e-5
    assert capfd.readouterr() == ("", "")


def test_module_with_a_fixed_batch_is_exported_with_it(tmp_path: Path) -> None:
    module = FixedBatch().eval()
    evaluator = Evaluator(export(module, (1, 3, 8, 8), tmp_path / "a.onnx"))
    assert evaluator.inputs[0].shape == (1, 3, 8, 8)


def test_no_path_of_the_machine_is_written(tmp_path: Path) -> None:
    path = export(Small().eval(), (1, 3, 8, 8), tmp_path / "a.onnx")
    content = path.read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"site-packages" not in content


def test_wrong_input_shape_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not run on an input of shape 1,1,8,8"):
        export(Small().eval(), (1, 1, 8, 8), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_torchscript_program(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = Small().eval()
    script = torch.jit.script(module)
    evaluator = Evaluator(export(script, (1, 3, 8, 8), tmp_path / "a.onnx"))
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        found = evaluator.run({"input": x.numpy()})["output"]
        assert np.abs(found - module(x).detach().numpy()).max() < 1e-5
    assert capfd.readouterr() == ("", "")


class Picky(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[0] == 1, "one at a time"
        return super().forward(x)


def test_exported_program_of_a_fixed_batch(tmp_path: Path) -> None:
    module = torch.export.export(Small().eval(), (torch.zeros(1, 3, 8, 8),)).module()
    for each in (module, Picky().eval()):
        evaluator = Evaluator(export(each, (1, 3, 8, 8), tmp_path / "a.onnx"))
        assert evaluator.inputs[0].shape == (1, 3, 8, 8)


def test_whatever_the_network_raises_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one at a time"):
        export(Picky().eval(), (2, 3, 8, 8), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="does not run on an input of shape 1,3,999999,999999"):
        export(Small().eval(), (1, 3, 999999, 999999), tmp_path / "a.onnx")


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        print("computing")
        return self.embedding(tokens).mean(1)


def test_a_network_of_tokens(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = Tokens().eval()
    evaluator = Evaluator(export(module, (1, 7), tmp_path / "a.onnx"))
    assert "computing" not in capfd.readouterr().out
    tokens = torch.randint(20, (3, 7))
    found = evaluator.run({"input": tokens.numpy()})["output"]
    assert np.abs(found - module(tokens).detach().numpy()).max() < 1e-5
