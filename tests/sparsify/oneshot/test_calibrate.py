"""The moments of what layers read, against windows that are cut out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.sparsify.oneshot.calibrate import calibrate


def windows(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """[groups, N * positions, columns] by torch's own unfold, a group at a time."""
    parts = x.chunk(layer.groups, 1)
    cut = [
        F.unfold(each, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        for each in parts
    ]
    return torch.stack([each.permute(0, 2, 1).flatten(0, 1) for each in cut]).double()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False),
        nn.Conv2d(4, 8, (1, 3), dilation=(1, 2), groups=4),
        nn.Conv2d(4, 6, 1),
    ],
)
def test_gram_matrices_of_every_group(layer: nn.Conv2d) -> None:
    x = torch.randn(5, 4, 8, 7)
    moments = calibrate(layer.eval(), [x[:2], x[2:]], positions=1000)["weight"]
    read = windows(layer, x)
    assert moments.rows == read.shape[1]
    direct = read.transpose(1, 2) @ read / read.shape[1]
    torch.testing.assert_close(moments.gram, direct, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.mean, read.mean(1), rtol=1e-5, atol=1e-6)
    assert moments.shift_free is (layer.bias is not None)


def test_linear_layers_over_tokens_and_drawn_positions() -> None:
    x = torch.randn(3, 7, 5)
    moments = calibrate(nn.Linear(5, 2), [x])["weight"]
    read = x.reshape(-1, 5).double()
    torch.testing.assert_close(moments.gram[0], read.T @ read / 21, rtol=1e-5, atol=1e-6)
    drawn = calibrate(nn.Linear(5, 2), [x], positions=4)["weight"]
    assert drawn.rows == 12
    again = calibrate(nn.Linear(5, 2), [x], positions=4)["weight"]
    assert bool((drawn.gram == again.gram).all())


def test_above_the_memory_the_largest_matrices_are_diagonal() -> None:
    network = nn.Sequential(nn.Linear(4, 40), nn.Linear(40, 2)).eval()
    x = torch.randn(9, 4)
    whole = calibrate(network, [x])
    capped = calibrate(network, [x], memory=8 * 16 + 100)
    assert not capped["0.weight"].diagonal
    assert capped["1.weight"].diagonal
    torch.testing.assert_close(capped["1.weight"].energy, whole["1.weight"].energy)


def test_which_layers_a_batchnorm_reads() -> None:
    network = nn.Sequential(
        *(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
        nn.Conv2d(3, 2, 1, bias=False),
    ).eval()
    moments = calibrate(network, [torch.randn(4, 2, 5, 5)])
    assert [moments[f"{n}.weight"].normalised for n in (0, 3)] == [True, False]
    assert not moments["3.weight"].shift_free
