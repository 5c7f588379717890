"""A record of what stays of each parameter, and the slicing of an ordinary module by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.core.text import shortened

VERSION = 1
SHOWN = 3  # names in an error


@dataclass(frozen=True)
class SlicePlan:
    """Which indices of which axes of a module's parameters and buffers stay.

    ``shapes`` has the shape of every parameter and buffer before; ``kept`` the indices that stay,
    by name and axis, where some go; ``groups`` the groups of a convolution where they change;
    ``biases`` the layers that are given a bias, for constants that they have taken over.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    biases: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain containers alone, for ``torch.save`` or JSON."""
        kept = {
            name: {str(axis): list(indices) for axis, indices in axes.items()}
            for name, axes in self.kept.items()
        }
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        groups, biases = dict(self.groups), list(self.biases)
        sizes = {"version": VERSION, "shapes": shapes}
        return sizes | {"kept": kept, "groups": groups, "biases": biases}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SlicePlan:
        """The record from what ``to_dict`` gave, or from a saved file that holds it.

        Raises:
            UserError: it is none.
        """
        data = data.get("plan", data) if isinstance(data, Mapping) else data
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            raise UserError("this is no plan: it takes what prunedeploy shrink --state-dict wrote")
        try:
            plan = cls(
                {_text(name): tuple(map(int, shape)) for name, shape in data["shapes"].items()},
                {
                    name: {int(axis): tuple(map(int, kept)) for axis, kept in axes.items()}
                    for name, axes in data["kept"].items()
                },
                {_text(name): int(count) for name, count in data["groups"].items()},
                tuple(map(_text, data["biases"])),
            )
            plan._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the plan is damaged ({error!r}): write it anew") from None
        return plan

    def _check(self) -> None:
        """Refuse a plan of which an index lies outside of its tensor.

        Raises:
            ValueError: the first that does.
        """
        for name, axes in self.kept.items():
            for axis, indices in axes.items():
                sizes = self.shapes.get(name, ())
                size = sizes[axis] if 0 <= axis < len(sizes) else 0
                if not all(0 <= index < size for index in indices):
                    raise ValueError(f"axis {axis} of {shortened(name)}")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter or buffer once it is sliced."""
        kept = self.kept.get(name, {})
        sizes = enumerate(self.shapes[name])
        return tuple(len(kept[axis]) if axis in kept else size for axis, size in sizes)

    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """The indices of ``tensor`` that stay."""
        for axis, indices in self.kept.get(name, {}).items():
            at = torch.tensor(indices, dtype=torch.int64, device=tensor.device)
            tensor = tensor.index_select(axis, at)
        return tensor


def _text(name: object) -> str:
    """A name, which has to be a text."""
    if not isinstance(name, str):
        raise TypeError(f"a name is of type {type(name).__name__}")
    return name


def apply_plan(module: nn.Module, plan: SlicePlan | Mapping[str, Any] | str | Path) -> nn.Module:
    """Slice ``module`` in place to the shapes of the state_dict that was saved with the plan.

    Parameters and buffers lose the indices that the plan does not keep; the channels, features
    and groups that the layers say of themselves follow. Afterwards
    ``module.load_state_dict(saved["state_dict"])`` brings the values, some of which have taken
    constants over. Parameters become new objects: make the optimizer afterwards.

    Args:
        module: the network that the checkpoint was saved from.
        plan: the file that ``shrink(..., state_dict=...)`` wrote, its contents, or the record.

    Returns:
        ``module``.

    Raises:
        UserError: it is another network, was sliced before, or holds masks.

    Example:
        >>> import prunedeploy, torch
        >>> from prunedeploy import models
        >>> done = prunedeploy.shrink("resnet20.pt", "s.onnx", align=1, state_dict="s.pt")
        >>> network = models.by_name("resnet20").factory()
        >>> state = torch.load("s.pt")["state_dict"]
        >>> prunedeploy.apply_plan(network, "s.pt").load_state_dict(state)
        <All keys matched successfully>
    """
    if isinstance(plan, str | Path):
        plan = SlicePlan.from_dict(_read(Path(plan)))
    elif not isinstance(plan, SlicePlan):
        plan = SlicePlan.from_dict(plan)
    _check(module, plan)
    sliced: dict[int, Any] = {}  # shared parameters stay shared
    for owner, name, key in _tensors(module):
        if name in plan.kept:
            old = getattr(owner, key)
            if id(old) not in sliced:
                sliced[id(old)] = _sliced(old, plan, name)
            setattr(owner, key, sliced[id(old)])
    for name in plan.biases:
        layer = module.get_submodule(name)
        weight = layer.get_parameter("weight")
        key = f"{name}.bias" if name else "bias"
        zeros = weight.new_zeros(plan.shape(key))
        layer.register_parameter("bias", nn.Parameter(zeros, weight.requires_grad))
    for name, layer in module.named_modules():
        if any(f"{name}.{key}" if name else key in plan.kept for key in _own(layer)):
            _set_attributes(layer, name, plan)
    return module


def _sliced(old: Tensor, plan: SlicePlan, name: str) -> Tensor:
    new = plan.slice(name, old.detach()).clone()
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _read(path: Path) -> Mapping[str, Any]:
    try:
        plan = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none makes torch raise anything
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"cannot read the plan {path}: {reason}") from None
    if not isinstance(plan, Mapping):
        raise UserError(f"{path} holds no plan: shrink --state-dict writes one")
    return plan


def _own(layer: nn.Module) -> list[str]:
    return [*layer._parameters, *layer._buffers]


def _tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Every parameter and buffer: its owner, its full name, its name there."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for key in _own(owner):
            if isinstance(getattr(owner, key), Tensor):
                yield owner, f"{prefix}.{key}" if prefix else key, key


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer by name."""
    return {name: tuple(getattr(owner, key).shape) for owner, name, key in _tensors(module)}


def _check(module: nn.Module, plan: SlicePlan) -> None:
    """Refuse a module that the plan was not made for, before anything is changed."""
    shapes = shapes_of(module)
    for name in shapes:
        if name.endswith("_orig") or ".parametrizations." in f".{name}":
            raise UserError(
                f"{name} is reparametrized: make its masks permanent first"
                " (torch.nn.utils.prune.remove, remove_parametrizations)"
            )
    given = {f"{name}.bias" if name else "bias" for name in plan.biases}
    missing = [name for name in plan.shapes if name not in shapes and name not in given]
    if missing:
        inside = all(f"module.{name}" in shapes for name in missing)
        if inside:
            raise UserError("the network is wrapped: apply the plan to its .module")
        shown = ", ".join(missing[:SHOWN])
        raise UserError(f"the plan is for another network: this one has no {shown}")
    names = [name for name in plan.shapes if name in shapes]
    wrong = [name for name in names if shapes[name] != plan.shapes[name]]
    if not wrong and not any(name in shapes for name in given):
        return
    if all(shapes[name] == plan.shape(name) for name in names):
        raise UserError("the plan was applied to this network before")
    name = (wrong or sorted(given))[0]
    raise UserError(
        f"the plan is for another network: {name} has shape {shapes[name]},"
        f" {plan.shapes[name]} was expected"
    )


def _set_attributes(layer: nn.Module, name: str, plan: SlicePlan) -> None:
    """The attributes of a layer that state its shape; see torch.nn."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        weight = getattr(layer, "running_mean", None)
        if not isinstance(weight, Tensor):
            return
    shape = tuple(weight.shape)
    sizes: dict[str, Any] = {}
    if hasattr(layer, "groups") and hasattr(layer, "in_channels"):
        groups = plan.groups.get(name, getattr(layer, "groups", 1))
        whole, each = shape[0], shape[1] * groups
        inputs, outputs = (whole, each) if getattr(layer, "transposed", False) else (each, whole)
        sizes = {"groups": groups, "in_channels": inputs, "out_channels": outputs}
    elif hasattr(layer, "num_groups"):
        sizes = _group_sizes(layer, f"{name}.weight" if name else "weight", plan)
    sizes |= {"num_features": shape[0], "normalized_shape": shape, "num_parameters": shape[0]}
    if len(shape) == 2:
        sizes |= {"out_features": shape[0], "in_features": shape[1]}
        sizes |= {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    for key, size in sizes.items():
        if hasattr(layer, key):
            setattr(layer, key, size)


def _group_sizes(layer: nn.Module, weight: str, plan: SlicePlan) -> dict[str, int]:
    """GroupNorm: whole groups went, or as many channels from each."""
    groups, (before,) = int(getattr(layer, "num_groups", 1)), plan.shapes[weight]
    each = before // groups
    kept = plan.kept.get(weight, {}).get(0, tuple(range(before)))
    counts = [sum(index // each == group for index in kept) for group in range(groups)]
    whole = all(count in (0, each) for count in counts)
    return {"num_channels": len(kept), "num_groups": len(kept) // each if whole else groups}
