"""What a network's layers read on a few images: the second moments that a refit needs.

A layer computes ``y = W x`` at every position of its output, where x [columns] is the window it
reads there. The *moments* of a layer are the mean of x xᵀ and of x over images and positions, one
matrix for each group of a grouped convolution::

    calibration = calibrate(module, batches)
    calibration["layer1.0.conv1.weight"].gram        # float64 [groups, columns, columns]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from prunedeploy.sparsify.units import LAYERS

Inputs = Tensor | Mapping[str, Tensor]  # one positional input, or several by name
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

POSITIONS = 32  # of each image, drawn for each batch
MEMORY = 2 << 30  # bytes of all Gram matrices together


@dataclass(frozen=True)
class Moments:
    """Means over positions of what one layer reads.

    ``gram`` is float64 [groups, columns, columns], or, where memory did not allow it, the
    diagonals [groups, columns]; ``mean`` is float64 [groups, columns]; ``rows`` counts the windows.
    ``biased`` says that the layer has a bias, ``normalised`` that a BatchNorm reads its outputs.
    """

    gram: Tensor
    mean: Tensor
    rows: int
    biased: bool = False
    normalised: bool = False

    @property
    def shift_free(self) -> bool:
        """Whether a constant added to an output channel costs nothing."""
        return self.biased or self.normalised

    @property
    def diagonal(self) -> bool:
        """True where only the diagonal was kept."""
        return self.gram.dim() == 2

    @property
    def energy(self) -> Tensor:
        """The mean of x² [groups, columns]."""
        return self.gram if self.diagonal else self.gram.diagonal(dim1=1, dim2=2)

    def metric(self) -> Tensor:
        """The matrix that the layer's error is measured in: the covariance where shifts are free.

        [groups, columns, columns], a diagonal one where only the diagonal was kept.
        """
        if self.diagonal:
            return torch.diag_embed(self.gram - self.mean**2 if self.shift_free else self.gram)
        if not self.shift_free:
            return self.gram
        return self.gram - self.mean[:, :, None] * self.mean[:, None, :]


Calibration = dict[str, Moments]  # by the name of the layer's weight


def run(module: nn.Module, inputs: Inputs) -> Any:
    """The module's outputs, whatever they are."""
    return module(inputs) if isinstance(inputs, Tensor) else module(**inputs)


def joined(batches: Sequence[Inputs]) -> Inputs:
    """All batches as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat([each for each in batches if isinstance(each, Tensor)])
    named = [each for each in batches if not isinstance(each, Tensor)]
    return {key: torch.cat([each[key] for each in named]) for key in named[0]}


def logits(outputs: Any) -> Tensor:
    """The tensor that a network is judged by: its output, the first one, or the one so named."""
    if isinstance(outputs, Tensor):
        return outputs
    named = getattr(outputs, "logits", None)
    return named if isinstance(named, Tensor) else logits(outputs[0])


def grouped(weight: Tensor, groups: int) -> Tensor:
    """A layer's weight as matrices [groups, outputs / groups, columns]."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def groups_of(layer: nn.Module) -> int:
    """1 for a linear layer."""
    return int(getattr(layer, "groups", 1))


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def calibrate(
    module: nn.Module,
    batches: Sequence[Inputs],
    layers: Sequence[str] | None = None,
    *,
    positions: int = POSITIONS,
    memory: int = MEMORY,
    seed: int = 0,
) -> Calibration:
    """The moments of the layers' inputs, in one pass over ``batches``.

    Args:
        module: in eval mode.
        batches: what the network takes.
        layers: names of weights, as ``"conv1.weight"``; all convolutions and linear layers if None.
        positions: windows a layer and image that are looked at.
        memory: bytes of all matrices; the layers that no longer fit get a diagonal.
        seed: of the positions.

    Example:
        >>> import torch
        >>> moments = calibrate(torch.nn.Linear(3, 2), [torch.eye(3)])
        >>> moments["weight"].gram[0].tolist() == (torch.eye(3) / 3).double().tolist()
        True
    """
    layers_by_name = {
        f"{name}.weight" if name else "weight": each
        for name, each in module.named_modules()
        if isinstance(each, LAYERS)
    }
    wanted = list(layers_by_name) if layers is None else list(layers)
    collectors = _collectors(
        {name: layers_by_name[name] for name in wanted}, positions, memory, seed
    )
    normalised = _Normalised()
    handles = [
        layers_by_name[name].register_forward_hook(collector)
        for name, collector in collectors.items()
    ]
    handles += [each.register_forward_hook(normalised.produced) for each in layers_by_name.values()]
    handles += [
        each.register_forward_pre_hook(normalised.read)
        for each in module.modules()
        if isinstance(each, NORMS)
    ]
    with hooked(handles):
        for inputs in batches:
            run(module, inputs)
            normalised.forget()
    return {
        name: collector.moments(
            _is_biased(layers_by_name[name]), normalised.reads(layers_by_name[name])
        )
        for name, collector in collectors.items()
    }


def _collectors(
    layers: Mapping[str, nn.Module], positions: int, memory: int, seed: int
) -> dict[str, _Collector]:
    """One for each layer; the matrices that are smallest come into the memory first."""
    columns = {name: grouped(_weight(x), groups_of(x)).shape[2] for name, x in layers.items()}
    sizes = {name: 8 * groups_of(x) * columns[name] ** 2 for name, x in layers.items()}
    full: set[str] = set()
    for name in sorted(sizes, key=lambda each: sizes[each]):
        memory -= sizes[name]
        if memory >= 0:
            full.add(name)
    return {
        name: _Collector(groups_of(layer), columns[name], name in full, positions, seed)
        for name, layer in layers.items()
    }


class _Collector:
    """A forward hook that adds up the moments of one layer's inputs."""

    def __init__(self, groups: int, columns: int, full: bool, positions: int, seed: int) -> None:
        shape = (groups, columns, columns) if full else (groups, columns)
        self.gram = torch.zeros(shape, dtype=torch.float64)
        self.mean = torch.zeros(groups, columns, dtype=torch.float64)
        self.rows = 0
        self.positions = positions
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        windows = self._windows(layer, inputs[0], output)  # [groups, rows, columns]
        if self.gram.dim() == 3:
            self.gram += (windows.transpose(1, 2) @ windows).double()
        else:
            self.gram += (windows**2).sum(1, dtype=torch.float64)
        self.mean += windows.sum(1, dtype=torch.float64)
        self.rows += windows.shape[1]

    def moments(self, biased: bool, normalised: bool) -> Moments:
        rows = max(self.rows, 1)
        return Moments(self.gram / rows, self.mean / rows, self.rows, biased, normalised)

    def _windows(self, layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        if isinstance(layer, nn.Linear):
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            return flat[:, self._drawn(flat.shape[1])].reshape(1, -1, x.shape[-1])
        return conv_windows(layer, x, self._drawn(math.prod(output.shape[2:])))

    def _drawn(self, count: int) -> Tensor:
        if count <= self.positions:
            return torch.arange(count)
        return torch.randperm(count, generator=self.generator)[: self.positions]


def conv_windows(layer: Any, x: Tensor, drawn: Tensor) -> Tensor:
    """The windows [groups, N * positions, columns] that a convolution reads.

    ``drawn`` are flat indices into the positions of its output; a column is (channel of the group,
    place in the window), as in the weight.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    dims = x.dim() - 2
    sizes = [
        (x.shape[2 + d] - layer.dilation[d] * (layer.kernel_size[d] - 1) - 1) // layer.stride[d] + 1
        for d in range(dims)
    ]
    index: list[Tensor] = []  # of each dimension, to shape [positions, *kernel]
    for d, at in enumerate(torch.unravel_index(drawn, sizes)):
        taps = torch.arange(layer.kernel_size[d]) * layer.dilation[d]
        shape = [1] * dims
        shape[d] = len(taps)
        index.append((at * layer.stride[d]).reshape(-1, *[1] * dims) + taps.reshape(1, *shape))
    places: tuple[Any, ...] = (slice(None), slice(None), *index)
    windows = x[places]  # [N, C, positions, *kernel]
    n, channels, count = windows.shape[:3]
    windows = windows.reshape(n, layer.groups, channels // layer.groups, count, -1)
    return windows.permute(1, 0, 3, 2, 4).reshape(layer.groups, n * count, -1)


class _Normalised:
    """Which layers' outputs a BatchNorm reads, seen while the network runs."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, nn.Module]] = {}  # the tensor keeps its id taken
        self._read: set[nn.Module] = set()

    def produced(self, layer: nn.Module, _: object, output: Tensor) -> None:
        self._made[id(output)] = (output, layer)

    def read(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in self._made:
            self._read.add(self._made[id(inputs[0])][1])

    def forget(self) -> None:
        self._made.clear()

    def reads(self, layer: nn.Module) -> bool:
        return layer in self._read


def _is_biased(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
