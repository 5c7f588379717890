"""Of all that a channel is, the parts that a score looks at."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunedeploy.sparsify.units import LAYERS, Group, Member, Slices


def writers(module: nn.Module, group: Group) -> Group:
    """The rows and biases of the layers that write the channels; other units as they are."""
    return _only(group, [each for each in group.members if _writes(module, each)])


def scales(module: nn.Module, group: Group) -> Group | None:
    """The scales and shifts of the BatchNorms on the channels; None where there is none."""
    norms = [each for each in group.members if isinstance(_owner(module, each), _BatchNorm)]
    return _only(group, norms) if norms else None


def gates(module: nn.Module, group: Group) -> Group:
    """Where a factor on the channels would act: behind the BatchNorm, or where they are written."""
    return scales(module, group) or writers(module, group)


def named(group: Group, key: str) -> Group:
    """The members that are called ``key`` in their layers: "weight", "bias"."""
    return _only(group, [each for each in group.members if each.parameter.endswith(key)])


def _only(group: Group, members: list[Member]) -> Group:
    return replace(group, members=tuple(members)) if members else group


def _writes(module: nn.Module, member: Member) -> bool:
    layer = _owner(module, member)
    if not isinstance(member, Slices):
        return True
    return isinstance(layer, LAYERS) and member.axis == 0


def _owner(module: nn.Module, member: Member) -> nn.Module:
    return module.get_submodule(member.parameter.rpartition(".")[0])
