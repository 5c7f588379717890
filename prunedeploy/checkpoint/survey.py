"""What can be refused of a file's content before torch is imported.

Importing torch takes longer than all else that refuses a small file. A survey visits every
container once and looks at what readers recorded of tensors, never at their numbers. It refuses
only what ``tree`` and ``state`` would refuse later, in the same words.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from prunedeploy.checkpoint.pickle.packed import PackedTensor
from prunedeploy.checkpoint.pickle.stub import (
    NumpyArray,
    Quantised,
    SparseTensor,
    StoredTensor,
    Stub,
)
from prunedeploy.core.budget import EXPANDED
from prunedeploy.core.errors import UserError

MAX_MODULES = 100_000
MAX_PARTS = 100  # dots in a name
MAX_NESTED = 64  # modules
COUNTERS = ("total_ops", "total_params", "n_averaged")  # of thop, and of torch.optim.swa_utils
# What torch computes with, or converts to what it does: not its bits, nor halves of bytes.
NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|b?float(8_\w+|16|32|64)|complex(64|128)")
ALIASES = frozenset(("double", "long", "cdouble", "cfloat", "float", "int", "half", "short"))


def refuse(tree: Any, otherwise: str = "", whole: bool = True) -> None:
    """Refuse a tree that holds no weights, or some that no network has.

    Args:
        tree: what a reader made of an untrusted file.
        otherwise: how the message ends where there are no weights.
        whole: whether the weights are all of a set, and not those under a prefix.

    Raises:
        UserError: in the words of ``tree.find_weights`` and ``state.normalise``.
    """
    holders = []
    for value in _containers(tree):
        if is_stub_of_module(value):
            refuse_modules(value)
        entries = _entries(value)
        if any(map(_is_weight, entries.values())):
            holders.append(entries)
    if not holders:
        raise UserError(f"holds no weights that can be told{contents(tree)}{otherwise}")
    if whole and len(holders) == 1:  # the set that is taken, then
        refuse_names(name for name, value in holders[0].items() if isinstance(name, str))
        for name, value in holders[0].items():
            _refuse_weight(name, value)


def refuse_masks(tree: Any, where: str) -> None:
    """Refuse a file of masks with names or modules that no network has, or without a mask.

    Args:
        tree: what a reader made of an untrusted file.
        where: what the file is called in the message, as "in masks.pt".

    Raises:
        UserError: the first of these, in the words of ``beside.apply_file``.
    """
    masked = _may_mask(tree)
    for value in _containers(tree):
        if is_stub_of_module(value):
            refuse_modules(value)
        entries = _entries(value)
        refuse_names(name for name in entries if isinstance(name, str))
        masked = masked or any(map(_may_mask, entries.values()))
    if not masked:
        raise UserError(f"there is no mask {where}")


def refuse_names(names: Iterable[str]) -> None:
    """Refuse names of more parts than any network has.

    Raises:
        UserError: the first such name.
    """
    if deep := next((name for name in names if name.count(".") > MAX_PARTS), None):
        raise UserError(f"holds a name of {deep.count('.') + 1:,} parts: no network has such")


def refuse_modules(module: Stub) -> None:
    """Refuse a module that is more than any network has once its parts are written out, as one
    whose parts have the same parts twice is.

    Raises:
        UserError: so many, or nested too deeply.
    """
    counts: dict[int, int] = {}

    def count(part: Stub, above: int) -> int:
        if not above:
            raise UserError("holds modules nested too deeply")
        if id(part) not in counts:
            inside = (child for _, child in children_of(part))
            counts[id(part)] = 1 + sum(count(child, above - 1) for child in inside)
            if counts[id(part)] > MAX_MODULES:
                raise UserError("holds more modules than any network has")
        return counts[id(part)]

    count(module, MAX_NESTED)


def is_stub_of_module(value: Any) -> bool:
    """Whether it stands for a module."""
    return isinstance(value, Stub) and (
        value.origin.startswith("__torch__.") or "_modules" in value.fields()
    )


def children_of(module: Stub) -> Iterator[tuple[str, Stub]]:
    """The modules directly in the stub of one, by their names."""
    fields = module.fields()
    for key, child in (as_mapping(fields.get("_modules", fields)) or {}).items():
        if isinstance(key, str) and is_stub_of_module(child):
            yield key, child


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """A dictionary, or the fields of an object that stands for one."""
    if isinstance(value, Mapping):
        return value
    return value.fields() if isinstance(value, Stub) else None


def elements_of(value: Any) -> list[Any]:
    """The elements of a list or of what is like one; of anything else none."""
    if isinstance(value, NumpyArray):
        return value.objects()
    if isinstance(value, np.ndarray):
        return [*value.flat] if value.dtype.kind == "O" else []
    return [*value] if isinstance(value, list | tuple | set | frozenset | deque) else []


def contents(tree: Any) -> str:
    """What a file without weights holds, for messages."""
    mapping = as_mapping(tree)
    if mapping is None:
        return f" (it is {_type(tree)})"
    names = [str(key) for key in list(mapping)[:6]]
    return f" (it has {', '.join(names)})" if names else " (it is empty)"


def _type(value: Any) -> str:
    return value.origin if isinstance(value, Stub) else f"a {type(value).__name__}"


def _containers(tree: Any) -> Iterator[Any]:
    """Every container in ``tree``, itself included, each one once."""
    waiting, seen = [tree], {id(tree)}
    while waiting:
        value = waiting.pop()
        yield value
        for item in _entries(value).values():
            if isinstance(item, _HOLDING) and id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)


_HOLDING = (Mapping, Stub, NumpyArray, np.ndarray, list, tuple, set, frozenset, deque)


def _entries(value: Any) -> Mapping[Any, Any]:
    mapping = as_mapping(value)
    return dict(enumerate(elements_of(value))) if mapping is None else mapping


def _is_weight(value: Any) -> bool:
    """Whether it may be one: a tensor of any axes, or what only torch can tell."""
    if isinstance(value, StoredTensor):
        return bool(value.size)
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind != "O")
    if isinstance(value, NumpyArray | SparseTensor | Quantised):
        return True
    return hasattr(value, "requires_grad")  # a tensor that a library has made


def _may_mask(value: Any) -> bool:
    """Whether it may be a mask: a tensor that ``tensors.as_tensor`` has a number type for."""
    if isinstance(value, StoredTensor):
        return _is_number(value.storage.dtype.name)
    if isinstance(value, SparseTensor):
        return math.prod(_sparse_size(value)) <= EXPANDED
    if isinstance(value, Quantised):
        return isinstance(value, PackedTensor)
    return _is_weight(value)


def _is_number(dtype: str) -> bool:
    return dtype in ALIASES or NUMBERS.fullmatch(dtype) is not None


def _sparse_size(value: SparseTensor) -> tuple[int, ...]:
    """The size that it says it has; empty where it says none."""
    parts = value.data if isinstance(value.data, tuple) else ()
    size = parts[2 if value.layout == "torch.sparse_coo" else 3 :][:1]
    numbers = size[0] if size and isinstance(size[0], tuple | list) else ()
    return tuple(numbers) if all(isinstance(n, int) for n in numbers) else ()


def _refuse_weight(name: Any, value: Any) -> None:
    if isinstance(value, SparseTensor):
        size = _sparse_size(value)
        if math.prod(size) > EXPANDED:
            raise UserError(f"holds a sparse tensor of size {size}, too large to be a weight")
    if not isinstance(name, str) or name.rpartition(".")[2] in COUNTERS:
        return
    stored = value.storage.dtype.name if isinstance(value, StoredTensor) else ""
    quantised = isinstance(value, Quantised) and not isinstance(value, PackedTensor)
    if quantised or stored.startswith(("quint", "qint")):
        raise UserError(f"{name} is quantised to integers: load the network from before that")
    if stored and not _is_number(stored):
        raise UserError(f"{name} is of type {stored}, which is not supported")
