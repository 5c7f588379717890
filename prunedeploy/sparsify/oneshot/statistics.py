"""Relative statistics: BatchNorm's running statistics move by what pruning moved, and no more.

Ordinary recalibration puts the statistics of a thousand images in the place of those of the whole
training, which costs a dense network accuracy. Here every BatchNorm of the sparse network gives
outputs of the mean and variance that the dense one gives *on the same images*: with m, s of its
input in the sparse and M, S in the dense network, and q = s / S,

    running_mean' = running_mean + (m - M q) + running_mean (q - 1)
    running_var'  = running_var q² + eps (q² - 1)

which is the identity where pruning moved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.oneshot.calibrate import NORMS, Inputs, hooked, run

SMALLEST = 1e-6  # standard deviation below which a channel counts as constant
Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def match_statistics(sparse: nn.Module, dense: nn.Module, batches: Sequence[Inputs]) -> int:
    """Correct the running statistics of ``sparse``, in place, towards ``dense``, which it was.

    Both networks are in eval mode and run once over ``batches``. Each layer is corrected on what
    reaches it through the corrected layers before it, batch by batch; the mean over the batches
    stays.

    Returns:
        How many layers were corrected.

    Example:
        >>> import copy, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
        >>> same = copy.deepcopy(net)
        >>> match_statistics(same, net, [torch.randn(8, 3)])
        1
        >>> bool((same[1].running_mean == net[1].running_mean).all())
        True
    """
    originals = {name: each for name, each in dense.named_modules() if _has_statistics(each)}
    seen: dict[str, Pair] = {}
    corrections = {
        name: _Correction(name, sparse.get_submodule(name), seen) for name in originals
    }
    watching = [
        each.register_forward_pre_hook(_watch(name, seen)) for name, each in originals.items()
    ]
    correcting = [each.norm.register_forward_pre_hook(each) for each in corrections.values()]
    with hooked(watching + correcting):
        for inputs in batches:
            run(dense, inputs)
            run(sparse, inputs)
    for each in corrections.values():
        each.settle()
    return len(corrections)


def _has_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, NORMS) and layer.running_var is not None


def _moments(x: Tensor) -> Pair:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return mean.double(), variance.double().sqrt()


def _watch(name: str, seen: dict[str, Pair]) -> object:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = _moments(inputs[0])

    return hook


class _Correction:
    """A forward pre-hook of a BatchNorm of the sparse network."""

    def __init__(self, name: str, norm: nn.Module, dense: dict[str, Pair]) -> None:
        assert isinstance(norm, NORMS)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.name, self.norm, self.dense = name, norm, dense
        self.mean, self.var = norm.running_mean.double(), norm.running_var.double()
        self.total: Pair = (torch.zeros_like(self.mean), torch.zeros_like(self.var))
        self.count = 0

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, deviation = _moments(inputs[0])
        before, scale = self.dense[self.name]
        constant = (scale < SMALLEST) | (deviation < SMALLEST)
        q = torch.where(constant, 1.0, deviation / scale.clamp_min(SMALLEST))
        moved = (mean - before * q) + self.mean * (q - 1)
        widened = (self.var + self.norm.eps) * (q * q - 1)
        samples = len(inputs[0])
        self.total = (self.total[0] + samples * moved, self.total[1] + samples * widened)
        self.count += samples
        self._set(moved, widened)

    def settle(self) -> None:
        """Leave the mean correction of all batches in place."""
        if self.count:
            self._set(self.total[0] / self.count, self.total[1] / self.count)

    def _set(self, moved: Tensor, widened: Tensor) -> None:
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        mean.copy_(self.mean + moved)
        var.copy_((self.var + widened).clamp_min(0))
