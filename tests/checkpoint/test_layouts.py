"""What training frameworks put around the weights: Lightning, timm, ultralytics, averages."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError

ARCH = "small_net_of_the_tests:Net"


def halved(net: nn.Module) -> dict[str, Tensor]:
    """The weights of another time: half as large, none of them zero."""
    return {name: x / 2 if x.is_floating_point() else x for name, x in net.state_dict().items()}


def lightning(net: nn.Module) -> dict[str, object]:
    """pytorch_lightning 2: the network is an attribute of the LightningModule."""
    state = {f"model.{name}": x for name, x in net.state_dict().items()}
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": state | {"criterion.weight": torch.ones(5)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_k_models": {}}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(5, 8)}}}],
        "lr_schedulers": [{"base_lrs": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "width": 6},
    }


def timm(net: nn.Module) -> dict[str, object]:
    """timm.utils.CheckpointSaver: the average beside the weights."""
    return {
        "epoch": 9,
        "arch": "net",
        "state_dict": net.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "version": 2,
        "state_dict_ema": halved(net),
        "metric": 71.2,
    }


@pytest.fixture
def ultralytics(monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> dict[str, object]:
    """ultralytics' trainer: whole modules in float16, of classes that are not there on reading."""
    module = types.ModuleType("ultralytics_of_the_tests")

    class DetectionModel(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.yaml, self.names = model, {"nc": 5}, {0: "a"}

    DetectionModel.__module__ = module.__name__
    DetectionModel.__qualname__ = "DetectionModel"
    module.DetectionModel = DetectionModel
    monkeypatch.setitem(sys.modules, module.__name__, module)
    other = type(net)()
    other.load_state_dict(halved(net))
    return {
        "epoch": -1,
        "best_fitness": None,
        "model": DetectionModel(net).half(),
        "ema": DetectionModel(other.half()),
        "updates": 100,
        "optimizer": None,
        "train_args": {"task": "detect"},
        "date": "2026-01-01",
        "version": "8.3.0",
    }


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], Path]:
    def write(value: object) -> Path:
        modern = request.param == "zip"
        torch.save(value, tmp_path / "net.pt", _use_new_zipfile_serialization=modern)
        return tmp_path / "net.pt"

    return write


def test_lightning(net: nn.Module, same, save: Callable[[object], Path]) -> None:
    loaded = same(save(lightning(net)), net)
    assert "weights under 'state_dict'" in loaded.found
    assert any("left out: criterion" in line for line in loaded.found)


def test_timm(net: nn.Module, same, save: Callable[[object], Path]) -> None:
    path = save(timm(net))
    loaded = same(path, net)
    assert "another set of weights left out (under 'state_dict_ema')" in loaded.found
    net.load_state_dict(halved(net))
    assert "weights under 'state_dict_ema'" in same(path, net, weights="state_dict_ema").found


@pytest.mark.parametrize("chosen", ["model", "ema"])
def test_ultralytics(
    net: nn.Module,
    ultralytics: dict[str, object],
    save: Callable[[object], Path],
    chosen: str,
) -> None:
    path = save(ultralytics)
    sys.modules.pop("ultralytics_of_the_tests")
    loaded = load(path, ARCH, weights=None if chosen == "model" else "ema")
    assert any(f"weights under '{chosen}'" in line for line in loaded.found)
    left = "ema" if chosen == "model" else "model"
    assert any(f"left out (under '{left}')" in line for line in loaded.found)
    wanted = net.state_dict() if chosen == "model" else halved(net)
    found = loaded.module.state_dict()
    assert all(
        torch.equal(found[name], x.half().float()) for name, x in wanted.items() if x.dim() > 1
    )


@pytest.mark.parametrize("prefix", ["backbone.", "backbone", "model.backbone."])
def test_a_prefix(net: nn.Module, same, save: Callable[[object], Path], prefix: str) -> None:
    """Those that begin with it alone, masks too, under the wrappers of training."""
    state = {f"module.model.backbone.{name}": x for name, x in net.state_dict().items()}
    state["module.model.head.weight"] = torch.ones(3, 5)
    path = save({"state_dict": state})
    with pytest.raises(UserError, match="does not fit"):
        load(path, ARCH)
    loaded = same(path, net, prefix=prefix)
    begin = prefix.removesuffix(".")
    assert f"weights whose names begin with {begin}., 1 others not" in loaded.found


def test_a_prefix_within_a_chosen_set(net: nn.Module, same, save: Callable[[object], Path]) -> None:
    def nested(state: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {f"backbone.{name}": x for name, x in state.items()}
        return named | {"head.weight": torch.ones(3, 5)}

    path = save({"model": nested(net.state_dict()), "ema": nested(halved(net))})
    same(path, net, prefix="backbone.")
    net.load_state_dict(halved(net))
    same(path, net, prefix="backbone.", weights="ema")
    with pytest.raises(UserError, match="no weights called neck: it has"):
        weights(path, prefix="neck.")


def test_the_command_line(
    net: nn.Module, save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"backbone.{name}": x for name, x in net.state_dict().items()}
    path = save({"model": state | {"head.weight": torch.ones(3, 5)}})
    assert main(["inspect", str(path), "--arch", ARCH, "--prefix", "backbone."]) == 0
    assert "weights whose names begin with backbone., 1 others not" in capsys.readouterr().out
