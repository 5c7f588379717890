"""torch.nn.utils.parametrize: fold what a layer computes its weight from into the plain weight.

A state_dict does not say what a parametrization computes, only the tensors that it keeps. So those
whose tensors say what they are are folded: masks, weight normalisation. Any other is refused, those
that keep no tensor at all as well: torch.ao.pruning's leaves its mask out of the state_dict, and
without it nothing tells it from another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from prunedeploy.checkpoint.layers import normed
from prunedeploy.checkpoint.masks import Doubts, binary, fit, is_mask, masked

State = dict[str, Tensor]

ORIGINAL = re.compile(r"^(.*?)parametrizations\.([^.]+)\.original([01]?)$")
WEIGHT_NORM = "_WeightNorm"
MASKS = ("FakeSparsity", "FakeStructuredSparsity")  # of torch.ao.pruning
UNKNOWN = (
    "belongs to a parametrization that is not known: call"
    " torch.nn.utils.parametrize.remove_parametrizations before saving, or name the network that"
    " has it with --arch pkg.module:factory"
)
BARE = (
    "is the weight before a parametrization that the file does not have: call"
    " sparsifier.squash_mask() before saving if it is torch.ao.pruning's, or give its masks with"
    " --mask; else torch.nn.utils.parametrize.remove_parametrizations, or name the network that"
    " has it with --arch pkg.module:factory"
)


@dataclass(frozen=True)
class Folded:
    """The result of folding.

    ``bare`` are weights whose masks are not among the tensors, by name, and the name that the
    original weight had.
    """

    note: str | None
    doubts: Doubts = field(default_factory=dict)
    bare: dict[str, str] = field(default_factory=dict)


def fold(state: State, origins: Mapping[str, str]) -> Folded:
    """Fold ``parametrizations.X.original`` with masks, and ``original0`` and ``original1`` of
    weight normalisation. What is not known is left as it is.

    Args:
        state: changed in place.
        origins: the class of each module by its name, where the file says.
    """
    count = 0
    doubts: Doubts = {}
    bare: dict[str, str] = {}
    for name in list(state):
        match = ORIGINAL.match(name)
        if match is None or match[3] == "1":
            continue
        stem, target = f"{match[1]}parametrizations.{match[2]}.", f"{match[1]}{match[2]}"
        computed = _weight(state, stem, origins)
        if computed is None:
            doubts[name] = f"{name} {UNKNOWN}"
            continue
        weight, is_bare = computed
        for key in [key for key in state if key.startswith(stem)]:
            del state[key]
        state[target] = weight
        if is_bare:
            bare[target] = name
        else:
            count += 1
    return Folded(f"{count} parametrizations folded" if count else None, doubts, bare)


def _weight(state: State, stem: str, origins: Mapping[str, str]) -> tuple[Tensor, bool] | None:
    """Compute the weight of the parametrizations under ``stem``; say whether a mask is missing.

    None where that is not known.
    """
    parts: dict[int, dict[str, Tensor]] = {}
    kept = {}
    for key, tensor in state.items():
        if key.startswith(stem):
            first, dot, rest = key.removeprefix(stem).partition(".")
            if dot and first.isdecimal():
                parts.setdefault(int(first), {})[rest] = tensor
            else:
                kept[key.removeprefix(stem)] = tensor
    classes = {
        int(name.removeprefix(stem)): origin.rpartition(".")[2]
        for name, origin in origins.items()
        if name.startswith(stem) and name.removeprefix(stem).isdecimal()
    }
    count = max([*parts, *classes], default=-1) + 1
    begin = 0
    if kept.keys() == {"original0", "original1"}:
        weight = normed(kept["original0"], kept["original1"])
        if weight is None or parts.get(0) or classes.get(0, WEIGHT_NORM) != WEIGHT_NORM:
            return None
        begin = 1
    elif kept.keys() == {"original"}:
        weight = kept["original"]
    else:
        return None
    is_bare = not count and not begin
    for number in range(begin, count):
        tensors, origin = parts.get(number, {}), classes.get(number, "")
        if not tensors and origin in MASKS:
            is_bare = True
        elif (
            tensors.keys() != {"mask"}
            or (after := _masked(weight, tensors["mask"], origin)) is None
        ):
            return None
        else:
            weight = after
    return weight, is_bare


def _masked(weight: Tensor, mask: Tensor, origin: str) -> Tensor | None:
    """The weight times the mask of a parametrization, or None where it is no mask."""
    if origin == "FakeStructuredSparsity":
        fitted = fit(mask, weight)
        if fitted is None or fitted.axis != "rows" or not binary(mask):
            return None
        return masked(weight, fitted.view, origin)
    return masked(weight, mask, origin) if is_mask(mask, weight) else None
