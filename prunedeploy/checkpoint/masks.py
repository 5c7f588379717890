"""Masks: multiply weights with zeros and ones that are stored apart from them.

A mask that is there and is not applied leaves a network that computes something else, without a
word. So what looks like a mask is applied where its weight and its meaning are certain, and refused
in one line where they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prunedeploy.checkpoint.naming import INVERTED, Target, words
from prunedeploy.core.errors import UserError

State = dict[str, Tensor]
Doubts = dict[str, str]  # name in the file, to why the file is refused

PEEK = 4096  # elements that are looked at before all of them are
# NNCF's mask of whole filters is that of their biases, too.
WITH_BIAS = "filter_pruning_mask"


@dataclass(frozen=True)
class Pair:
    """A mask, where it was found (as messages name it), and the weight that it belongs to."""

    where: str
    mask: Tensor
    target: Target


@dataclass(frozen=True)
class Fit:
    """A mask in a shape that broadcasts to its weight: one value a weight, a row or a column."""

    view: Tensor
    axis: Literal["weights", "rows", "columns"]


def binary(tensor: Tensor) -> bool:
    """Whether it holds zeros and ones alone, or truth values."""
    if tensor.dtype == torch.bool:
        return True
    if tensor.is_complex() or tensor.is_quantized:
        return False
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # float8 has no comparisons
    part = tensor
    while part.dim() > 1 and part.numel() > PEEK:
        part = part[0]
    return all(
        bool(((x == 0) | (x == 1)).all()) for x in (part[:PEEK] if part.dim() else part, tensor)
    )


def mixed(tensor: Tensor) -> bool:
    """Whether it holds zeros and ones, both of them, and nothing else."""
    return binary(tensor) and bool((tensor != 0).any()) and bool((tensor == 0).any())


def two_valued(tensor: Tensor) -> bool:
    """Whether it holds zeros and one other value, both of them."""
    if tensor.is_complex() or tensor.is_quantized:
        return False
    plain = tensor if tensor.dtype == torch.bool else tensor.double()
    other = plain[plain != 0]
    return 0 < len(other) < plain.numel() and bool((other == other[0]).all())


def is_packed(mask: Tensor, weight: Tensor) -> bool:
    """Whether it has the bytes of one bit a weight, of all weights or of those of each output."""
    row = weight[0].numel() if weight.dim() else 0
    sizes = (-(-weight.numel() // 8), len(weight) * -(-row // 8)) if row else ()
    return mask.dtype == torch.uint8 and mask.numel() in sizes and not binary(mask)


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
    """Zeros and ones, of a shape that broadcasts to the weight's."""
    return _broadcasts(mask, weight) and binary(mask)


def fit(mask: Tensor, weight: Tensor) -> Fit | None:
    """``mask`` in the shape that it is meant in, or None where it is no mask of ``weight``.

    Args:
        mask: the weight's shape or one that broadcasts to it; the weight's elements in another
            shape ([out, in * kh * kw], flat); one value a kernel ([out, in]), a filter ([out]) or
            an input ([in]).
        weight: [out, in, ...], or one value a channel.
    """
    have, wanted = tuple(mask.shape), tuple(weight.shape)
    if have == wanted:
        return Fit(mask, "rows" if len(wanted) == 1 else "weights")
    if len(have) == len(wanted) and _broadcasts(mask, weight):
        varying = [axis for axis, size in enumerate(have) if size != 1]
        named: dict[tuple[int, ...], Literal["rows", "columns"]] = {(0,): "rows", (1,): "columns"}
        return Fit(mask, named.get(tuple(varying), "weights"))
    if len(have) == 1 and len(wanted) > 1 and have[0] in wanted[:2]:
        # A linear layer as wide as deep: rows and columns have the same right to it.
        if wanted == (have[0], have[0]):
            return None
        axis = 0 if have[0] == wanted[0] else 1
        shape = [-1 if at == axis else 1 for at in range(len(wanted))]
        return Fit(mask.reshape(shape), "rows" if axis == 0 else "columns")
    if mask.numel() == weight.numel() and (len(have) == 1 or have[0] == wanted[0]):
        return Fit(mask.reshape(wanted), "weights")
    if 1 < len(have) < len(wanted) and have == wanted[: len(have)]:
        return Fit(mask.reshape(have + (1,) * (len(wanted) - len(have))), "weights")
    return None


@dataclass(frozen=True)
class Settled:
    """The masks that were applied, and why the others were not, by where they are.

    ``filters`` are weights that were masked along their first axis by a mask that does not tell it
    from the second, which is as long: right for every layer but a transposed convolution.
    """

    applied: tuple[Pair, ...]
    doubts: Doubts
    filters: frozenset[str]


def settle(state: State, pairs: Iterable[Pair]) -> Settled:
    """Apply every mask whose meaning is certain."""
    by_target: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_target.setdefault(pair.target.name, []).append(pair)
    applied: list[Pair] = []
    doubts: Doubts = {}
    for target, group in by_target.items():
        fits: list[tuple[Pair, Fit]] = []
        for pair in group:
            meaning = _meaning(state, pair)
            if isinstance(meaning, str):
                doubts[pair.where] = meaning
            else:
                fits.append((pair, meaning))
        for pair, meaning in fits[1:]:
            if _differ(fits[0][1].view, meaning.view, state[target]):
                doubts[pair.where] = (
                    f"{fits[0][0].where} and {pair.where} are different masks of {target}: save"
                    " the right one alone"
                )
        for pair, meaning in fits:
            if pair.where not in doubts:
                _multiply(state, pair, meaning)
                applied.append(pair)
    filters = {x.target.name for x in applied if x.mask.dim() == 1 and _is_square(state, x)}
    return Settled(tuple(applied), doubts, frozenset(filters))


def _is_square(state: State, pair: Pair) -> bool:
    shape = state[pair.target.name].shape
    return len(shape) > 2 and shape[0] == shape[1]


def _meaning(state: State, pair: Pair) -> Fit | str:
    """The mask as it is to be applied, or why that is not certain."""
    weight, mask, name = state[pair.target.name], pair.mask, pair.target.name
    fitted = fit(mask, weight)
    if is_packed(mask, weight):
        return (
            f"{pair.where} looks like a mask of {name} of one bit a weight: unpack it before saving"
            " (numpy.unpackbits)"
        )
    if fitted is None:
        if mask.dim() == 1 and tuple(weight.shape) == (len(mask), len(mask)):
            return (
                f"{pair.where} has one value a row or a column of {name}, which are as many: save"
                " it in the shape of the weight"
            )
        shapes = f"shapes {tuple(mask.shape)} and {tuple(weight.shape)}"
        return f"{pair.where} is no mask of {name}: {shapes}; save the masks of this network"
    if not binary(mask):
        value = mask[(mask != 0) & (mask != 1)].flatten()[0].item()
        return (
            f"{pair.where} is no mask of {name}: it holds {value:.4g}, not only 0 and 1; multiply"
            " it into the weight before saving, if that is what it is for"
        )
    if not bool(((fitted.view == 0) & (weight != 0)).any()):
        return fitted  # applied already, whatever it means
    if INVERTED & set(words(pair.where)) or (
        bool(mask.any()) and not bool(((fitted.view != 0) & (weight != 0)).any())
    ):
        return (
            f"{pair.where} would leave what it takes away from {name}, as it reads: ones of a mask"
            " are to mark what stays; save it so"
        )
    return fitted if pair.target.explicit else _of_a_layer(state, pair, fitted)


def _of_a_layer(state: State, pair: Pair, fitted: Fit) -> Fit | str:
    """A mask that names a layer: of its weights, or of its outputs or inputs?"""
    name = pair.target.name
    weight, bias = state[name], state.get(f"{name.removesuffix('weight')}bias")
    if fitted.axis == "columns" and weight.shape[0] == weight.shape[1]:
        return (
            f"{pair.where} may be one of the inputs or of the outputs of {name}: save it as"
            f" {name}_mask in the shape of the weight"
        )
    if pair.mask.dim() > 1 or fitted.axis != "rows" or bias is None or WITH_BIAS in pair.where:
        return fitted
    gone = (fitted.view == 0).flatten()
    if len(bias) == len(gone) and bool(bias[gone].any()):
        return (
            f"{pair.where} masks whole channels, whose bias is not zero, and does not say whether"
            f" that is masked: save it as {name}_mask, and as a mask of the bias where it is one"
        )
    return fitted


def _multiply(state: State, pair: Pair, fitted: Fit) -> None:
    name = pair.target.name
    state[name] = masked(state[name], fitted.view, name)
    bias = f"{name.removesuffix('weight')}bias"
    if WITH_BIAS in pair.where and fitted.axis == "rows" and bias in state:
        state[bias] = masked(state[bias], fitted.view.flatten(), bias)


def _differ(one: Tensor, other: Tensor, weight: Tensor) -> bool:
    """Whether two masks leave different things of a weight."""
    return bool((((one == 0) != (other == 0)) & (weight != 0)).any())


def apply_list(state: State, masks: Sequence[Any], where: str) -> Settled:
    """A list of masks without names: taken only when shapes pair it with weights in one way.

    Raises:
        UserError: the masks fit no weights in their order, or fit in several ways.
    """
    tensors = [mask for mask in masks if isinstance(mask, Tensor)]
    # those of biases take nothing away, as a rule
    tensors = [mask for mask in tensors if mask.dim() > 1 or not bool((mask == 1).all())]
    weights = [(name, tensor) for name, tensor in state.items() if tensor.dim() > 1]
    pairs = pairings([t.shape for t in tensors], [w.shape for _, w in weights])
    if not tensors or pairs is None:
        raise UserError(
            f"the {len(masks)} masks {where} have no names, and their shapes do not pair with the"
            " weights in exactly one way: save them as a dictionary by parameter name"
        )
    settled = settle(
        state,
        [
            Pair(f"mask {at} {where}", mask, Target(weights[position][0], True))
            for at, (position, mask) in enumerate(zip(pairs, tensors, strict=True))
        ],
    )
    for doubt in settled.doubts.values():
        raise UserError(doubt)
    return settled


def _broadcasts(mask: Tensor, weight: Tensor) -> bool:
    return mask.dim() in (0, weight.dim()) and all(
        m in (1, w) for m, w in zip(mask.shape, weight.shape, strict=False)
    )


def pairings(masks: list[torch.Size], weights: list[torch.Size]) -> list[int] | None:
    """The indices of the weights that the masks belong to, in order; None unless unambiguous."""
    # counts[j] says how many ways the first masks can go to the first j weights
    counts = [1] * (len(weights) + 1)
    for shape in masks:
        following = [0]
        for j, weight in enumerate(weights):
            following.append(following[j] + (counts[j] if weight == shape else 0))
        counts = following
    if counts[-1] != 1:
        return None
    pairs, at = [], 0
    for shape in masks:  # the only way is also the greedy one
        at = next(j for j in range(at, len(weights)) if weights[j] == shape) + 1
        pairs.append(at - 1)
    return pairs
