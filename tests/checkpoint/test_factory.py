"""Factories that give more than a plain network: understood, or one line that says what to do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim.swa_utils import AveragedModel

from prunedeploy.checkpoint import load
from prunedeploy.core.errors import UserError
from prunedeploy.shrinking.pipeline import shrink

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from small_net_of_the_tests import Net


def parallel():
    return nn.DataParallel(Net())


def parallel_part():
    net = Net()
    net.conv2 = nn.DataParallel(net.conv2)
    return net


def compiled():
    return torch.compile(Net())


def compiled_part():
    net = Net()
    net.conv2 = torch.compile(net.conv2)
    net.fc.compile()
    return nn.DataParallel(torch.compile(net))


def averaged():
    return AveragedModel(Net())


class Lazy(Net):
    def __init__(self):
        nn.Module.__init__(self)
        self.conv1 = nn.LazyConv2d(6, 3, padding=1)
        self.bn1 = nn.LazyBatchNorm2d()
        self.conv2 = nn.LazyConv2d(8, 3, stride=2, bias=False)
        self.bn2 = nn.LazyBatchNorm2d()
        self.fc = nn.LazyLinear(5)


class LazyMore(Lazy):
    def __init__(self):
        super().__init__()
        self.more = nn.LazyLinear(3)


class Random(Net):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5)


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + torch.randn(5) * 0.1


class Two(Net):
    def forward(self, x, scale):
        return super().forward(x) * scale


class Flow(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Nothing(Net):
    def forward(self, x):
        return super().forward(x), None


class Pair(Net):
    def forward(self, x):
        y = super().forward(x)
        return y, {"twice": 2 * y, "none": None}
"""
MODULE = "factories_of_the_tests"


@pytest.fixture(autouse=True)
def factories(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop(MODULE, None)
    importlib.import_module(MODULE)


UNDERSTOOD = ("parallel", "parallel_part", "compiled", "compiled_part", "averaged", "Lazy")


@pytest.mark.parametrize("name", UNDERSTOOD)
@pytest.mark.parametrize("wrap", [lambda n: n, nn.DataParallel, AveragedModel, torch.compile])
def test_wrapped_networks(net, same, name: str, wrap: Callable, tmp_path: Path) -> None:
    torch.save(wrap(net).state_dict(), tmp_path / "net")
    loaded = same(tmp_path / "net", net, arch=f"{MODULE}:{name}")
    assert not any(isinstance(part, LazyModuleMixin) for part in loaded.module.modules())


def test_a_part_in_parallel(net, same, tmp_path: Path) -> None:
    state = {n.replace("conv2.", "conv2.module."): t for n, t in net.state_dict().items()}
    torch.save(state, tmp_path / "net")
    for name in UNDERSTOOD:
        same(tmp_path / "net", net, arch=f"{MODULE}:{name}")


@pytest.mark.parametrize("wrap", ["parallel", "parallel_part", "compiled_part", "averaged"])
def test_trusted_modules_in_wrappers(net, same, wrap: str, tmp_path: Path) -> None:
    """What is around a part of the network is not taken for the network."""
    made = getattr(importlib.import_module(MODULE), wrap)()
    plain = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    own = dict(made.named_parameters()) | dict(made.named_buffers())
    with torch.no_grad():
        for name, tensor in own.items():
            key = name.replace("module.", "").replace("_orig_mod.", "")
            if key in plain:
                tensor.copy_(plain[key])
    if "compiled" in wrap:
        pytest.skip("torch does not pickle compiled modules")
    torch.save(made, tmp_path / "net")
    same(tmp_path / "net", net, arch=None, trust=True)


def test_lazy_layers_get_the_shapes_of_a_shrunk_checkpoint(net, same, tmp_path: Path) -> None:
    keep = torch.tensor([1, 2, 5])
    state = net.state_dict()
    for name in ("conv1.weight", "conv1.bias", *(f"bn1.{x}" for x in ("weight", "bias"))):
        state[name] = state[name][keep]
    for name in ("bn1.running_mean", "bn1.running_var"):
        state[name] = state[name][keep]
    state["conv2.weight"] = state["conv2.weight"][:, keep]
    torch.save(state, tmp_path / "net")
    with torch.no_grad():
        net.conv2.weight[:, [0, 3, 4]] = 0
    module = same(tmp_path / "net", net, arch=f"{MODULE}:Lazy").module
    assert (module.conv1.in_channels, module.conv1.out_channels) == (3, 3)
    assert (module.fc.in_features, module.bn1.num_features) == (8, 3)


def test_lazy_layers_that_the_checkpoint_does_not_have(net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net")
    with pytest.raises(UserError, match=r"lazy layers.*more\.weight.*once on an input"):
        load(tmp_path / "net", arch=f"{MODULE}:LazyMore")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Random", "outputs are random"),
        ("Noisy", "outputs are random"),
        ("Two", r"takes 2 inputs \(x, scale\)"),
        ("Flow", r"decides by the values of its input: .*torch\.where"),
    ],
)
def test_networks_that_cannot_be_exported(net, name: str, says: str, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=says) as caught:
        shrink(
            tmp_path / "net.pt",
            tmp_path / "o.onnx",
            arch=f"{MODULE}:{name}",
            input_shape=(1, 3, 9, 9),
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Nothing", "Pair"])
def test_outputs_that_are_none_or_nested(net, name: str, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pt")
    done = shrink(
        tmp_path / "net.pt", tmp_path / "o.onnx", arch=f"{MODULE}:{name}", input_shape=(1, 3, 9, 9)
    )
    assert done.difference.passed


@pytest.mark.parametrize("whole", [True, False])
def test_shards(net, whole: bool, tmp_path: Path) -> None:
    """DeepSpeed's third stage leaves the names; FSDP puts all of a block into one tensor."""
    if whole:
        state = {name: torch.empty(0) for name in net.state_dict()}
        says = r"15 of 15 tensors are empty.*zero_to_fp32"
    else:
        state = {"_fsdp_wrapped_module._flat_param": torch.rand(900)}
        says = "flat parameter of FSDP.*FULL_STATE_DICT"
    torch.save({"module": state, "ds_version": "0.12"}, tmp_path / "net")
    with pytest.raises(UserError, match=says):
        load(tmp_path / "net", arch=f"{MODULE}:Lazy")
