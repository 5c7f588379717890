"""One shot on small networks: counts, budgets, patterns, transformers, channels."""

from __future__ import annotations

import pytest
import torch
from sparse_nets import Small, stripes
from torch import Tensor, nn

from prunedeploy import OneShotOptions, UserError
from prunedeploy.sparsify.oneshot.layers import density, flops, layers_of
from prunedeploy.sparsify.oneshot.one_shot import one_shot


class Encoder(nn.Module):
    """A transformer block on tokens of pixels: linear layers with biases, no BatchNorm."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [N, 1, 8, 8]."""
        x = self.embed(x[:, 0])
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.mT / 4).softmax(-1) @ v)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


def images() -> list[Tensor]:
    data = stripes()
    return [data.batch(torch.arange(128)), data.batch(torch.arange(128, 256))]


def test_macs_of_every_layer_by_hand() -> None:
    layers = layers_of(Small().eval(), torch.zeros(2, 1, 8, 8))
    assert [layer.macs for layer in layers] == [72 * 64, 576 * 64, 576 * 64, 1152 * 16, 1024]
    assert [layer.inner for layer in layers] == [False, True, True, True, False]
    half = {"conv1.weight": torch.rand(8, 8, 3, 3) < 0}
    total = 72 + 576 * 2 + 1152 + 1024
    assert density(layers, half) == (total - 576) / total
    macs = sum(layer.macs for layer in layers)
    assert flops(layers, half) == (macs - 576 * 64) / macs


@pytest.mark.parametrize("budget", ["global", "uniform", "erk"])
def test_budgets_keep_the_share_that_is_asked_for(budget: str) -> None:
    module = Small()
    done = one_shot(module, images(), OneShotOptions(density=0.25, budget=budget))
    assert sum(each.kept for each in done.layers) == round(0.25 * (576 * 2 + 1152))
    for each in done.layers:
        weight = done.module.get_parameter(each.name)
        assert int(weight.count_nonzero()) == each.kept
        assert budget != "uniform" or each.kept == each.weights / 4
    assert all(bool(weight.all()) for weight in (module.conv1.weight, done.module.stem.weight))
    assert done.samples == 256


@pytest.mark.parametrize("method", ["magnitude", "wanda", "obs"])
def test_a_share_of_the_multiply_accumulates(method: str) -> None:
    done = one_shot(Small(), images(), OneShotOptions(flops=0.5, method=method))
    assert 0.49 < done.flops <= 0.5


def test_nothing_moves_where_all_stays() -> None:
    module = Small().eval()
    done = one_shot(module, images(), OneShotOptions(density=1.0))
    after = done.module.state_dict()
    assert all(bool((after[name] == x).all()) for name, x in module.state_dict().items())
    assert done.agreement == 1.0


def test_layers_that_read_zeros_or_a_constant() -> None:
    module = Small().eval()
    with torch.no_grad():
        module.bn1.weight.zero_()  # conv2 reads zeros, or a constant
        for bias in (0.0, 1.0):
            module.bn1.bias.fill_(bias)
            done = one_shot(module, images(), OneShotOptions(density=0.5))
            assert all(bool(each.isfinite().all()) for each in done.module.parameters())


def test_patterns() -> None:
    runs = {
        units: one_shot(Small(), images(), OneShotOptions(density=0.5, units=units))
        for units in ("blocks", "1x4", "2:4")
    }
    weights = {units: done.module.conv3.weight.detach() != 0 for units, done in runs.items()}
    blocks = weights["blocks"].reshape(2, 8, 72)
    assert bool((blocks == blocks[:, :1]).all())
    quads = weights["1x4"].reshape(16, 18, 4)
    assert bool((quads == quads[:, :, :1]).all())
    fours = weights["2:4"].reshape(16, 2, 4, 9)
    assert bool((fours.sum(2) == 2).all())
    with pytest.raises(UserError, match=r"--density 0\.5"):
        one_shot(Small(), images(), OneShotOptions(density=0.3, units="2:4"))


def test_refit_and_statistics_keep_outputs_nearer_than_magnitudes_alone() -> None:
    module = Small().eval()
    data = torch.cat(images())
    done = one_shot(module, images(), OneShotOptions(density=0.3))
    cut = Small().eval()
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3"):
            weight = cut.get_submodule(name).weight
            threshold = weight.abs().flatten().quantile(0.7)
            weight[weight.abs() < threshold] = 0
        near = (done.module(data) - module(data)).square().mean()
        far = (cut(data) - module(data)).square().mean()
    assert near < 0.3 * far


def test_a_transformer() -> None:
    module = Encoder().eval()
    done = one_shot(module, images(), OneShotOptions(density=0.5))
    assert {each.name for each in done.layers} == {
        *("qkv.weight", "out.weight", "up.weight", "down.weight"),
    }
    data = torch.cat(images())
    with torch.no_grad():
        wanted, found = module(data), done.module(data)
    assert float((found - wanted).square().mean() / wanted.var()) < 0.05
    torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=0.05, atol=0.02)


def test_channels_are_masked_in_all_places() -> None:
    done = one_shot(Small(), images(), OneShotOptions(density=0.5, units="channels"))
    stream = done.masks["bn2.weight"]  # of the residual: the stem, conv2, the inputs of two layers
    inner = done.masks["bn1.bias"]
    assert bool((done.masks["conv1.weight"] == (inner[:, None] & stream)[:, :, None, None]).all())
    assert bool((done.masks["stem.weight"] == stream[:, None, None, None]).all())
    kept = sum(int(done.masks[f"{name}.weight"].sum()) for name in ("norm", "bn1", "bn3"))
    assert kept == 16  # of 8 + 8 + 16
    for name, mask in done.masks.items():
        assert not done.module.get_parameter(name)[~mask].any()
    assert not done.module.bn1.bias[~inner].any()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "one of --density, --flops and --speedup"),
        ({"density": 0.5, "flops": 0.5}, "one of"),
        ({"density": 1.5}, "makes no sense"),
        ({"speedup": -1.0}, "makes no sense"),
        ({"density": 0.5, "method": "magic"}, "magnitude, wanda, obs"),
        ({"density": 0.5, "budget": "magic"}, "global, uniform, erk, latency"),
        ({"density": 0.5, "units": "magic"}, "scattered"),
        ({"density": 0.5, "budget": "latency"}, "--speedup"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        OneShotOptions(**options)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="does not take inputs of 4 x 3 x 8 x 8"):
        one_shot(Small(), [torch.zeros(4, 3, 8, 8)], OneShotOptions(density=0.5))
    with pytest.raises(UserError, match="no inputs"):
        one_shot(Small(), [], OneShotOptions(density=0.5))
    with pytest.raises(UserError, match="labels"):
        one_shot(Small(), images(), OneShotOptions(density=0.5, finetune=1))
    with pytest.raises(UserError, match="no convolution or linear layer"):
        one_shot(nn.Sequential(nn.ReLU()), images(), OneShotOptions(density=0.5))
