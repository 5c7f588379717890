"""Find the weights in what a file holds: in wrappers of any depth, or in a pickled module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunedeploy.checkpoint.standin import Inert, NumpyArray, Quantised, SparseTensor
from prunedeploy.errors import UserError

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
MASKS = ("mask", "masks", "masks_dict")
DEEPEST = 4


@dataclass(frozen=True)
class Weights:
    """A state_dict as it was found, under which keys, and masks kept elsewhere in the file."""

    tensors: dict[str, Any]  # Tensor, or a stand-in that is named when it matters
    found: tuple[str, ...]
    masks: dict[str, Tensor]
    module: nn.Module | None = None  # a trusted file's


def find_weights(tree: Any) -> Weights:
    """The weights in ``tree``.

    Raises:
        UserError: none, or several and no way to tell which; the message has no file name.
    """
    found = _find(tree, DEEPEST)
    if found is None:
        raise UserError(f"holds no weights that can be told{_contents(tree)}")
    path, holder = found
    tensors = _tensors(holder)
    assert tensors is not None
    notes = [f"weights under {'.'.join(map(repr, path))}"] if path else []
    if isinstance(holder, nn.Module):
        notes.append(f"whole pickled module {type(holder).__name__}")
    elif isinstance(holder, Inert) and "_modules" in holder.fields():
        notes.append(f"whole pickled module {holder.origin} read as a state_dict, no code run")
    module = holder if isinstance(holder, nn.Module) else None
    return Weights(tensors, tuple(notes), _masks(tree, holder), module)


def as_tensor(value: Any) -> Any:
    """A tensor for what stands for one until all is read; anything else as it is."""
    if isinstance(value, NumpyArray | SparseTensor):
        return value.tensor()
    return value.detach() if isinstance(value, Tensor) else value


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """A dictionary, or the fields of an object that stands for one."""
    if isinstance(value, Mapping):
        return value
    return value.fields() if isinstance(value, Inert) else None


def _find(tree: Any, depth: int) -> tuple[tuple[str, ...], Any] | None:
    """Path to the holder of the weights, and the holder."""
    mapping = as_mapping(tree)
    if _is_module(tree):
        return ((), tree) if _tensors(tree) else None
    if mapping is None or depth == 0:
        return None
    for key in WRAPPERS:
        if key in mapping and (below := _find(mapping[key], depth - 1)) is not None:
            return (key, *below[0]), below[1]
    if _tensors(mapping):
        return (), tree
    others = {
        key: below
        for key, value in mapping.items()
        if isinstance(key, str)
        and not key.startswith(("optim", "sched"))
        and (below := _find(value, depth - 1)) is not None
    }
    if len(others) > 1:
        raise UserError(f"holds several sets of weights ({', '.join(others)}): save one alone")
    for key, below in others.items():
        return (key, *below[0]), below[1]
    return None


def _tensors(holder: Any) -> dict[str, Any] | None:
    """The state_dict that ``holder`` is or has, or None when there is no weight in it."""
    if isinstance(holder, nn.Module):
        return {name: as_tensor(value) for name, value in holder.state_dict().items()}
    if _is_module(holder):
        items = {name: as_tensor(value) for name, value in _module_tensors(holder)}
    else:
        mapping = as_mapping(holder)
        assert mapping is not None
        items = {k: as_tensor(v) for k, v in mapping.items() if isinstance(k, str)}
    if any(isinstance(v, Quantised) or (isinstance(v, Tensor) and v.dim()) for v in items.values()):
        return items
    return None


def _is_module(value: Any) -> bool:
    if isinstance(value, nn.Module):
        return True
    return isinstance(value, Inert) and (
        value.origin.startswith("__torch__.") or "_modules" in value.fields()
    )


def _module_tensors(module: Inert, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and tensor of every parameter and persistent buffer of a module's stand-in."""
    for path, part in modules_of(module, prefix):
        fields = part.fields()
        if "_modules" not in fields:  # TorchScript keeps all in one
            yield from ((f"{path}{k}", v) for k, v in fields.items() if isinstance(v, Tensor))
            continue
        names = fields.get("_non_persistent_buffers_set")
        hidden = names if isinstance(names, set) else ()
        for key, value in (as_mapping(fields.get("_parameters")) or {}).items():
            if value is not None:
                yield f"{path}{key}", value
        for key, value in (as_mapping(fields.get("_buffers")) or {}).items():
            if value is not None and key not in hidden:
                yield f"{path}{key}", value


def modules_of(module: Any, prefix: str = "", above: int = 64) -> Iterator[tuple[str, Any]]:
    """Every module in ``module`` with its name and a dot, itself with ``prefix``."""
    if not above:
        raise UserError("holds modules nested too deeply")
    yield prefix, module
    if isinstance(module, nn.Module):
        children: Mapping[Any, Any] = module._modules
    else:
        fields = module.fields()
        children = as_mapping(fields.get("_modules", fields)) or {}
    for key, child in children.items():
        if _is_module(child):
            yield from modules_of(child, f"{prefix}{key}.", above - 1)


def _masks(tree: Any, holder: Any) -> dict[str, Tensor]:
    """Masks beside the weights: Distiller's ``masks_dict``; GraSP's ``mask``, keyed by modules."""
    top = as_mapping(tree) or {}
    schedule = as_mapping(top.get("compression_sched")) or {}
    names = {}
    if _is_module(holder):
        names = {id(part): path for path, part in modules_of(holder)}
    masks = {}
    for source in (top, schedule):
        for key in MASKS:
            for owner, value in (as_mapping(source.get(key)) or {}).items():
                tensor = as_tensor(value)
                name = owner if isinstance(owner, str) else names.get(id(owner))
                if name is not None and isinstance(tensor, Tensor):
                    masks[name if isinstance(owner, str) else f"{name}weight"] = tensor
    return masks


def _contents(tree: Any) -> str:
    mapping = as_mapping(tree)
    if mapping is None:
        return f" (it is {_type(tree)})"
    names = [str(key) for key in list(mapping)[:6]]
    return f" (it has {', '.join(names)})" if names else " (it is empty)"


def _type(value: Any) -> str:
    return value.origin if isinstance(value, Inert) else f"a {type(value).__name__}"
