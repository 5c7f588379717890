"""Masks that a file keeps beside its weights, under whatever key and in whatever containers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import masks
from prunedeploy.checkpoint.masks import Pair, Settled, State
from prunedeploy.checkpoint.naming import Index, Target, is_mask_key, words
from prunedeploy.checkpoint.standin import SparseTensor
from prunedeploy.checkpoint.tree import (
    NOT_WEIGHTS,
    Path,
    as_mapping,
    as_tensor,
    is_module,
    keys,
    modules_of,
)
from prunedeploy.errors import UserError

DEEPEST = 12  # keys on the way to a mask
SHOWN = 3  # keys in a message
# Masks of other things than weights, where no name says which weight they belong to.
ELSEWHERE = frozenset(
    (
        *("attn", "attention", "causal", "position", "positions", "pos", "padding", "pad", "token"),
        *(
            "tokens",
            "src",
            "tgt",
            "key",
            "query",
            "window",
            "train",
            "val",
            "valid",
            "test",
            "data",
        ),
        *("dataset", "label", "labels", "target", "targets", "input", "output", "image", "images"),
        *("loss", "grad", "grads", "rng", "optimizer", "optim"),
    )
)


@dataclass(frozen=True)
class Beside:
    """A tensor outside of the weights, under the keys ``path``.

    ``named`` says that a key on the way calls it a mask. ``listed`` is the path of the list that it
    is an element of.
    """

    path: Path
    tensor: Tensor
    named: bool
    listed: Path | None = None

    @property
    def where(self) -> str:
        """As messages call it."""
        return keys(self.path)


def collect(
    tree: Any, holder: Any = None, others: Mapping[Path, Any] | None = None, own: bool = True
) -> list[Beside]:
    """Every tensor in ``tree`` that may be a mask of the weights in ``holder``.

    Args:
        tree: what the file holds.
        holder: what has the weights, whose own tensors are left out.
        others: other sets of weights, whose tensors are left out, too.
        own: whether to look at what a module has beside its parameters and buffers; not where its
            own code computes with that.
    """
    walk = _Walk(holder, {id(value) for value in (others or {}).values()}, own)
    return list(walk.tensors(tree))


class _Walk:
    """From the outside in; each container is visited once, so that cycles end."""

    def __init__(self, holder: Any, others: set[int], own: bool) -> None:
        self._holder, self._others, self._own = holder, others, own
        self._modules: dict[int, str] = {}
        if is_module(holder):
            self._modules = {id(part): prefix for prefix, part in modules_of(holder)}

    def tensors(self, tree: Any) -> Iterator[Beside]:
        waiting: list[tuple[Path, Any, Path | None]] = [((), tree, None)]
        seen: set[int] = set()
        while waiting:
            path, value, listed = waiting.pop()
            if (tensor := _tensor(value, path)) is not None:
                if tensor.dim():
                    yield Beside(path, tensor, any(map(is_mask_key, path)), listed)
                continue
            if id(value) in seen or len(path) > DEEPEST:
                continue
            seen.add(id(value))
            in_list = path if isinstance(value, list | tuple) else None
            waiting += [
                (at, item, in_list if named is None else None)
                for at, named, item in reversed(list(self._inside(value, path)))
            ]

    def _inside(self, value: Any, path: Path) -> Iterator[tuple[Path, str | None, Any]]:
        """What a container holds: under which keys, and under which name, where it has one."""
        if is_module(value):
            if value is self._holder and self._own:
                for prefix, part in modules_of(value):
                    for key, item in _attributes(part):
                        yield (*path, *f"{prefix}{key}".split(".")), key, item
        elif isinstance(value, list | tuple):
            for at, item in enumerate(value):
                if _is_named(item):
                    yield (*path, str(item[0])), str(item[0]), item[1]
                elif _may_hold(item):
                    yield (*path, str(at)), None, item
        else:
            for key, item in _entries(value).items():
                if id(key) in self._modules:  # GraSP keys masks by their modules
                    yield (*path, f"{self._modules[id(key)]}weight"), str(key), item
                elif _may_hold(item) and not self._is_own(value, item, path):
                    yield (*path, str(key)), str(key), item

    def _is_own(self, value: Any, item: Any, path: Path) -> bool:
        """Whether it is a tensor of a set of weights, and no mask beside them."""
        is_set = value is self._holder or id(value) in self._others
        return is_set and _tensor(item, path) is not None


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of a module that its state_dict does not have: plain ones, hidden buffers."""
    fields = vars(part) if isinstance(part, nn.Module) else part.fields()
    if "_modules" not in fields:
        return
    hidden = fields.get("_non_persistent_buffers_set")
    for key, value in (as_mapping(fields.get("_buffers")) or {}).items():
        if isinstance(hidden, set) and key in hidden and value is not None:
            yield str(key), value
    for key, value in fields.items():
        if isinstance(key, str) and not key.startswith("_") and _may_hold(value):
            yield key, value


def _entries(value: Any) -> Mapping[Any, Any]:
    """Of a mapping, or the fields of an object of a class of a trusted file's own."""
    if (mapping := as_mapping(value)) is not None:
        return mapping
    inert = isinstance(value, type | torch.dtype | torch.Size | torch.Generator)
    return vars(value) if hasattr(value, "__dict__") and not inert and not callable(value) else {}


def _is_named(value: Any) -> bool:
    """A pair of a name and what it is the name of."""
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)


def _may_hold(value: Any) -> bool:
    return value is not None and not isinstance(
        value, str | bytes | bytearray | int | float | complex | type
    )


def _tensor(value: Any, path: Path) -> Tensor | None:
    """The tensor that it is, dense; sparse ones only where a key says that they are masks."""
    named = any(map(is_mask_key, path))
    if isinstance(value, SparseTensor) and not named:
        return None
    tensor = as_tensor(value)
    if not isinstance(tensor, Tensor) or tensor.is_quantized or tensor.is_complex():
        return None
    if tensor.layout != torch.strided:
        return tensor.to_dense() if named else None
    return tensor


# -- what belongs to which weight ------------------------------------------------------------------


@dataclass(frozen=True)
class Applied:
    """The names of the weights that were masked, and what was found, in words.

    ``filters`` are as in ``masks.Settled``.
    """

    targets: frozenset[str]
    found: tuple[str, ...]
    filters: frozenset[str]


def apply(state: State, candidates: list[Beside]) -> Applied:
    """Apply the masks among ``candidates`` to the weights in ``state``.

    Raises:
        UserError: one looks like a mask, and which weight it belongs to, or what it means, is not
            certain; the message has no file name.
    """
    index = Index(state)
    shapes = {tuple(tensor.shape) for tensor in state.values() if tensor.dim() > 1}
    pairs: list[tuple[Beside, Target]] = []
    lists: dict[Path, list[Beside]] = {}
    left: list[Beside] = []
    for each in candidates:
        target = _target(each, index)
        if target is None and each.named and each.listed is not None:
            lists.setdefault(each.listed, []).append(each)
        elif target is None:
            if _looks_lost(each, shapes):
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
        elif _looks_meant(each, state[target.name]):
            raise UserError(
                f"{each.where} holds zeros and ones in the shape of {target.name}, and does not say"
                " that it is a mask: save the weights with it multiplied in, or without it"
            )
    settled = [_settled(state, pairs)]
    found = [f"{len(pairs)} masks in the same file{_under(x for x, _ in pairs)}"] if pairs else []
    for path, elements in lists.items():
        tensors = [each.tensor for each in elements]
        if not any(_fits_some(each, shapes) for each in elements):
            left += [each for each in elements if _is_mask_of_nothing(each)]
            continue
        settled.append(masks.apply_list(state, tensors, f"under {keys(path)}"))
        found.append(f"{len(tensors)} masks in the same file (under {keys(path)}), by their shapes")
    if left:
        found.append(f"{len(left)} masks that have the shape of no weight left out{_under(left)}")
    return _applied(settled, found)


def apply_file(state: State, tree: Any, where: str) -> Applied:
    """Apply the masks that a file of masks holds, each by the name of its weight.

    Names may be those of the weights, with ``mask`` in them or not, or of the layers, in containers
    of any depth; a prefix that one side alone has is ignored.

    Raises:
        UserError: a mask of no weight, of another shape, or that is none.
    """
    candidates = collect(tree)
    candidates = [each for each in candidates if each.named] or [
        each for each in candidates if not any(key.startswith(NOT_WEIGHTS) for key in each.path)
    ]
    lists = {each.listed for each in candidates}
    if len(lists) == 1 and None not in lists:
        listed = masks.apply_list(state, [each.tensor for each in candidates], where)
        return _applied([listed], [f"{len(listed.applied)} masks {where}"])
    index = Index(state)
    found = []
    for each in candidates:
        target = _target(each, index, prefixes=True)
        if target is None:
            raise UserError(f"mask {'.'.join(each.path)} {where} names no weight of the checkpoint")
        found.append((each, target))
    if not found:
        raise UserError(f"there is no mask {where}")
    return _applied([_settled(state, found, where)], [f"{len(found)} masks {where}"])


def _applied(settled: list[Settled], found: list[str]) -> Applied:
    return Applied(
        frozenset(pair.target.name for each in settled for pair in each.applied),
        tuple(found),
        frozenset().union(*(each.filters for each in settled)),
    )


def _settled(state: State, found: list[tuple[Beside, Target]], file: str = "") -> Settled:
    """Apply the masks, each to its weight."""
    prefixes: dict[str, set[tuple[str, ...]]] = {}
    for each, target in found:
        prefixes.setdefault("" if file else each.path[0], set()).add(target.prefix)
    if any(len(group) > 1 for group in prefixes.values()):
        raise UserError(
            f"the names of the masks {file or 'in the same file'} do not go with those of the"
            " weights in one way: save them under the names of the weights"
        )
    pairs = [
        Pair(f"{'.'.join(x.path)} {file}" if file else x.where, x.tensor, target)
        for x, target in found
    ]
    settled = masks.settle(state, pairs)
    for doubt in settled.doubts.values():
        raise UserError(doubt)
    return settled


def _target(each: Beside, index: Index, prefixes: bool = False) -> Target | None:
    """The weight that the keys name, by as many of them as there have to be."""
    if each.listed is not None:
        return None
    for ignoring in (False, True) if prefixes or each.named else (False,):
        for begin in range(len(each.path)):
            if found := index.find(".".join(each.path[begin:]), ignoring):
                return found
    return None


def _under(found: Iterable[Beside]) -> str:
    """Under which keys they are, for messages."""
    places = dict.fromkeys(_container(each) for each in found)
    shown = ", ".join(keys(path) for path in list(places)[:SHOWN] if path)
    more = ", ..." if len(places) > SHOWN else ""
    return f" (under {shown}{more})" if shown else ""


def _container(each: Beside) -> Path:
    """The keys down to the one that says that there are masks."""
    for at, key in enumerate(each.path[:-1]):
        if is_mask_key(key):
            return each.path[: at + 1]
    return each.path[:-1][:1]


def _in_masks(each: Beside) -> bool:
    """Whether it lies among masks, and is not only called one itself, as those of attention are."""
    return any(map(is_mask_key, each.path[:-1]))


def _looks_meant(each: Beside, weight: Tensor) -> bool:
    """Whether it would change the weight that its name leads to, were it the mask that it looks."""
    if each.path[0].startswith(NOT_WEIGHTS) or ELSEWHERE & set(words(each.path[0])):
        return False
    same = each.tensor.shape == weight.shape and weight.dim() > 1
    if not same or not masks.mixed(each.tensor) or is_plain_pattern(each.tensor):
        return False
    return bool(((each.tensor == 0) & (weight != 0)).any())


def _looks_lost(each: Beside, shapes: set[tuple[int, ...]]) -> bool:
    """Whether it looks like the mask of a weight, and no name says of which."""
    return _fits_some(each, shapes) and _is_mask_of_nothing(each)


def _is_mask_of_nothing(each: Beside) -> bool:
    """Whether it looks like a mask, and its keys do not say that it is one of something else."""
    if ELSEWHERE & {word for key in each.path for word in words(key)}:
        return False
    if any(key.startswith(NOT_WEIGHTS) for key in each.path):
        return False
    return masks.mixed(each.tensor) and not is_plain_pattern(each.tensor)


def _fits_some(each: Beside, shapes: set[tuple[int, ...]]) -> bool:
    """Whether it has the shape of a weight, or, being called a mask, one that goes with it."""
    have = tuple(each.tensor.shape)
    if have in shapes:
        return True
    return each.named and any(
        (len(have) == 1 and have[0] in shape[:2])
        or masks.fit(each.tensor, torch.empty(shape, device="meta")) is not None
        for shape in shapes
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
