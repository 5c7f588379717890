"""Applies masks that a file keeps beside its weights, under any key, to the right weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prunedeploy.checkpoint import masks
from prunedeploy.checkpoint.masks import Pair, Settled, State
from prunedeploy.checkpoint.naming import Index, LeftOut, Target, is_mask_key, words
from prunedeploy.checkpoint.tree import NOT_WEIGHTS, Path, keys
from prunedeploy.checkpoint.walk import MaskCandidate, collect
from prunedeploy.core.errors import UserError

SHOWN = 3  # keys in a message
# Masks of other things than weights, where no name says which weight they belong to.
ELSEWHERE = frozenset(
    (
        *("attn", "attention", "causal", "position", "positions", "pos", "padding", "pad", "token"),
        *("tokens", "src", "tgt", "key", "query", "window", "train", "val", "valid", "test"),
        *("data", "dataset", "label", "labels", "target", "targets", "input", "output"),
        *("image", "images", "loss", "grad", "grads", "rng"),
    )
)


@dataclass(frozen=True)
class Applied:
    """The names of the weights that were masked, and ``notes`` on the masks for people.

    ``filters`` are as in ``masks.Settled``.
    """

    targets: frozenset[str]
    notes: tuple[str, ...]
    filters: frozenset[str]


def apply(state: State, candidates: list[MaskCandidate]) -> Applied:
    """Apply the masks among ``candidates`` to the weights in ``state``.

    Raises:
        UserError: one looks like a mask, and which weight it belongs to, or what it means, is not
            certain; the message has no file name.
    """
    index = Index(state)
    shapes = {tuple(tensor.shape) for tensor in state.values() if tensor.dim() > 1}
    pairs: list[tuple[MaskCandidate, Target]] = []
    lists: dict[Path, list[MaskCandidate]] = {}
    left: list[MaskCandidate] = []
    _refuse_lists_of_channels(candidates, shapes)
    for each in candidates:
        target = _target(each, index)
        if target is None and each.named and each.listed is not None:
            lists.setdefault(each.listed, []).append(each)
        elif target is None:
            if _looks_lost(each, shapes, [state[x] for x in index.mentioned(".".join(each.path))]):
                raise UserError(
                    f"{each.where} looks like a mask of a weight, and its name does not say of"
                    " which: save the weights alone, and give the masks by the names of the weights"
                    " with --mask"
                )
            if each.named and _is_mask_of_nothing(each):
                left.append(each)
        elif each.named:
            if target.explicit or _in_masks(each) or not is_plain_pattern(each.tensor):
                pairs.append((each, target))
        elif _looks_meant(each, state[target.name], target.explicit):
            raise UserError(
                f"{each.where} holds zeros and ones that go with {target.name}, and does not say"
                f" that it is a mask: save it as {target.name}_mask if it is one, and without it if"
                " it is not"
            )
    _refuse_parts([each for each in candidates if each.named], {x.name for _, x in pairs}, index)
    settled = [_settled(state, pairs)]
    notes = [f"{len(pairs)} masks in the same file{_under(x for x, _ in pairs)}"] if pairs else []
    for path, elements in lists.items():
        tensors = [each.tensor for each in elements]
        if not any(_fits_some(each, shapes) for each in elements):
            left += [each for each in elements if _is_mask_of_nothing(each)]
            continue
        settled.append(masks.apply_list(state, tensors, f"under {keys(path)}"))
        notes.append(f"{len(tensors)} masks in the same file (under {keys(path)}), by their shapes")
    if left:
        notes.append(f"{len(left)} masks that have the shape of no weight left out{_under(left)}")
    return _applied(settled, notes)


def without_left_out(
    candidates: list[MaskCandidate], left: LeftOut | None, prefixes: bool = False
) -> list[MaskCandidate]:
    """The candidates but for the masks of weights that are left out, which would go with weights
    that are taken: both are called the same once their prefixes are ignored."""
    if left is None:
        return candidates
    return [each for each in candidates if not left.has(_target(each, left.index, prefixes))]


def apply_file(state: State, tree: Any, where: str, left: LeftOut | None = None) -> Applied:
    """Apply the masks that a file of masks holds, each by the name of its weight.

    Names may be those of the weights, with ``mask`` in them or not, or of the layers, in containers
    of any depth; a prefix that one side alone has is ignored. Masks of weights that are left out
    are, too.

    Raises:
        UserError: a mask of no weight, of another shape, or that is none.
    """
    candidates = collect(tree)
    candidates = [each for each in candidates if each.named] or [
        each for each in candidates if not any(key.startswith(NOT_WEIGHTS) for key in each.path)
    ]
    lists = {each.listed for each in candidates}
    if len(lists) == 1 and None not in lists and all(each.is_element for each in candidates):
        listed = masks.apply_list(state, [each.tensor for each in candidates], where)
        return _applied([listed], [f"{len(listed.applied)} masks {where}"])
    index = Index(state)
    matched = []
    taken = without_left_out(candidates, left, prefixes=True)
    if candidates and not taken:
        raise UserError(f"all masks {where} are of weights that are left out")
    for each in taken:
        target = _target(each, index, prefixes=True)
        if target is None:
            raise UserError(f"mask {'.'.join(each.path)} {where} names no weight of the checkpoint")
        matched.append((each, target))
    if not matched:
        raise UserError(f"there is no mask {where}")
    notes = [f"{len(matched)} masks {where}"]
    if gone := len(candidates) - len(taken):
        notes.append(f"{gone} masks {where} of weights that are left out")
    return _applied([_settled(state, matched, where)], notes)


def _applied(settled: list[Settled], notes: list[str]) -> Applied:
    return Applied(
        frozenset(pair.target.name for each in settled for pair in each.applied),
        tuple(notes),
        frozenset().union(*(each.filters for each in settled)),
    )


def _settled(state: State, matched: list[tuple[MaskCandidate, Target]], file: str = "") -> Settled:
    """Apply the masks, each to its weight."""
    prefixes: dict[str, set[tuple[str, ...]]] = {}
    for each, target in matched:
        prefixes.setdefault("" if file else each.path[0], set()).add(target.prefix)
    if any(len(group) > 1 for group in prefixes.values()):
        raise UserError(
            f"the names of the masks {file or 'in the same file'} do not go with those of the"
            " weights in one way: save them under the names of the weights"
        )
    pairs = [
        Pair(f"{'.'.join(x.path)} {file}" if file else x.where, x.tensor, target)
        for x, target in matched
    ]
    settled = masks.settle(state, pairs)
    for doubt in settled.doubts.values():
        raise UserError(doubt)
    return settled


def _target(each: MaskCandidate, index: Index, prefixes: bool = False) -> Target | None:
    """The weight that the keys name, by as many of them as there have to be."""
    if each.is_element:
        return None
    last = max(each.positions, default=-1)
    for ignoring in (False, True) if prefixes or each.named else (False,):
        for begin in range(len(each.path)):
            target = index.find(".".join(each.path[begin:]), ignoring and begin > last)
            # the element of a list is not the layer of that number
            if target and (begin > last or not target.numbered):
                return target
    return None


def _refuse_lists_of_channels(
    candidates: list[MaskCandidate], shapes: set[tuple[int, ...]]
) -> None:
    """Refuse lists that look like masks with one value a channel, and are not called masks."""
    lists: dict[Path, list[MaskCandidate]] = {}
    for each in candidates:
        if not each.named and each.is_element and each.listed is not None:
            lists.setdefault(each.listed, []).append(each)
    for path, elements in lists.items():
        fitting = [x for x in elements if masks.binary(x.tensor) and _fits_channels(x, shapes)]
        if len(fitting) == len(elements) > 1 and any(map(_is_mask_of_nothing, elements)):
            raise UserError(
                f"{keys(path)} looks like a list of masks, and does not say so: save them by the"
                " names of the weights, or the weights without them"
            )


def _fits_channels(each: MaskCandidate, shapes: set[tuple[int, ...]]) -> bool:
    have = tuple(each.tensor.shape)
    return len(have) == 1 and any(have[0] in shape[:2] for shape in shapes)


def _refuse_parts(named: list[MaskCandidate], masked: set[str], index: Index) -> None:
    """Refuse masks in forms that are not known: several entries for each, indices, bits."""
    for each in named:
        if not _in_masks(each) or each.is_element or _target(each, index) is not None:
            continue
        target = _target(replace(each, path=each.path[:-1]), index)
        if target is not None and target.name not in masked and _in_masks(each, 2):
            raise UserError(
                f"{each.where} is a part of a mask of {target.name} in a form that is not known:"
                " save masks as tensors of zeros and ones in the shape of the weight"
            )


def _under(entries: Iterable[MaskCandidate]) -> str:
    """Under which keys they are, for messages."""
    containers = dict.fromkeys(_container(each) for each in entries)
    shown = ", ".join(keys(path) for path in list(containers)[:SHOWN] if path)
    more = ", ..." if len(containers) > SHOWN else ""
    return f" (under {shown}{more})" if shown else ""


def _container(each: MaskCandidate) -> Path:
    """The keys down to the one that says that there are masks."""
    for at, key in enumerate(each.path[:-1]):
        if is_mask_key(key):
            return each.path[: at + 1]
    return each.path[:-1][:1]


def _in_masks(each: MaskCandidate, above: int = 1) -> bool:
    """Whether it lies among masks, and is not only called one itself, as those of attention are."""
    return any(map(is_mask_key, each.path[:-above]))


def _looks_meant(each: MaskCandidate, weight: Tensor, explicit: bool) -> bool:
    """Whether it would change the weight that its name leads to, were it the mask that it looks."""
    elsewhere = not explicit and ELSEWHERE & set(words(each.path[0]))
    if each.path[0].startswith(NOT_WEIGHTS) or elsewhere or weight.dim() < 2:
        return False
    if masks.is_packed(each.tensor, weight):
        return True
    fitted = masks.fit(each.tensor, weight)
    if fitted is None or not masks.two_valued(each.tensor) or is_plain_pattern(each.tensor):
        return False
    return bool(((fitted.view == 0) & (weight != 0)).any())


def _looks_lost(each: MaskCandidate, shapes: set[tuple[int, ...]], mentioned: list[Tensor]) -> bool:
    """Whether it looks like the mask of a weight, and no name says of which."""
    if not _is_mask_of_nothing(each):
        return False
    return _fits_some(each, shapes) or (
        not each.named and any(masks.fit(each.tensor, weight) for weight in mentioned)
    )


def _is_mask_of_nothing(each: MaskCandidate) -> bool:
    """Whether it looks like a mask, and its keys do not say that it is one of something else."""
    if ELSEWHERE & {word for key in each.path for word in words(key)}:
        return False
    if any(key.startswith(NOT_WEIGHTS) for key in each.path) and not each.named:
        return False
    if is_plain_pattern(each.tensor):
        return False
    if each.named:
        return masks.binary(each.tensor) and bool((each.tensor == 0).any())
    return masks.mixed(each.tensor)


def _fits_some(each: MaskCandidate, shapes: set[tuple[int, ...]]) -> bool:
    """Whether it has the shape of a weight, or, being called a mask, one that goes with it."""
    have = tuple(each.tensor.shape)
    if have in shapes:
        return True
    return each.named and (
        _fits_channels(each, shapes)
        or any(masks.fit(each.tensor, torch.empty(x, device="meta")) is not None for x in shapes)
    )


def is_plain_pattern(tensor: Tensor) -> bool:
    """A triangle, a diagonal, or a single one a row: masks of attention, tables of codes."""
    if tensor.dim() < 2:
        return False
    slices = tensor.reshape(-1, *tensor.shape[-2:]) != 0
    ones = slices[0]
    if not bool((slices == ones).all()):
        return False
    full = torch.ones_like(ones)
    triangles = (full.tril(), full.triu(), full.tril(-1), full.triu(1))
    return any(torch.equal(ones, shape) for shape in triangles) or bool((ones.sum(1) == 1).all())
