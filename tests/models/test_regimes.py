"""The ground truth is itself checked: against slicing by hand, and against figures by hand."""

from __future__ import annotations

import pytest
import torch
from regimes import REGIMES, Structure, apply, describe
from torch import nn

from prunedeploy.models import Recipe, by_name

FAMILIES = (
    *("resnet18", "resnet50_cifar", "vgg16_bn_cifar", "vgg11", "mobilenet_v1", "mobilenet_v2"),
    *("densenet121", "squeezenet1_0", "wide_resnet28_10", "wide_resnet32_2", "resnet20"),
)
FRACTION, SEED = 0.3, 5


def network_of(recipe: Recipe, shapes) -> nn.Module:
    network = recipe.build(shapes)
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


def narrow_network(name: str, narrowed) -> nn.Module:
    recipe = by_name(name)
    return network_of(recipe, narrowed(recipe, 4 if name in ("resnet20", "densenet121") else 8))


def dead_in(structure: Structure, regime: str) -> torch.Tensor:
    """Which numbers are dead, read back from the weights."""
    dead = torch.ones(structure.total, dtype=torch.bool)
    for layer in structure.layers:
        weight = (
            layer.module.weight.flatten(2)
            if layer.module.weight.dim() > 2
            else layer.module.weight[..., None]
        )
        if regime != "columns":
            dead[layer.writes] &= (weight == 0).all(2).all(1)
        elif not layer.depthwise:
            alive = layer.reads[(weight != 0).any(2).any(0)]
            dead[alive] = False
    ends = structure.layers[0].reads if regime != "columns" else structure.layers[-1].writes
    dead[ends] = False
    return dead


def image(name: str) -> torch.Tensor:
    side = min(by_name(name).input_shape[1], 64)
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


SLICED = [
    # ResNet-20 is left out: its shortcuts cannot pad unevenly, so torch cannot run the slices.
    *((name, regime) for name in FAMILIES[:-1] for regime in ("clean", "columns")),
    # Where a depthwise convolution or a BatchNorm turns zeros into constants, slicing is not all.
    *((name, "independent") for name in ("resnet18", "vgg16_bn_cifar", "squeezenet1_0")),
]


@pytest.mark.parametrize(("name", "regime"), SLICED)
def test_slicing_the_dead_away_changes_nothing_and_leaves_the_count(
    name: str, regime: str, narrowed
) -> None:
    network = narrow_network(name, narrowed)
    count = apply(network, name, regime, 0.6 if regime == "independent" else FRACTION, SEED)
    structure = describe(network)
    live = ~dead_in(structure, regime)
    assert not live.all()
    state = dict(network.state_dict())

    def keep_norm(norm: nn.BatchNorm2d, rows: torch.Tensor) -> None:
        prefix = next(key for key, module in network.named_modules() if module is norm)
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{prefix}.{key}"] = state[f"{prefix}.{key}"][rows]

    parameters = 0
    for layer in structure.layers:
        rows = live[layer.writes]
        weight = state[f"{layer.name}.weight"][rows]
        weight = weight if layer.depthwise else weight[:, live[layer.reads]]
        state[f"{layer.name}.weight"] = weight
        parameters += weight.numel()
        if layer.module.bias is not None:
            state[f"{layer.name}.bias"] = state[f"{layer.name}.bias"][rows]
        if layer.norm is not None:
            keep_norm(layer.norm, rows)
        if layer.norm is not None or layer.module.bias is not None:
            parameters += int(rows.sum())
    for norm, ids in structure.free_norms:
        keep_norm(norm, live[ids])
        parameters += 2 * int(live[ids].sum())
    assert parameters == count

    small = by_name(name).build({key: tuple(value.shape) for key, value in state.items()})
    small.load_state_dict(state, assign=True)
    sample = image(name).double()
    with torch.inference_mode():
        expected, found = network.double()(sample), small.double()(sample)
    assert (expected - found).abs().max() <= 1e-12 * expected.abs().max()
    assert expected.std() > 1e-3  # the comparison is of something


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("regime", REGIMES)
def test_outputs_are_in_scale_and_the_count_shrinks(name: str, regime: str, narrowed) -> None:
    network = narrow_network(name, narrowed)
    count = apply(network, name, regime, FRACTION, SEED)
    structure = describe(network)
    assert count == -1 or count < structure.parameters(
        torch.zeros(structure.total, dtype=torch.bool)
    )
    with torch.inference_mode():
        outputs = network(image(name))
    assert outputs.isfinite().all()
    assert 1e-2 < outputs.std() < 1e3


@pytest.mark.parametrize("regime", REGIMES)
def test_a_seed_gives_the_same_network_again(regime: str, narrowed) -> None:
    networks = [narrow_network("mobilenet_v2", narrowed) for _ in range(2)]
    first, second = (apply(network, "mobilenet_v2", regime, FRACTION, SEED) for network in networks)
    assert first == second
    pairs = zip(*(network.parameters() for network in networks), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn_cifar", "resnet20"])
def test_beta_makes_constants_that_reach_the_readers(name: str, narrowed) -> None:
    network = narrow_network(name, narrowed)
    apply(network, name, "beta", FRACTION, SEED)
    structure = describe(network)
    dead = dead_in(structure, "beta")
    seen: dict[nn.Module, torch.Tensor] = {}

    def remember(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen[layer] = inputs[0].transpose(0, 1).flatten(1)  # (channels, samples and pixels)

    for layer in structure.layers:
        layer.module.register_forward_pre_hook(remember)
    with torch.inference_mode():
        network(image(name))
    positive = 0
    for layer in structure.layers:
        values = seen[layer.module][dead[layer.reads]]
        assert torch.equal(values.amax(1), values.amin(1))
        positive += int((values > 0).any(1).sum())
    assert positive


def test_counts_by_hand() -> None:
    """Sums written out from the papers' tables, at full width with 30 % gone."""

    def left(width: int) -> int:
        return width - int(0.3 * width)

    # VGG-16 on CIFAR: thirteen 3x3 convolutions with biases, one linear layer.
    widths = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    pairs = zip([3, *map(left, widths)], map(left, widths), strict=False)
    vgg = sum(9 * a * b + b for a, b in pairs) + 10 * (left(512) + 1)
    recipe = by_name("vgg16_bn_cifar")
    for regime in ("clean", "columns", "independent"):
        network = network_of(recipe, recipe.layout())
        assert apply(network, recipe.name, regime, 0.3, 0) == vgg

    # ResNet-18: a 7x7 stem; in each stage four 3x3, the first of them from the stage before.
    a, b, c, d = map(left, (64, 128, 256, 512))
    resnet = (3 * 49 + 1) * a + 4 * (9 * a * a + a)
    for before, here in ((a, b), (b, c), (c, d)):
        resnet += 9 * before * here + here + before * here + here + 3 * (9 * here * here + here)
    resnet += 1000 * (d + 1)
    recipe = by_name("resnet18")
    for regime in ("clean", "columns"):
        network = network_of(recipe, recipe.layout())
        assert apply(network, recipe.name, regime, 0.3, 0) == resnet
