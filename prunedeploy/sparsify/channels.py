"""Coupled channels as units: found by the analysis by which ``shrink`` removes them.

A channel is all rows, columns, biases and normalisation scales that one feature of the network
has. All of them are masked, so that a masked channel is what ``shrink`` removes: in a network with
option-A shortcuts the 16 channels of the first stage go through all three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.graph.preparation import prepare
from prunedeploy.passes.analysis.coupling import couple
from prunedeploy.shrinking.export import to_model
from prunedeploy.sparsify.units import LAYERS, Group, Scope, Slices, Units
from prunedeploy.to_torch import origins

Position = tuple[str, int, int]  # parameter, axis, index


def channels(module: nn.Module, input_shape: Sequence[int], scope: Scope | None = None) -> Units:
    """One unit a coupled channel; channels that lie in the same axes are one group.

    Args:
        module: is left as it is, in either mode.
        input_shape: of one batch, for example (1, 3, 32, 32).
        scope: leaves out every channel that a layer outside of it writes; by default none. The
            inputs and outputs of the network are never units.

    Raises:
        UserError: the module cannot be exported, or has no channel that could go.

    Example:
        >>> from prunedeploy.models import by_name
        >>> units = channels(by_name("resnet20").factory(), (1, 3, 32, 32))
        >>> units.count, len(units.groups), len(units.groups[0].members)
        (400, 12, 40)
    """
    positions = _positions(module, input_shape)
    if scope is not None:
        positions = [each for each in positions if _inside(each, module, scope)]
    by_axes: dict[tuple[tuple[str, int], ...], list[list[Position]]] = defaultdict(list)
    for each in positions:
        by_axes[tuple(sorted({(key, axis) for key, axis, _ in each}))].append(each)
    parameters = dict(module.named_parameters())
    groups = [_group(axes, units, parameters) for axes, units in by_axes.items()]
    if not groups:
        raise UserError("no channel of the network could be removed: take weights as units")
    order = {name: at for at, name in enumerate(parameters)}
    groups.sort(key=lambda group: order[group.members[0].parameter])
    names = [group.name for group in groups]
    for at, group in enumerate(groups):  # parts of one layer's outputs may go different ways
        if names.count(group.name) > 1:
            number = names[:at].count(group.name) + 1
            groups[at] = Group(f"{group.name}#{number}", group.count, group.members)
    return Units(tuple(groups))


def _positions(module: nn.Module, input_shape: Sequence[int]) -> list[list[Position]]:
    """Of every channel that may go, the positions in parameters where it lies."""
    copied = _with_random_weights(module)
    model = prepare(to_model(copied, input_shape, optimize=False))
    origins.simplify(model)
    parameters = dict(copied.named_parameters())
    state = {
        **dict(copied.named_parameters(remove_duplicate=False)),
        **dict(copied.named_buffers(remove_duplicate=False)),
    }
    traced = origins.trace(model.graph, state)
    axes = couple(model.graph, equal_groups=True)
    by_root: dict[int, list[Position]] = defaultdict(list)
    for value, axis, roots in axes.items():
        origin = traced.get(str(value.name)) if value.is_initializer() else None
        if origin is not None and origin.key in parameters:
            for index, root in enumerate(roots.tolist()):
                by_root[root].append((origin.key, origin.axis(axis), index))
    return [sorted(each) for root, each in by_root.items() if root not in axes.pinned]


def _with_random_weights(module: nn.Module) -> nn.Module:
    """A copy whose parameters all differ, so that the export shows which is which."""
    copied = deepcopy(module).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*copied.parameters(), *copied.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return copied


def _inside(positions: list[Position], module: nn.Module, scope: Scope) -> bool:
    """Whether all layers that write the channel are in ``scope``."""
    for key, axis, _ in positions:
        name = key.rpartition(".")[0]
        layer = module.get_submodule(name)
        writes = axis == 0 and key.endswith("weight") and isinstance(layer, LAYERS)
        if writes and not scope(name, layer):
            return False
    return True


def _group(
    axes: tuple[tuple[str, int], ...],
    units: list[list[Position]],
    parameters: dict[str, nn.Parameter],
) -> Group:
    """The units that lie in ``axes``, in the order of the first one's indices."""
    order = {name: at for at, name in enumerate(parameters)}
    first = min(axes, key=lambda axis: (order[axis[0]], axis[1]))
    units.sort(key=lambda unit: min(index for key, axis, index in unit if (key, axis) == first))
    members = []
    for key, axis in sorted(axes, key=lambda axis: (order[axis[0]], axis[1])):
        shape = tuple(parameters[key].shape)
        unit_of: Tensor = torch.full((shape[axis],), -1)
        for number, unit in enumerate(units):
            unit_of[[index for name, at, index in unit if (name, at) == (key, axis)]] = number
        members.append(Slices(key, shape, axis, unit_of))
    return Group(first[0], len(units), tuple(members))
