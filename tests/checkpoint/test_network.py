"""From weights to a network: recognised, named, or made by the user's factory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import load
from prunedeploy.core.errors import UserError
from prunedeploy.models import by_name


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = by_name("resnet20").factory().eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


PREFIXES = ("", "module.", "model.", "net.backbone.", "_orig_mod.", "module._orig_mod.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "model_state_dict", "mine"])
def test_recognised(resnet: nn.Module, image, prefix: str, key: str | None, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in resnet.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "net")
    loaded = load(tmp_path / "net")
    assert (loaded.arch, loaded.input_shape) == ("resnet20", (1, 3, 32, 32))
    assert loaded.recipe is by_name("resnet20")
    with torch.no_grad():
        assert torch.equal(loaded.module(image), resnet(image))
    named = load(tmp_path / "net", arch="resnet20").module
    assert torch.equal(named.state_dict()["conv1.weight"], resnet.conv1.weight)


def test_parallel_part_of_a_network(resnet: nn.Module, tmp_path: Path) -> None:
    state = {
        name.replace("layer1.", "layer1.module."): t for name, t in resnet.state_dict().items()
    }
    torch.save(state, tmp_path / "net")
    assert load(tmp_path / "net").arch == "resnet20"


def test_what_was_found_is_told(resnet: nn.Module, tmp_path: Path) -> None:
    state = {f"module.{name}": t.half() for name, t in resnet.state_dict().items()}
    state |= {"module.total_ops": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "net")
    assert load(tmp_path / "net").found == (
        "torch.save, zip format",
        "weights under 'state_dict'",
        "prefix module.",
        "116 float16 weights converted to float32",
    )


def test_old_files_without_counters(resnet: nn.Module, tmp_path: Path) -> None:
    state = {n: t for n, t in resnet.state_dict().items() if "num_batches" not in n}
    torch.save(state, tmp_path / "net")
    assert load(tmp_path / "net").arch == "resnet20"


def test_normalisation_inside(resnet: nn.Module, image, tmp_path: Path) -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    state = resnet.state_dict() | {"normalize.mean": mean, "normalize.std": std}
    torch.save(state, tmp_path / "net")
    with torch.no_grad():
        expected = resnet((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        assert torch.allclose(load(tmp_path / "net").module(image), expected, atol=1e-5)


def test_already_shrunk(resnet: nn.Module, image, tmp_path: Path) -> None:
    state = resnet.state_dict()
    keep = torch.tensor([0, 2, 3, 7, 11])
    for name in ("conv1.weight", *(f"bn1.{n}" for n in ("weight", "bias", "running_mean"))):
        state[f"layer1.0.{name}"] = state[f"layer1.0.{name}"][keep]
    state["layer1.0.bn1.running_var"] = state["layer1.0.bn1.running_var"][keep]
    state["layer1.0.conv2.weight"] = state["layer1.0.conv2.weight"][:, keep]
    torch.save(state, tmp_path / "net")
    module = load(tmp_path / "net").module
    assert module(image).shape == (2, 10)
    assert module.get_parameter("layer1.0.conv1.weight").shape[0] == 5


def test_weights_are_not_copied(resnet: nn.Module, tmp_path: Path) -> None:
    """One copy in memory: as large as the file, not twice."""
    state = {"conv1.weight": torch.zeros(1)} | resnet.state_dict()
    torch.save(state, tmp_path / "net")
    module = load(tmp_path / "net").module
    assert not any(p.requires_grad for p in module.parameters())
    storages = {p.untyped_storage().data_ptr() for p in module.parameters()}
    assert len(storages) == len(list(module.parameters()))


def test_factory_in_the_current_folder(net, same, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "local_factory.py").write_text("from small_net_of_the_tests import Net as make\n")
    torch.save(net.state_dict(), tmp_path / "net")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    loaded = same(tmp_path / "net", net, arch="local_factory:make")
    assert (loaded.arch, loaded.input_shape, loaded.recipe) == ("local_factory:make", None, None)


def test_factory_gets_the_shapes_of_the_checkpoint(net, same: Callable, tmp_path: Path) -> None:
    keep = torch.tensor([1, 2, 5])
    state = net.state_dict()
    for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"):
        state[name] = state[name][keep]
    for name in ("bn1.running_mean", "bn1.running_var"):
        state[name] = state[name][keep]
    state["conv2.weight"] = state["conv2.weight"][:, keep]
    with torch.no_grad():
        dead = [i for i in range(6) if i not in keep]
        net.conv2.weight[:, dead] = 0
    torch.save(state, tmp_path / "net")
    assert same(tmp_path / "net", net).module.conv1.out_channels == 3


def test_factory_with_another_prefix(net, same: Callable, tmp_path: Path) -> None:
    torch.save({f"model.{n}": t for n, t in net.state_dict().items()}, tmp_path / "net")
    same(tmp_path / "net", net)


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("no_such_module_at_all:Net", "cannot import no_such_module_at_all"),
        ("small_net_of_the_tests:Nothing", "has no Nothing"),
        ("small_net_of_the_tests:number", "not a function"),
        ("small_net_of_the_tests:broken", "ValueError: no such width"),
        ("json:dumps", "without arguments"),
        ("builtins:dict", "it gave a dict"),
        ("resnet2000", "no network is called 'resnet2000'"),
        ("vgg11", r"it is no vgg11: .* missing \(.*\) and 13 unexpected"),
        (None, "architecture is not recognised.*--arch"),
        (":", "--arch :"),
        ("json:", "--arch json:"),
        (":dumps", "--arch :dumps"),
        (".:x", "--arch .:x"),
        ("no_such.part:x", "cannot import"),
    ],
)
def test_network_that_cannot_be_had(net, tmp_path: Path, arch: str | None, says: str) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path / "net.pt", arch=arch)
    assert "net.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_unexpected(net, tmp_path: Path) -> None:
    state = net.state_dict()
    state["fc.scale"] = state.pop("fc.bias")
    torch.save(state, tmp_path / "net")
    message = r"1 missing \(fc\.bias\) and 1 unexpected \(fc\.scale\)"
    with pytest.raises(UserError, match=message):
        load(tmp_path / "net", arch="small_net_of_the_tests:Net")


def test_other_kernel(net, tmp_path: Path) -> None:
    state = net.state_dict()
    state["conv1.weight"] = torch.rand(6, 3, 5, 5)
    torch.save(state, tmp_path / "net")
    with pytest.raises(UserError, match="kernel 5x5"):
        load(tmp_path / "net", arch="small_net_of_the_tests:Net")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(net, tmp_path: Path, value: float) -> None:
    state = net.state_dict()
    state["conv2.weight"][1, 2, 0, 1] = value
    torch.save(state, tmp_path / "net")
    with pytest.raises(UserError, match=r"conv2\.weight holds NaN or infinity in 1 of 432"):
        load(tmp_path / "net", arch="small_net_of_the_tests:Net")


def test_layer_of_no_size(net, tmp_path: Path) -> None:
    torch.save(net.state_dict() | {"conv1.weight": torch.zeros(0, 3, 3, 3)}, tmp_path / "net")
    with pytest.raises(UserError, match=r"conv1\.weight has a size of zero"):
        load(tmp_path / "net", arch="small_net_of_the_tests:Net")


def test_several_sets_of_weights(net, tmp_path: Path) -> None:
    torch.save({"a": net.state_dict(), "b": net.state_dict()}, tmp_path / "net")
    with pytest.raises(UserError, match=r"several sets of weights \(a, b\)"):
        load(tmp_path / "net")


def test_convolution_without_bias_as_the_head(image, tmp_path: Path) -> None:
    """As STR writes its ResNets: no fc.bias, and fc.weight of a 1x1 convolution."""
    torch.manual_seed(0)
    network = by_name("resnet18").factory().eval()
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    del state["module.fc.bias"]
    state["module.fc.weight"] = network.fc.weight[:, :, None, None]
    state["module.fc.sparseThreshold"] = torch.full((1, 1), -3200.0)
    torch.save({"state_dict": state}, tmp_path / "net")
    torch.nn.init.zeros_(network.fc.bias)
    loaded = load(tmp_path / "net")
    assert loaded.arch == "resnet18"
    with torch.no_grad():
        assert torch.allclose(loaded.module(image), network(image), atol=1e-5)


def test_real_checkpoints(real_data: Path) -> None:
    for name in ("resnet20", "resnet56"):
        (path,) = real_data.glob(f"{name}-*.th")
        loaded = load(path)
        assert loaded.arch == name
        assert loaded.found[0] == "torch.save, legacy format"
