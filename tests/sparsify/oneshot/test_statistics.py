"""Relative statistics: nothing moves in a dense network; what pruning moved comes back."""

from __future__ import annotations

from copy import deepcopy

import torch
from sparse_nets import Small, stripes
from torch import nn

from prunedeploy.models import by_name
from prunedeploy.sparsify.oneshot.calibrate import calibrate
from prunedeploy.sparsify.oneshot.statistics import match_biases, match_statistics


def test_a_dense_network_stays_bit_for_bit() -> None:
    torch.manual_seed(0)
    network = by_name("resnet20").factory().eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer)
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    copied, batches = deepcopy(network), [torch.randn(4, 3, 32, 32) for _ in range(2)]
    assert match_statistics(copied, network, batches) == 19
    after = copied.state_dict()
    assert all(bool((after[name] == x).all()) for name, x in network.state_dict().items())


def test_outputs_of_every_norm_get_their_mean_and_deviation_back() -> None:
    network = Small().eval()
    sparse = deepcopy(network)
    with torch.no_grad():
        sparse.conv1.weight *= 0.5
        sparse.conv3.weight[:, ::2] = 0
    x = stripes().inputs
    match_statistics(sparse, network, [x])
    seen: dict[str, list[torch.Tensor]] = {}
    for each in (network, sparse):
        for name in ("bn1", "bn3"):
            layer = each.get_submodule(name)
            layer.register_forward_hook(lambda _, __, y, n=name: seen.setdefault(n, []).append(y))
        with torch.no_grad():
            each(x)
    for dense, corrected in seen.values():
        axes = (0, 2, 3)
        torch.testing.assert_close(corrected.mean(axes), dense.mean(axes), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(corrected.std(axes), dense.std(axes), rtol=1e-3, atol=1e-4)


def test_biases_keep_the_mean_where_no_norm_follows() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    network.eval()
    x = [torch.randn(50, 6), torch.randn(30, 6)]
    moments = calibrate(network, x)
    same = deepcopy(network)
    assert match_biases(same, network, x, moments) == 3
    assert all(
        bool((same.state_dict()[name] == y).all()) for name, y in network.state_dict().items()
    )
    with torch.no_grad():
        same[2].weight[:, :4] = 0
    match_biases(same, network, x[:1], moments)
    torch.testing.assert_close(same(x[0]).mean(0), network(x[0]).mean(0), rtol=1e-4, atol=1e-5)
