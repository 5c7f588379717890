"""Find the weights in what a file holds: in wrappers of any depth, or in a pickled module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunedeploy.checkpoint.masks import binary, mixed
from prunedeploy.checkpoint.naming import Index, LeftOut, is_mask_key
from prunedeploy.checkpoint.pickle.stub import Quantised, SparseTensor, StoredTensor, Stub
from prunedeploy.checkpoint.survey import (
    MAX_NESTED,
    as_mapping,
    children_of,
    contents,
    elements_of,
    is_stub_of_module,
    refuse_modules,
)
from prunedeploy.checkpoint.tensors import as_tensor
from prunedeploy.core.errors import UserError

# Keys under which training scripts save weights, the most telling first.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "net_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)
MAX_DEPTH = 4
WRAPPING = ("module", "_orig_mod")  # parts of names
NOT_WEIGHTS = ("optim", "sched")  # how keys begin under which training keeps other things

Path = tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """A state_dict as it was found, under which keys, and the other sets of weights in the file.

    ``holder`` is what has the tensors, under the keys ``path``: a mapping, a module, or what stands
    for one. ``others`` are by their keys. ``left`` are the weights that a prefix left out.
    """

    tensors: dict[str, Any]  # Tensor, or a stub that is named when it matters
    notes: tuple[str, ...]
    path: Path
    holder: Any
    others: dict[Path, Any]
    module: nn.Module | None = None  # a trusted file's
    left: LeftOut | None = None


def find_weights(
    tree: Any, name: str | None = None, otherwise: str = "", prefix: str | None = None
) -> Weights:
    """The weights in ``tree``.

    Args:
        tree: what the file holds.
        name: which of several sets: the key that it is under, or, where there is none, what the
            names of its tensors begin with.
        otherwise: how the message ends where there are none.
        prefix: what the names of the tensors to take begin with, with a dot at its end or not.

    Raises:
        UserError: none, or several and no way to tell which; the message has no file name.
    """
    every = _without_masks(_sets(tree, lists=True))
    sets = _without_masks(_sets(tree)) or every
    if not sets:
        raise UserError(f"holds no weights that can be told{contents(tree)}{otherwise}")
    named = _named(name, sets) if name is not None else None
    path = _preferred(tree, sets) if named is None else named
    holder = sets[path]
    tensors = tensors_of(holder)
    assert tensors is not None
    notes = [f"weights under {keys(path)}"] if path else []
    left_out, set_aside = None, set[str]()
    whole, names = tensors, {name: name for name in tensors}  # to what they are called in the file
    for begin in (name if named is None else None, prefix):
        if begin is not None:
            begin = begin.removesuffix(".")
            below = _below(f"{begin}.", tensors, sets)
            masks = _masks_of(tensors, f"{begin}.")
            taken = {names[old] for old in below.values()}
            set_aside |= {names[name] for name in masks}
            left_out = _left_out(whole, taken, set_aside)
            # the mask of a weight that is left out may go with one that is taken by its shape
            masks = [name for name in masks if not left_out.has(left_out.index.find(name, True))]
            rest = {k: v for k, v in tensors.items() if names[k] not in taken | set_aside}
            masks += _masks_among(rest, left_out.index, taken)
            kept = {**below, **{name: name for name in masks}}
            left = len(tensors) - len(kept)
            names = {new: names[old] for new, old in kept.items()}
            tensors = {new: tensors[old] for new, old in kept.items()}
            notes.append(f"weights whose names begin with {begin}., {left} others not")
    if isinstance(holder, nn.Module):
        notes.append(f"whole pickled module {type(holder).__name__}")
    elif isinstance(holder, Stub) and "_modules" in holder.fields():
        notes.append(f"whole pickled module {holder.origin} read as a state_dict, no code run")
    others = {at: value for at, value in every.items() if at != path and _same(value, tensors)}
    is_whole = prefix is None and (name is None or named is not None)
    module = holder if isinstance(holder, nn.Module) and is_whole else None
    return Weights(tensors, tuple(notes), path, holder, others, module, left_out)


def keys(path: Path) -> str:
    """A path through the containers of a file, for messages."""
    return ".".join(map(repr, path))


def tensors_of(holder: Any) -> dict[str, Any] | None:
    """The state_dict that ``holder`` is or has, or None when there is no weight in it."""
    if isinstance(holder, nn.Module):
        return {name: as_tensor(value) for name, value in holder.state_dict().items()}
    if is_module(holder):
        items = {name: as_tensor(value) for name, value in _module_tensors(holder)}
    else:
        mapping = as_mapping(holder)
        if mapping is None:
            return None
        items = {k: as_tensor(v) for k, v in mapping.items() if isinstance(k, str)}
    if any(isinstance(v, Quantised) or (isinstance(v, Tensor) and v.dim()) for v in items.values()):
        return items
    return None


def is_module(value: Any) -> bool:
    """A module, or what stands for one."""
    return isinstance(value, nn.Module) or is_stub_of_module(value)


def modules_of(module: Any) -> Iterator[tuple[str, Any]]:
    """Every module in ``module`` with its name and a dot, itself with none.

    Raises:
        UserError: they are more than any network has, or nested too deeply.
    """
    if not isinstance(module, nn.Module):
        refuse_modules(module)
    yield from _modules_of(module, "", MAX_NESTED)


def _modules_of(module: Any, prefix: str, above: int) -> Iterator[tuple[str, Any]]:
    if not above:
        raise UserError("holds modules nested too deeply")
    yield prefix, module
    inside = module._modules.items() if isinstance(module, nn.Module) else children_of(module)
    for key, child in inside:
        if is_module(child) and isinstance(key, str):
            yield from _modules_of(child, f"{prefix}{key}.", above - 1)


def origins_of(holder: Any) -> dict[str, str]:
    """The class of each module of a stub by its name."""
    if not isinstance(holder, Stub) or not is_module(holder):
        return {}
    return {path.removesuffix("."): part.origin for path, part in modules_of(holder)}


# -- the sets --------------------------------------------------------------------------------------


def _sets(tree: Any, lists: bool = False) -> dict[Path, Any]:
    """Every holder of weights by the keys that lead to it first; masks hold none.

    With ``lists`` those in lists, too, and lists of weights that have no names.
    """
    sets: dict[Path, Any] = {}
    waiting: list[tuple[Path, Any]] = [((), tree)]
    seen: set[int] = set()
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_module(value):
            if tensors_of(value):
                sets[path] = value
            continue
        entries = _entries(value, lists)
        if _has_weights(entries):
            sets[path] = value if as_mapping(value) is not None else entries
        below = [
            ((*path, key), inside)
            for key, inside in entries.items()
            if not key.startswith(NOT_WEIGHTS) and not is_mask_key(key)
        ]
        waiting += reversed(below) if len(path) < MAX_DEPTH else []
    return sets


def _entries(value: Any, lists: bool) -> Mapping[str, Any]:
    """What a container holds under names; with ``lists`` also the elements of a list or of what is
    like one, by their positions."""
    mapping = as_mapping(value)
    if mapping is None:
        return {str(at): item for at, item in enumerate(elements_of(value))} if lists else {}
    positions = lists and not isinstance(value, Mapping)
    return {str(k): v for k, v in mapping.items() if isinstance(k, str) or positions}


def _has_weights(mapping: Mapping[str, Any]) -> bool:
    """Whether a mapping has tensors of its own; sparse ones are not looked into."""
    for value in mapping.values():
        if isinstance(value, Quantised | SparseTensor):
            return True
        tensor = as_tensor(value)
        if isinstance(tensor, Tensor) and tensor.dim():
            return True
    return False


def _without_masks(sets: dict[Path, Any]) -> dict[Path, Any]:
    """The sets without those that are zeros and ones throughout, beside others that are not."""
    weights = {
        path: holder
        for path, holder in sets.items()
        if not path or path[-1] in WRAPPERS or is_module(holder) or not _all_binary(holder)
    }
    return weights or sets


def _all_binary(holder: Any) -> bool:
    values = (as_mapping(holder) or {}).values()
    tensors = [as_tensor(value) for value in values if not isinstance(value, SparseTensor)]
    dense = [value for value in tensors if isinstance(value, Tensor) and value.dim()]
    return all(value.layout == torch.strided and binary(value) for value in dense)


def _preferred(tree: Any, sets: Mapping[Path, Any]) -> Path:
    """The keys of the set that training code would load.

    Raises:
        UserError: there are several, none of them under a key that is known.
    """
    path: Path = ()
    while not is_module(tree):
        below = {at for at in sets if at[: len(path)] == path and len(at) > len(path)}
        first = {at[len(path)] for at in below}
        known = next((key for key in WRAPPERS if key in first), None)
        if known is None:
            if path in sets or not first:
                break
            if len(first) > 1:
                raise UserError(
                    f"holds several sets of weights ({', '.join(sorted(first))}): name one with"
                    " --weights"
                )
            (known,) = first
        tree, path = _entries(tree, lists=True)[known], (*path, known)
    return path


def _named(name: str, sets: Mapping[Path, Any]) -> Path | None:
    """The keys of the set called ``name``, by its last ones; None where no set is under such."""
    at = [path for path in sets if path and f".{'.'.join(path)}".endswith(f".{name}")]
    at = at or [path for path in sets if name in path]
    if len(at) > 1:
        shown = ", ".join(".".join(path) for path in at)
        raise UserError(f"holds several sets of weights called {name} ({shown}): name one of these")
    return at[0] if at else None


def _start(prefix: str, tensors: Iterable[str]) -> str:
    """What wrappers put in front of ``prefix``, the least of it where there are several."""
    starts = [
        name[: f".{name}".index(f".{prefix}")] for name in tensors if f".{prefix}" in f".{name}"
    ]
    return min(starts, key=len, default="")


def _below(prefix: str, tensors: dict[str, Any], sets: Mapping[Path, Any]) -> dict[str, str]:
    """The names of the tensors that begin with ``prefix``, whatever wrappers put in front of it, by
    the names that they have without it."""
    start = _start(prefix, tensors)
    begin = start + prefix
    below = {start + name.removeprefix(begin): name for name in tensors if name.startswith(begin)}
    if not any(_counts(tensors[name]) for name in below.values()):
        names = [".".join(path) for path in sets if path]
        names += dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
        shown = ", ".join(names[:8]) or "one set without a name"
        raise UserError(f"holds no weights called {prefix.removesuffix('.')}: it has {shown}")
    return below


def _masks_of(tensors: Mapping[str, Any], prefix: str) -> list[str]:
    """What is beside the tensors of a prefix in parts that have no weights but masks alone; the
    prefix may be in its names, too: ``mask.backbone.conv1.weight`` beside ``backbone.``."""
    start = _start(prefix, tensors)
    parts: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        if not key.startswith(start + prefix) and isinstance(value, Tensor) and value.dim():
            parts.setdefault(key.removeprefix(start).partition(".")[0], {})[key] = value
    masks = [
        part for part in parts.values() if _all_binary(part) and any(map(mixed, part.values()))
    ]
    return [key for part in masks for key in part]


def _masks_among(tensors: Mapping[str, Any], index: Index, taken: set[str]) -> list[str]:
    """Masks that have the whole name of a weight that is taken, and other tensors beside them, as
    the scores of a pruner."""
    called = [x for x in tensors if is_mask_key(x) or any(map(is_mask_key, x.split(".")))]
    targets = {name: index.find(name, among=True) for name in called}
    return [
        name
        for name, target in targets.items()
        if target is not None
        and target.name in taken
        and isinstance(tensors[name], Tensor)
        and tensors[name].dim()
        and binary(tensors[name])
    ]


def _left_out(whole: Mapping[str, Any], taken: set[str], masks: set[str]) -> LeftOut:
    """The weights of a set that are not taken; of those that have a mask of torch's, under the name
    that they have without it."""
    weights = {k: v for k, v in whole.items() if isinstance(v, Tensor) and k not in masks}
    index = Index({name.removesuffix("_orig"): value for name, value in weights.items()})
    return LeftOut(index, frozenset(x.removesuffix("_orig") for x in weights if x not in taken))


def _same(holder: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether a holder has weights under the names of ``tensors``: of the same network, then."""
    theirs = {name: value for name, value in (tensors_of(holder) or {}).items() if _counts(value)}
    ours = {name: value for name, value in tensors.items() if _counts(value)}
    if all(name.isdecimal() for name in theirs):  # a list
        return bool(theirs) and _shapes(theirs) == _shapes(ours) and not _all_binary(theirs)
    names = _plain(theirs)
    return 2 * len(names & _plain(ours)) >= len(names)


def _shapes(tensors: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return sorted(tuple(x.shape) for x in tensors.values() if isinstance(x, Tensor) and x.dim() > 1)


def _counts(value: Any) -> bool:
    return isinstance(value, Quantised) or (
        isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0
    )


def _plain(names: Iterable[str]) -> set[tuple[str, ...]]:
    """The parts of names without those of wrappers and without what all begin with."""
    split = [
        tuple(part for part in name.removesuffix("_orig").split(".") if part not in WRAPPING)
        for name in names
    ]
    while split and len({parts[:1] for parts in split}) == 1 and min(map(len, split)) > 1:
        split = [parts[1:] for parts in split]
    return set(split)


def _module_tensors(module: Stub) -> Iterator[tuple[str, Any]]:
    """Name and tensor of every parameter and persistent buffer of a module's stub."""
    for path, part in modules_of(module):
        fields = part.fields()
        if "_modules" not in fields:  # TorchScript keeps all in one
            named = ((k, v) for k, v in fields.items() if isinstance(k, str))
            yield from ((f"{path}{k}", v) for k, v in named if isinstance(v, StoredTensor))
            continue
        names = fields.get("_non_persistent_buffers_set")
        hidden = names if isinstance(names, set) else ()
        for key, value in (as_mapping(fields.get("_parameters")) or {}).items():
            if value is not None:
                yield f"{path}{key}", value
        for key, value in (as_mapping(fields.get("_buffers")) or {}).items():
            if value is not None and key not in hidden:
                yield f"{path}{key}", value
