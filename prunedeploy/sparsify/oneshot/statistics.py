"""Relative statistics: BatchNorm's running statistics move by what pruning moved, and no more.

Where no BatchNorm follows, biases do.

Ordinary recalibration puts the statistics of a thousand images in the place of those of the whole
training, which costs a dense network accuracy. Here every BatchNorm of the sparse network gives
outputs of the mean and variance that the dense one gives *on the same images*: with m, s of its
input in the sparse and M, S in the dense network, and q = s / S,

    running_mean' = running_mean + (m - M q) + running_mean (q - 1)
    running_var'  = running_var q² + eps (q² - 1)

which is the identity where pruning moved nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.oneshot.calibrate import NORMS, Calibration, Inputs, hooked, run

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
    corrections = {name: _Correction(name, sparse.get_submodule(name), seen) for name in originals}
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


@torch.no_grad()
def match_biases(
    sparse: nn.Module, dense: nn.Module, batches: Sequence[Inputs], calibration: Calibration
) -> int:
    """Correct the biases of ``sparse``, in place, of layers that no BatchNorm reads.

    The mean of each output channel over the samples and positions of a batch becomes that of
    ``dense``, layer by layer as in ``match_statistics``.

    Returns:
        How many layers were corrected.
    """
    names = [
        name.rpartition(".")[0]
        for name, each in calibration.items()
        if each.biased and not each.normalised and each.rows
    ]
    seen: dict[str, Tensor] = {}
    shifts = [_Shift(name, sparse.get_submodule(name), seen) for name in names]
    watching = [
        dense.get_submodule(name).register_forward_hook(_watch_mean(name, seen)) for name in names
    ]
    correcting = [each.layer.register_forward_hook(each) for each in shifts]
    with hooked(watching + correcting):
        for inputs in batches if names else ():
            run(dense, inputs)
            run(sparse, inputs)
    for each in shifts:
        each.settle()
    return len(names)


def _channel_mean(layer: nn.Module, output: Tensor) -> Tensor:
    last = isinstance(layer, nn.Linear)
    axes = [axis for axis in range(output.dim()) if axis != (output.dim() - 1 if last else 1)]
    return output.mean(axes, dtype=torch.float64)


def _watch_mean(name: str, seen: dict[str, Tensor]) -> Callable[..., None]:
    def hook(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = _channel_mean(layer, output)

    return hook


class _Shift:
    """A forward hook of a layer of the sparse network, which corrects its outputs and its bias."""

    def __init__(self, name: str, layer: nn.Module, dense: dict[str, Tensor]) -> None:
        self.name, self.layer, self.dense = name, layer, dense
        self.total: Tensor | float = 0.0
        self.count = 0

    def __call__(self, layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shift = self.dense[self.name] - _channel_mean(layer, output)
        self.total = self.total + len(output) * shift
        self.count += len(output)
        shape = [1] * output.dim()
        shape[-1 if isinstance(layer, nn.Linear) else 1] = -1
        return output + shift.to(output.dtype).reshape(shape)

    def settle(self) -> None:
        """Add the mean shift of all batches to the bias."""
        bias = self.layer.bias
        if self.count and isinstance(bias, Tensor):
            bias += torch.as_tensor(self.total / self.count, dtype=bias.dtype)


def _has_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, NORMS) and layer.running_var is not None


def _moments(x: Tensor) -> Pair:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return mean.double(), variance.double().sqrt()


def _watch(name: str, seen: dict[str, Pair]) -> Callable[..., None]:
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
