"""Masks that live outside of the module: applied, held while an optimizer steps, and in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.units import Masks, layer_weights

ORIGINAL, MASK = "_orig", "_mask"  # as torch.nn.utils.prune writes them


class Held:
    """Masks that an optimizer cannot undo: gradients before a step, weights after it.

    Momentum, weight decay and gradients of masked weights come to nothing. The module's state_dict
    stays that of plain weights.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> with Held(layer, {"weight": torch.eye(2, 4) > 0}, optimizer):
        ...     layer(torch.ones(3, 4)).sum().backward()
        ...     optimizer.step()
        >>> int((layer.weight != 0).sum())
        2
    """

    def __init__(
        self, module: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self.module, self.masks = module, masks
        self._handles: list[RemovableHandle] = []
        if optimizer is not None:
            self.attach(optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the masks now, and around every step from now on."""
        self.detach()
        self.apply()
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self.mask_gradients()),
            optimizer.register_step_post_hook(lambda *_: self.apply()),
        ]

    def detach(self) -> None:
        """Hold nothing any more; what is masked now stays zero until somebody writes it."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: whoever holds masks that change keeps them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to go to."""

    def mask_gradients(self) -> None:
        """Set the gradients of all masked weights to zero."""
        for name, mask in self.masks.items():
            gradient = parameter(self.module, name).grad
            if gradient is not None:
                gradient.masked_fill_(~mask, 0)

    def apply(self) -> None:
        """Set all masked weights to zero."""
        apply(self.module, self.masks)


@torch.no_grad()
def apply(module: nn.Module, masks: Masks) -> None:
    """Set the masked weights of ``module`` to zero, in place."""
    for name, mask in masks.items():
        parameter(module, name).masked_fill_(~mask, 0)


def parameter(module: nn.Module, name: str) -> Tensor:
    """The parameter of that name, behind a parametrization the one that is trained.

    Raises:
        UserError: there is none.
    """
    path, _, key = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
        if parametrize.is_parametrized(owner, key):
            original: Tensor = owner.parametrizations[key].original  # type: ignore[union-attr,index]
            return original
        tensor = owner.get_parameter(key)
    except AttributeError as error:
        raise UserError(f"the network has no parameter {name}: the masks are another's") from error
    return tensor


def weight_sparsity(module: nn.Module) -> float:
    """The share of zeros in the weights of all convolutions and linear layers, in [0, 1]."""
    weights = [weight.detach() for _, weight in layer_weights(module)]
    total = sum(each.numel() for each in weights)
    zeros = total - sum(int(each.count_nonzero()) for each in weights)
    return zeros / total if total else 0.0


def of_zeros(module: nn.Module) -> Masks:
    """The masks of a network that is sparse already: False where a layer's weight is zero."""
    return {name: weight.detach() != 0 for name, weight in layer_weights(module)}


def with_masks(state: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """A state_dict in the form of ``torch.nn.utils.prune``: ``weight_orig`` and ``weight_mask``.

    Raises:
        UserError: a mask belongs to no entry of ``state``, or has another shape.
    """
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            raise UserError(f"the mask of {name} fits no weight of the network")
    written: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in masks:
            written[name + ORIGINAL] = tensor
            written[name + MASK] = masks[name].to(tensor.dtype)
        else:
            written[name] = tensor
    return written


def without_masks(state: Mapping[str, Any]) -> tuple[dict[str, Any], Masks]:
    """Plain weights, masked, and the masks, of a state_dict in the form of torch's prune.

    Raises:
        UserError: a mask without a weight, a weight without a mask, or other numbers than 0 and 1.
    """
    plain: dict[str, Any] = {}
    masks: Masks = {}
    for name, tensor in state.items():
        if name.endswith(ORIGINAL):
            key = name.removesuffix(ORIGINAL)
            plain[key], masks[key] = _pair(key, tensor, state.get(key + MASK))
        elif not name.endswith(MASK):
            plain[name] = tensor
        elif name.removesuffix(MASK) + ORIGINAL not in state:
            raise UserError(f"{name} is a mask without {name.removesuffix(MASK)}{ORIGINAL}")
    return plain, masks


def _pair(key: str, tensor: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None or mask.shape != tensor.shape:
        raise UserError(f"{key}{ORIGINAL} has no {key}{MASK} of its shape")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(f"{key}{MASK} has other numbers than 0 and 1")
    return tensor.masked_fill(mask == 0, 0), mask != 0
