"""Find the tensors that a file has beside its weights, in containers and objects of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from prunedeploy.checkpoint.naming import is_mask_key, words
from prunedeploy.checkpoint.pickle.stub import SparseTensor, StoredTensor
from prunedeploy.checkpoint.survey import as_mapping, elements_of
from prunedeploy.checkpoint.tensors import NUMBERS, as_tensor
from prunedeploy.checkpoint.tree import (
    NOT_WEIGHTS,
    Path,
    Weights,
    is_module,
    keys,
    modules_of,
    tensors_of,
)

MAX_DEPTH = 12  # keys on the way to a mask
# What every module has; never a mask, but as hidden buffers and in hooks.
INTERNAL = frozenset(vars(nn.Module())) | {"_backend", "_version"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
PLURAL = frozenset(("masks", "list"))  # how the names of lists of masks end
Positions = tuple[int, ...]


@dataclass(frozen=True)
class MaskCandidate:
    """A tensor outside of the weights, under the keys ``path``.

    ``named`` says that a key on the way calls it a mask. ``positions`` are the indices in ``path``
    of keys that only count, of the elements of lists and in states of optimizers.
    """

    path: Path
    tensor: Tensor
    named: bool
    positions: Positions = ()

    @property
    def is_element(self) -> bool:
        """Whether it is an element of a list itself, and not only in one."""
        return len(self.path) - 1 in self.positions

    @property
    def listed(self) -> Path | None:
        """The path of the list that it is in: what it has in common with the other elements."""
        if not self.positions:
            return None
        return tuple(key for at, key in enumerate(self.path) if at not in self.positions)

    @property
    def where(self) -> str:
        """The name of the entry in messages."""
        return keys(self.path)


def collect(tree: Any, weights: Weights | None = None, own: bool = True) -> list[MaskCandidate]:
    """Every tensor in ``tree`` that may be a mask of ``weights``.

    Args:
        tree: what the file holds.
        weights: the set whose tensors are left out, as are those of the other sets of the file, and
            what lies beside them.
        own: whether to look at what a module has beside its parameters and buffers; not where its
            own code computes with that.
    """
    if weights is None:
        return list(_Walk(None, set(), own).tensors(tree))
    walk = _Walk(weights.holder, {id(value) for value in weights.others.values()}, own)
    return [
        each
        for each in walk.tensors(tree)
        if all(_shared(each.path, x) <= _shared(each.path, weights.path) for x in weights.others)
    ]


def _shared(one: Path, other: Path) -> int:
    """How many keys two paths have in common."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count


class _Walk:
    """Visit containers from the outside in, each one once, so that cycles end."""

    def __init__(self, holder: Any, others: set[int], own: bool) -> None:
        self._holder, self._others, self._own = holder, others, own
        self._modules: dict[int, str] = {}
        if is_module(holder):
            self._modules = {id(part): prefix for prefix, part in modules_of(holder)}

    def tensors(self, tree: Any) -> Iterator[MaskCandidate]:
        waiting: list[tuple[Path, Any, Positions]] = [((), tree, ())]
        seen: set[int] = set()
        while waiting:
            path, value, positions = waiting.pop()
            if (tensor := _tensor(value, path)) is not None:
                named = any(map(is_mask_key, path))
                if tensor.dim() and (named or not path[:1] or not path[0].startswith(NOT_WEIGHTS)):
                    yield MaskCandidate(path, tensor, named, positions)
                continue
            if id(value) in seen or len(path) > MAX_DEPTH:
                continue
            seen.add(id(value))
            waiting += [
                (at, item, positions if named else (*positions, len(path)))
                for at, named, item in reversed(list(self._inside(value, path)))
            ]

    def _inside(self, value: Any, path: Path) -> Iterator[tuple[Path, bool, Any]]:
        """The entries of a container with their keys; says whether the last key is a name."""
        if is_module(value):
            if value is self._holder and not self._own:
                return
            for prefix, part in modules_of(value):
                for key, item in _attributes(part):
                    yield (*path, *f"{prefix}{key}".split(".")), True, item
            if value is not self._holder and id(value) not in self._others:
                for key, item in (tensors_of(value) or {}).items():
                    yield (*path, *key.split(".")), True, item
        elif elements := elements_of(value):
            for at, item in enumerate(elements):
                if _is_named(item):
                    yield (*path, str(item[0])), True, item[1]
                elif _may_hold(item, path):
                    yield (*path, str(at)), False, item
        else:
            for key, item in _entries(value).items():
                if id(key) in self._modules:  # GraSP keys masks by their modules
                    yield (*path, f"{self._modules[id(key)]}weight"), True, item
                elif self._is_own(value, item, path):
                    for attribute, inner in _of_tensor(item):
                        yield (*path, str(key), attribute), True, inner
                elif _may_hold(item, (*path, str(key))):
                    yield (*path, str(key)), not isinstance(key, int), item

    def _is_own(self, value: Any, item: Any, path: Path) -> bool:
        """Whether it is a tensor of a set of weights, and no mask beside them."""
        is_set = value is self._holder or id(value) in self._others
        return is_set and _tensor(item, path) is not None


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of a module and of its tensors that its state_dict lacks: plain ones, hidden
    buffers, what hooks hold."""
    fields = vars(part) if isinstance(part, nn.Module) else part.fields()
    if "_modules" not in fields:
        return
    hidden = fields.get("_non_persistent_buffers_set")
    for group in ("_parameters", "_buffers"):
        for key, value in (as_mapping(fields.get(group)) or {}).items():
            if isinstance(hidden, set) and key in hidden and value is not None:
                yield str(key), value
            yield from ((f"{key}.{name}", item) for name, item in _of_tensor(value))
    for group in HOOKS:
        for hook in (as_mapping(fields.get(group)) or {}).values():
            if "_tensor_name" not in _entries(hook):  # torch's own, whose masks are buffers
                yield "hook", hook
    for key, value in fields.items():
        if isinstance(key, str) and key not in INTERNAL and _may_hold(value):
            yield key, value


def _of_tensor(value: Any) -> list[tuple[str, Any]]:
    """The attributes that somebody has given to a tensor."""
    if isinstance(value, StoredTensor):
        attributes = as_mapping(value.attributes) or {}
    else:
        attributes = vars(value) if isinstance(value, Tensor) else {}
    return [(str(key), item) for key, item in attributes.items() if _may_hold(item)]


def _entries(value: Any) -> Mapping[Any, Any]:
    """The items of a mapping, those under numbers in their order, or the fields of an object whose
    class the trusted file defines."""
    if (mapping := as_mapping(value)) is not None:
        numbers = all(isinstance(key, int) for key in mapping)
        return dict(sorted(mapping.items())) if numbers else mapping
    if isinstance(value, partial):
        return {**value.keywords, **dict(enumerate(value.args))}
    inert = isinstance(value, type | torch.dtype | torch.Size | torch.Generator | FunctionType)
    return vars(value) if hasattr(value, "__dict__") and not inert else {}


def _is_named(value: Any) -> bool:
    """A pair of a name and what it is the name of."""
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)


def _may_hold(value: Any, path: Path = ()) -> bool:
    """Whether it may be a mask or hold some; bytes only where a key says that they are one."""
    if isinstance(value, bytes | bytearray):
        return bool(value) and any(map(is_mask_key, path))
    return value is not None and not isinstance(value, str | int | float | complex | type)


def _tensor(value: Any, path: Path) -> Tensor | None:
    """The tensor that it is, dense; sparse ones, bytes and lists of numbers only where a key says
    that they are masks."""
    named = any(map(is_mask_key, path))
    if isinstance(value, SparseTensor) and not named:
        return None
    if named and isinstance(value, bytes | bytearray):
        return torch.frombuffer(bytearray(value), dtype=torch.uint8)
    if named and isinstance(value, list | tuple) and not PLURAL & set(words(path[-1])[-1:]):
        value = _numbers(value)
    tensor = as_tensor(value)
    if not isinstance(tensor, Tensor) or tensor.dtype not in NUMBERS or tensor.is_complex():
        return None
    if tensor.layout != torch.strided:
        return tensor.to_dense() if named else None
    return tensor


def _numbers(value: list[Any] | tuple[Any, ...]) -> Any:
    """Numbers in lists of one length as a tensor; anything else as it is."""
    first: Any = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if not isinstance(first, int | float):
        return value
    try:
        return torch.tensor(value)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return value
