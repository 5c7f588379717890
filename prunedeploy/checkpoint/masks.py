"""Masks: multiply weights with zeros and ones that are stored apart from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunedeploy.errors import UserError

State = dict[str, Tensor]


def reparametrised(state: State) -> str | None:
    """torch.nn.utils.prune: ``X_orig`` and ``X_mask`` are ``X``. Paired by name: ``prune.remove``
    moves ``X`` to the end of its module, so that the order says nothing."""
    pairs = [name.removesuffix("_orig") for name in state if name.endswith("_orig")]
    count = 0
    for name in pairs:
        if f"{name}_u" in state:
            raise UserError(f"{name} has spectral normalisation: remove it before saving")
        weight = state.pop(f"{name}_orig")
        if (mask := state.pop(f"{name}_mask", None)) is not None:
            weight = masked(weight, mask, name)
            count += 1
        state[name] = weight
    return f"{count} masks (torch.nn.utils.prune)" if count else None


def beside_weights(state: State) -> str | None:
    """``weight_mask`` or ``bias_mask`` beside a plain ``weight`` (SynFlow), ``L.mask`` beside
    ``L.weight``."""
    count = 0
    for name in [name for name in state if name.endswith(("_mask", ".mask"))]:
        target = name.removesuffix("_mask")
        if name.endswith(".mask"):
            target = name.removesuffix("mask") + "weight"
        if target not in state or not is_mask(state[name], state[target]):
            continue
        state[target] = masked(state[target], state.pop(name), target)
        count += 1
    return f"{count} masks beside their weights" if count else None


def apply(state: State, masks: Mapping[str, Tensor], where: str) -> str:
    """Multiply each weight with the mask of its name.

    Names may be those of the weights, with ``_mask`` or ``.mask`` at their end, or of the layers;
    a prefix that one side alone has is ignored.

    Raises:
        UserError: a mask of no weight, of another shape, or that is none.
    """
    if named := {k: v for k, v in masks.items() if k.endswith(("_mask", ".mask"))}:
        masks = named
    for name, mask in masks.items():
        target = _target(name, state)
        if target is None:
            raise UserError(f"mask {name} {where} names no weight of the checkpoint")
        mask = mask.to_dense() if mask.layout != torch.strided else mask
        if not is_mask(mask, state[target]):
            raise UserError(f"{name} {where} is no mask of {target}: {_why(mask, state[target])}")
        state[target] = masked(state[target], mask, target)
    return f"{len(masks)} masks {where}"


def apply_list(state: State, masks: Sequence[Any], where: str) -> str:
    """A list of masks without names: taken only when shapes pair it with weights in one way.

    Raises:
        UserError: the masks fit no weights in their order, or fit in several ways.
    """
    tensors = [mask for mask in masks if isinstance(mask, Tensor)]
    weights = [(name, tensor) for name, tensor in state.items() if tensor.dim() > 1]
    pairs = _pairings([t.shape for t in tensors], [w.shape for _, w in weights])
    if not tensors or pairs is None:
        raise UserError(
            f"the {len(masks)} masks {where} have no names, and their shapes do not pair with the"
            " weights in exactly one way: save them as a dictionary by parameter name"
        )
    named = {weights[at][0]: mask for at, mask in zip(pairs, tensors, strict=True)}
    return apply(state, named, where)


def masked(weight: Tensor, mask: Tensor, name: str) -> Tensor:
    """``weight * mask``, the mask of the same shape or one that broadcasts to it."""
    if not _broadcasts(mask, weight):
        raise UserError(
            f"{name} has shape {tuple(weight.shape)} and its mask {tuple(mask.shape)}:"
            " they are not of the same network"
        )
    # A masked-out NaN is a zero: the mask says that the weight is not there.
    return torch.where(mask == 0, 0, weight * mask.to(weight.dtype))


def is_mask(mask: Tensor, weight: Tensor) -> bool:
    """Zeros and ones, of a shape that fits."""
    return _broadcasts(mask, weight) and bool(((mask == 0) | (mask == 1)).all())


def _broadcasts(mask: Tensor, weight: Tensor) -> bool:
    return mask.dim() in (0, weight.dim()) and all(
        m in (1, w) for m, w in zip(mask.shape, weight.shape, strict=False)
    )


def _why(mask: Tensor, weight: Tensor) -> str:
    if not _broadcasts(mask, weight):
        return f"shapes {tuple(mask.shape)} and {tuple(weight.shape)}"
    value = mask[(mask != 0) & (mask != 1)].flatten()[0].item()
    return f"it holds {value:.4g}, not only 0 and 1"


def _target(name: str, state: State) -> str | None:
    stems = [name, f"{name}.weight"]
    for end in ("_mask", ".mask"):
        if name.endswith(end):
            stems += [name.removesuffix(end), name.removesuffix(end) + ".weight"]
    for stem in stems:
        if stem in state:
            return stem
    for stem in stems:  # one side alone has a prefix
        near = [key for key in state if key.endswith(f".{stem}") or stem.endswith(f".{key}")]
        if len(near) == 1:
            return near[0]
    return None


def _pairings(masks: list[torch.Size], weights: list[torch.Size]) -> list[int] | None:
    """Indices of the weights that the masks belong to, in order, when there is exactly one way."""
    # ways[j] counts how the first masks can go to the first j weights
    ways = [1] * (len(weights) + 1)
    for shape in masks:
        following = [0]
        for j, weight in enumerate(weights):
            following.append(following[j] + (ways[j] if weight == shape else 0))
        ways = following
    if ways[-1] != 1:
        return None
    found, at = [], 0
    for shape in masks:  # the only way is also the greedy one
        at = next(j for j in range(at, len(weights)) if weights[j] == shape) + 1
        found.append(at - 1)
    return found
