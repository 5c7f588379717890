from __future__ import annotations

import pytest
import torch
from torch import nn

from prunedeploy.core.errors import UserError
from prunedeploy.models import fit


@pytest.mark.parametrize(
    ("layer", "weight", "reads"),
    [
        (nn.Conv2d(8, 16, 3), (5, 3, 3, 3), 3),
        (nn.Conv1d(8, 16, 3), (5, 3, 3), 3),
        (nn.ConvTranspose2d(8, 16, 2), (3, 5, 2, 2), 3),
        (nn.Conv2d(8, 8, 3, groups=8), (5, 1, 3, 3), 5),  # depthwise: groups follow
        (nn.Conv2d(8, 16, 3, groups=8), (10, 1, 3, 3), 5),  # depthwise with multiplier 2
        (nn.Conv2d(8, 16, 3, groups=4), (12, 1, 3, 3), 4),  # each group narrower
        (nn.Conv2d(8, 16, 3, groups=4), (12, 2, 3, 3), 6),  # one whole group gone
        (nn.Conv2d(8, 16, 3, bias=False), (5, 8, 3, 3), 8),
        (nn.BatchNorm2d(8), (5,), 5),
        (nn.BatchNorm1d(8), (5,), 5),
        (nn.InstanceNorm2d(8, affine=True), (5,), 5),
        (nn.GroupNorm(2, 8), (4,), 4),
        (nn.PReLU(8), (5,), 5),
    ],
    ids=str,
)
def test_channel_layers_take_the_shape_and_run(
    layer: nn.Module, weight: tuple[int, ...], reads: int
) -> None:
    module = nn.Sequential(layer)
    fit(module, {"0.weight": weight})
    assert layer.weight.shape == weight
    spatial = (6,) * (1 if isinstance(layer, nn.Conv1d) else 2)
    if isinstance(layer, nn.BatchNorm1d):
        spatial = ()
    module.eval()(torch.rand(2, reads, *spatial))
    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    module.load_state_dict(state)


def test_linear_and_layer_norm_take_features() -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))
    fit(module, {"0.weight": (3, 6), "1.weight": (3,)})
    assert module(torch.rand(2, 6)).shape == (2, 3)


def test_batch_norm_without_parameters_follows_its_statistics() -> None:
    module = nn.Sequential(nn.BatchNorm2d(8, affine=False))
    fit(module, {"0.running_mean": (5,), "0.running_var": (5,)})
    assert module.eval()(torch.rand(2, 5, 4, 4)).shape == (2, 5, 4, 4)


def test_a_bare_layer_has_no_prefix() -> None:
    layer = nn.Linear(8, 4)
    fit(layer, {"weight": (2, 3), "bias": (2,)})
    assert (layer.in_features, layer.out_features) == (3, 2)


def test_layers_that_already_fit_keep_their_weights() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    before = [*module.parameters()]
    fit(module, {"0.weight": (8, 3, 3, 3), "1.weight": (8,), "unknown.weight": (1,)})
    assert all(old is new for old, new in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("layer", "weight", "message"),
    [
        (nn.Conv2d(8, 8, 3), (8, 8, 5, 5), "kernel 5x5 in the checkpoint and 3x3"),
        (nn.Conv2d(8, 8, 1), (8, 8), r"shape \(8, 8\) in the checkpoint"),
        (nn.Linear(8, 8), (8, 8, 1, 1), r"shape \(8, 8, 1, 1\) in the checkpoint"),
        (nn.Conv2d(8, 16, 3, groups=4), (10, 1, 3, 3), "cannot be split into the groups"),
    ],
)
def test_shapes_a_layer_cannot_have_name_the_layer(
    layer: nn.Module, weight: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=f"^stem.weight .*{message}"):
        fit(nn.ModuleDict({"stem": layer}), {"stem.weight": weight})
