"""The input's size where nobody states it: of a whole pickled module, of the user's own factory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy import models
from prunedeploy.cli import main
from prunedeploy.graph import model as onnx_models
from prunedeploy.shrinking.input_size import input_size


def stem(channels: int, *rest: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), *rest).eval()


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + y


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), (1, 784)),
        (stem(3, *POOLED), (1, 3, 224, 224)),
        (stem(1, nn.Flatten(), nn.Linear(4 * 28 * 28, 2)), (1, 1, 28, 28)),
        (stem(3, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, 2)), (1, 3, 32, 32)),
        (stem(3, nn.Flatten(), nn.Linear(4 * 17 * 19, 2)), None),
        (models.by_name("resnet20").factory().eval(), (1, 3, 32, 32)),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), None),
        (nn.Sequential(nn.Conv1d(3, 4, 3)), None),
        (Strange(), None),
        (nn.ReLU(), None),
    ],
)
def test_what_the_network_runs_on(module: nn.Module, shape: tuple[int, ...] | None) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert input_size(module) == shape
    after = module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_whole_module_needs_no_shape(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(stem(1, nn.Flatten(), nn.Linear(4 * 28 * 28, 2)), "net.pt")
    assert main(["shrink", "net.pt", "--trust", "--align", "1"]) == 0
    assert "input taken as 1x1x28x28: --shape states another" in capsys.readouterr().out
    (spec,), _ = onnx_models.specs(onnx_models.load(Path("net.shrunk.onnx")))
    assert spec.shape == ("batch", 1, 28, 28)
    assert main(["shrink", "net.pt", "--trust", "--shape", "1x1x8x8"]) == 2
    assert "does not run on an input of shape 1,1,8,8" in capsys.readouterr().err


def test_an_image_has_one_size(tmp_path: Path, monkeypatch, capsys) -> None:
    """Of a checkpoint only the batch may be left open, and so it has no several sizes."""
    monkeypatch.chdir(tmp_path)
    torch.save(stem(3, *POOLED), "net.pt")
    for shape in ("1x3x?x?", "1x3x8x8,1x3x12x12"):
        assert main(["shrink", "net.pt", "--trust", "--shape", shape]) == 2
        assert "a checkpoint is exported at one size" in capsys.readouterr().err
