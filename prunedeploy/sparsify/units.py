"""Units: what is kept or removed together, and which elements of which parameters each one holds.

Scores and choices are per unit, masks are per parameter::

    units = weights(module)                              # one unit a weight
    scores = {group.name: group.gather(values) for group in units}
    keep = budget(scores, units, density)                # {group: bool [count]}
    masks = masks_of(units, keep)                        # {parameter: bool, of its shape}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Scores = dict[str, Tensor]  # group -> float [count], larger is more worth keeping
Keep = dict[str, Tensor]  # group -> bool [count]
Masks = dict[str, Tensor]  # parameter -> bool, of its shape, True is kept
Scope = Callable[[str, nn.Module], bool]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Member(Protocol):
    """How the units of a group lie in one parameter."""

    @property
    def parameter(self) -> str:
        """The parameter's name in the module."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""

    def gather(self, values: Tensor, count: int) -> Tensor:
        """Sums [count] over the elements of each unit; ``values`` has the parameter's shape."""

    def expand(self, per_unit: Tensor) -> Tensor:
        """The entry of ``per_unit`` [count] at each element, or 1/True where no unit is."""


@dataclass(frozen=True)
class Elements:
    """Unit u is element u of the flat parameter."""

    parameter: str
    shape: tuple[int, ...]

    def gather(self, values: Tensor, count: int) -> Tensor:
        """``values``, flat."""
        return values.reshape(count)

    def expand(self, per_unit: Tensor) -> Tensor:
        """``per_unit`` in the parameter's shape."""
        return per_unit.reshape(self.shape)


@dataclass(frozen=True)
class Slices:
    """Unit u is the indices of one axis where ``unit_of`` [length of the axis] is u.

    An index that no unit holds has -1. One unit may hold several: a channel that is flattened is
    H*W features.
    """

    parameter: str
    shape: tuple[int, ...]
    axis: int
    unit_of: Tensor

    def gather(self, values: Tensor, count: int) -> Tensor:
        """Sums over the other axes, then over the indices of each unit."""
        per_index = values.movedim(self.axis, 0).flatten(1).sum(1) if values.dim() > 1 else values
        held = self.unit_of >= 0
        sums = torch.zeros(count, dtype=values.dtype, device=values.device)
        return sums.index_add(0, self.unit_of[held], per_index[held])

    def expand(self, per_unit: Tensor) -> Tensor:
        """One entry an index, the same along all other axes."""
        along = torch.where(
            self.unit_of >= 0, per_unit[self.unit_of.clamp_min(0)], per_unit.new_ones(())
        )
        shape = [1] * len(self.shape)
        shape[self.axis] = len(along)
        return along.reshape(shape).expand(self.shape)


@dataclass(frozen=True)
class Blocks:
    """Unit u is a block of ``rows`` x ``columns`` of the weight as a matrix [outputs, rest].

    Blocks at the lower and right border are smaller where the sizes do not divide.
    """

    parameter: str
    shape: tuple[int, ...]
    rows: int
    columns: int

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks down and across."""
        height, width = self.shape[0], math.prod(self.shape[1:])
        return -(-height // self.rows), -(-width // self.columns)

    def gather(self, values: Tensor, count: int) -> Tensor:
        """Sums over each block."""
        matrix = values.reshape(self.shape[0], -1)
        down, across = self.grid
        tall = torch.zeros(
            down * self.rows, across * self.columns, dtype=values.dtype, device=values.device
        )
        tall[: matrix.shape[0], : matrix.shape[1]] = matrix
        return tall.reshape(down, self.rows, across, self.columns).sum((1, 3)).reshape(count)

    def expand(self, per_unit: Tensor) -> Tensor:
        """The entry of each block at its elements."""
        tall = per_unit.reshape(self.grid).repeat_interleave(self.rows, 0)
        tall = tall.repeat_interleave(self.columns, 1)
        return tall[: self.shape[0], : math.prod(self.shape[1:])].reshape(self.shape)


@dataclass(frozen=True)
class Group:
    """``count`` units that are ranked together, and the parameters that they lie in."""

    name: str
    count: int
    members: tuple[Member, ...]

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sums [count] over all elements of each unit, of values by parameter."""
        parts = [each.gather(values[each.parameter], self.count) for each in self.members]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class Units:
    """The groups of a module; the masks of two groups may meet in one parameter."""

    groups: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @property
    def count(self) -> int:
        """Units of all groups."""
        return sum(group.count for group in self.groups)


Batches = Sequence[tuple[Tensor, Tensor]]  # normalised inputs and labels
Score = Callable[[nn.Module, Units, Batches], Scores]


def masks_of(units: Units, keep: Mapping[str, Tensor]) -> Masks:
    """The masks of the parameters: an element is kept where every unit that holds it is."""
    masks: Masks = {}
    for group in units:
        for member in group.members:
            mask = member.expand(keep[group.name])
            name = member.parameter
            masks[name] = masks[name] & mask if name in masks else mask
    return {name: mask.contiguous() for name, mask in masks.items()}


def inner_layers(module: nn.Module) -> Scope:
    """All convolutions and linear layers but the first and the last, in the order of the module."""
    layers = [name for name, each in module.named_modules() if isinstance(each, LAYERS)]
    inner = set(layers[1:-1] if len(layers) > 2 else layers)
    return lambda name, _: name in inner


def layer_weights(module: nn.Module, scope: Scope | None = None) -> list[tuple[str, Tensor]]:
    """Names and weights of the layers in ``scope`` (by default all), each tensor once."""
    by_id: dict[int, tuple[str, Tensor]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS) and (scope is None or scope(name, layer)):
            key = f"{name}.weight" if name else "weight"
            by_id.setdefault(id(layer.weight), (key, layer.weight))
    return list(by_id.values())


def weights(module: nn.Module, scope: Scope | None = None) -> Units:
    """One unit a weight, one group a layer; biases and normalisations are left alone.

    ``scope`` says which layers, by default ``inner_layers``.
    """
    groups = []
    for name, tensor in layer_weights(module, scope or inner_layers(module)):
        member = Elements(name, tuple(tensor.shape))
        groups.append(Group(name, tensor.numel(), (member,)))
    return Units(tuple(groups))


def blocks(module: nn.Module, rows: int, columns: int, scope: Scope | None = None) -> Units:
    """One unit a block of the weight matrix [outputs, inputs x window], one group a layer."""
    groups = []
    for name, tensor in layer_weights(module, scope or inner_layers(module)):
        member = Blocks(name, tuple(tensor.shape), rows, columns)
        groups.append(Group(name, math.prod(member.grid), (member,)))
    return Units(tuple(groups))
