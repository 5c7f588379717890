"""Applies masks among the weights: buffers of the layers, as pruning tools register them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from prunedeploy.checkpoint import masks
from prunedeploy.checkpoint.beside import ELSEWHERE, is_plain_pattern
from prunedeploy.checkpoint.masks import Doubts, Pair, State
from prunedeploy.checkpoint.naming import MASK, OPERATION, Index, is_mask_key, words

# What a tool keeps beside its mask, which nothing needs once the mask is applied: apex's ASP the
# values that it took away.
LEFT = ("_mma_pruned_p",)
SOFT = MASK | {"score", "scores"}  # how the names of masks end that are not zeros and ones yet


@dataclass(frozen=True)
class OwnMasks:
    """The masks among the weights.

    ``masks`` are those that were applied, by their names. ``doubts`` are entries that look like
    masks whose meaning is not certain: they are left in. ``filters`` is as in ``masks.Settled``.
    """

    masks: State
    notes: tuple[str, ...]
    doubts: Doubts
    filters: frozenset[str]


def apply(state: State) -> OwnMasks:
    """Apply the masks among the entries of ``state``, and take them out.

    ``weight_mask`` and ``bias_mask`` beside a plain ``weight`` (SynFlow, NNI), ``L.mask`` beside
    ``L.weight``, ``__weight_mma_mask`` (apex's ASP), ``pre_ops.0.op._binary_mask`` (NNCF), and
    whatever else has the name of a mask, the shape of a weight and no other values than 0 and 1.
    """
    called = {name for name, tensor in state.items() if _is_called_mask(name, tensor)}
    index = Index({name: tensor for name, tensor in state.items() if name not in called})
    pairs: list[Pair] = []
    doubts: Doubts = {}
    for name in list(state):
        if name in called and (pair := _pair(name, state, index)) is not None:
            pairs.append(pair)
        elif (why := _looks_like_one(name, state, index)) is not None:
            doubts[name] = why
    settled = masks.settle(state, [x for x in pairs if not _is_soft_of(x.where, pairs)])
    kept = {pair.where: state.pop(pair.where) for pair in settled.applied}
    left = {name for mask in kept for name in _of_the_tool(mask, state)}
    for name in left:
        del state[name]
    doubts |= settled.doubts
    lines = [f"{len(kept)} masks beside their weights"] if kept else []
    if left:
        lines.append(f"{len(left)} entries of the pruning tool left out")
    doubts = {name: why for name, why in doubts.items() if name in state}
    return OwnMasks(kept, tuple(lines), doubts, settled.filters)


def _is_called_mask(name: str, tensor: Tensor) -> bool:
    if not tensor.dim():
        return False
    *above, last = name.split(".")
    if MASK & set(words(last)):
        return True
    return (any(map(is_mask_key, above)) and masks.binary(tensor)) or (
        bool(MASK & set(words(name))) and masks.mixed(tensor)
    )


def _pair(name: str, state: State, index: Index) -> Pair | None:
    """The mask and its weight, or None where it is a mask of something else."""
    target = index.find(name, prefixes=True, among=True)
    if target is None:
        return None
    tensor = state[name]
    ends_as_mask = words(name)[-1] in SOFT
    if not masks.binary(tensor) and not ends_as_mask:
        return None
    if (target.prefix or not target.explicit) and (
        masks.fit(tensor, state[target.name]) is None or is_plain_pattern(tensor)
    ):
        return None  # of another size than the layer's weight, or a triangle: one of attention
    return Pair(name, tensor, target)


def _looks_like_one(name: str, state: State, index: Index) -> str | None:
    """Why an entry whose name is not that of a mask of a weight looks like one, where it does."""
    tensor = state[name]
    if not masks.mixed(tensor) or is_plain_pattern(tensor) or ELSEWHERE & set(words(name)):
        return None
    target = index.find(name, prefixes=True, among=True)
    names = [f"{name.rpartition('.')[0]}.weight".removeprefix("."), *index.mentioned(name)]
    for weight in dict.fromkeys([target.name, *names] if target else names):
        if weight != name and weight in state and _takes_away(tensor, state[weight]):
            return (
                f"{name} holds zeros and ones that go with {weight}, and does not say that it is"
                f" its mask: save it as {weight}_mask if it is one, and without it if it is not"
            )
    shapes = {tuple(weight.shape) for other, weight in state.items() if other != name}
    if name.endswith("weight") or tensor.dim() < 2 or tuple(tensor.shape) not in shapes:
        return None
    return (
        f"{name} looks like a mask of a weight, and its name does not say of which: save masks"
        " under the names of the weights, as conv.weight_mask"
    )


def _takes_away(mask: Tensor, weight: Tensor) -> bool:
    """Whether it would change a layer's weight, were it the mask that it looks."""
    fitted = masks.fit(mask, weight) if weight.dim() > 1 else None
    return fitted is not None and bool(((fitted.view == 0) & (weight != 0)).any())


def _is_soft_of(name: str, pairs: list[Pair]) -> bool:
    """Whether it is what NNCF computes a binary mask from that is there, too."""
    module = name.rpartition(".")[0]
    return bool(OPERATION.search(name)) and any(
        pair.where != name and pair.where.startswith(f"{module}.") and masks.binary(pair.mask)
        for pair in pairs
        if not name.endswith("_binary_mask")
    )


def _of_the_tool(mask: str, state: State) -> Iterator[str]:
    """Names of entries that a tool keeps beside its mask and that are no part of the network."""
    if (operation := OPERATION.search(mask)) is not None:
        yield from (name for name in state if name.startswith(f"{mask[: operation.end()]}."))
    module, _, last = mask.rpartition(".")
    for end in LEFT:
        name = f"{module}.{last.removesuffix('_mma_mask')}{end}".removeprefix(".")
        if last.endswith("_mma_mask") and name in state:
            yield name
