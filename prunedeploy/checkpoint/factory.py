"""The user's own network: made by a factory that ``--arch`` names, or a trusted file's module."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune

from prunedeploy import models
from prunedeploy.checkpoint import current_folder, readings, selection
from prunedeploy.checkpoint.network import HOW, State, difference, filled, match_kernels, shapes_of
from prunedeploy.checkpoint.parametrized import MASKS
from prunedeploy.checkpoint.state import Normalised
from prunedeploy.core.errors import UserError

COUNTER = "num_batches_tracked"


def from_factory(arch: str, read: Normalised) -> tuple[nn.Module, list[str]]:
    """The network of the user's factory with the weights read; notes.

    ``arch`` is ``pkg.module:name`` or ``path/file.py:name``.

    The layers are given the shapes of the weights, so a factory of the original network serves
    for a checkpoint that is shrunk already. What the network has a place for of its own, a mask or
    what a parametrization computes from, it computes with itself.

    Raises:
        UserError: the factory cannot be had, its network has other parameters, or there is a doubt
            about the weights that it does not settle.
    """
    module, taken = _call(arch)
    module = plain_module(module)
    inference(module)
    names = set(nn.Module.state_dict(module))
    note = None
    if not any(name.rpartition(".")[2] == "indexes" for name in names):
        note = selection.expand(read.state)
    reading, prefix = _reading(read.state, names)
    aliases = reading.aliases([*read.state, *read.masks, *read.bare.values()])
    aliases = {name: f"{prefix}{alias}" for name, alias in aliases.items()}
    state = {aliases[name]: tensor for name, tensor in read.state.items() if name in aliases}
    bare = {aliases[name]: name for name in read.bare.values() if name in aliases}
    settled = _compute_parametrized(module, state, bare)
    make_plain(module)
    _materialise(module, state, arch)
    _grant_biases(module, state)
    _tie(module, state)
    wanted = shapes_of(nn.Module.state_dict(module))
    for name, why in read.doubts.items():
        alias = aliases.get(name)
        if alias is not None and alias not in settled and alias not in wanted:
            raise UserError(why)
    kept = {aliases[name]: mask for name, mask in read.masks.items() if name in aliases}
    missing = [
        name
        for name in wanted
        if name not in state
        and not name.endswith(COUNTER)
        and not _supply(name, wanted[name], state, kept)
    ]
    unexpected = [name for name in state if name not in wanted and not name.endswith(COUNTER)]
    if missing or unexpected:
        how = readings.advice(read.state, readings.whole_for(read.state, names)) or HOW
        raise UserError(f"it does not fit {arch}: {difference(missing, unexpected)}; {how}")
    _refuse_transposed(module, {aliases[name] for name in read.filters if name in aliases})
    match_kernels(state, wanted)
    models.fit(module, shapes_of(state))
    lines = (taken, note, reading.note(read.state))
    return filled(module, state), [line for line in lines if line]


def from_pickle(module: nn.Module) -> nn.Module:
    """A trusted file's own module, its pruned layers made plain."""
    module = plain_module(module)
    inference(module)
    make_plain(module)
    return module.float().requires_grad_(False)


def _reading(state: State, names: set[str]) -> tuple[readings.Reading, str]:
    """How to read the file's names for a network with the names ``names``, and what that network
    alone has in front of them."""
    for own in readings.of_all(names):
        wanted = set(own.aliases(names).values())
        chosen = readings.choose(state, readings.whole_for(state, wanted))
        if chosen is not None and not own.inside:
            return chosen, own.prefix
    return readings.for_names(state, names), ""


def _tie(module: nn.Module, state: State) -> None:
    """Give each name of a tensor that the network has under several names the file's values: the
    file may have it once, as safetensors does."""
    names: dict[int, list[str]] = {}
    for name, tensor in nn.Module.state_dict(module, keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    for same in names.values():
        stored = next((state[name] for name in same if name in state), None)
        if stored is not None:
            state.update({name: stored for name in same if name not in state})


def plain_module(module: nn.Module) -> nn.Module:
    """The network without what trains it on several devices or compiles it, itself and its parts:
    DataParallel, torch.compile, weight averaging.

    Raises:
        UserError: a TorchScript program, or attributes in the place of methods.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            "the network is a TorchScript program, which takes no other weights: give the network"
            " itself, as it is before torch.jit"
        )
    _restore_methods(module)
    for part in list(module.modules()):
        if part._compiled_call_impl is not None:  # module.compile()
            part._compiled_call_impl = None
        for key, child in list(part._modules.items()):
            if child is not None and (inner := _inside(child)) is not child:
                part._modules[key] = inner
    return _inside(module)


def _restore_methods(module: nn.Module) -> None:
    """Make attributes that hide methods of ``nn.Module`` (``self.modules = [...]``) callable, as
    those methods: the network's code reads the attribute, and torch calls the method.

    Raises:
        UserError: an attribute of a type that cannot be called, either.
    """
    waiting = [module]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        waiting += [child for child in part._modules.values() if child is not None]
        for key, value in list(vars(part).items()):
            method = getattr(nn.Module, key, None)
            if key.startswith("_") or not callable(method) or callable(value):
                continue
            kind = type(value)
            if kind not in (list, tuple, dict, str, int, float):
                raise UserError(
                    f"the network's {type(part).__name__} has an attribute {key} in the place of"
                    " the method of nn.Module: give it another name"
                )
            call = partial(method, part)
            body = {"__call__": lambda _, *args, call=call, **options: call(*args, **options)}
            setattr(part, key, type(kind.__name__, (kind,), body)(value))


def inference(module: nn.Module) -> None:
    """Set a network to eval mode, whatever it has made of ``train``."""
    with contextlib.suppress(Exception):  # the user's code may raise anything
        module.eval()
    for part in nn.Module.modules(module):
        part.training = False


def _inside(module: nn.Module) -> nn.Module:
    from torch.optim.swa_utils import AveragedModel

    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
    while True:
        key = "module" if isinstance(module, wrappers) else "_orig_mod"
        inner = module._modules.get(key)
        if inner is None:
            return module
        module = inner


def make_plain(module: nn.Module) -> None:
    """Make the parametrized weights of a network plain parameters: masks are applied."""
    for layer in module.modules():
        hooks = [*layer._forward_pre_hooks.values()]
        for name in [x._tensor_name for x in hooks if isinstance(x, prune.BasePruningMethod)]:
            prune.remove(layer, name)  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(layer):
            assert isinstance(layer.parametrizations, nn.ModuleDict)
            for name in list(layer.parametrizations):
                parametrize.remove_parametrizations(layer, name)


def _compute_parametrized(module: nn.Module, state: State, bare: Mapping[str, str]) -> set[str]:
    """Let the network's own parametrizations compute what the file has the originals of.

    Those of torch.ao.pruning do not: their masks are not in any state_dict.

    Args:
        module: the network; its parametrizations that were used are removed.
        state: changed in place, the originals replaced by the weights.
        bare: the names of originals that are in ``state`` as the plain weights.

    Returns:
        The names of the originals that were used.
    """
    used: set[str] = set()
    for prefix, layer in list(module.named_modules()):
        parts = layer._modules.get("parametrizations")
        if not parametrize.is_parametrized(layer) or not isinstance(parts, nn.ModuleDict):
            continue
        for name, chain in list(parts.items()):
            target = f"{prefix}.{name}".removeprefix(".")
            stem = f"{prefix}.parametrizations.{name}.".removeprefix(".")
            if any(type(part).__name__ in MASKS for part in chain.children()):
                continue
            if f"{stem}original" in bare and target in state:
                state[f"{stem}original"] = state.pop(target)
            own = {key: state[key] for key in state if key.startswith(stem)}
            if not own:
                continue
            try:
                chain.load_state_dict({key.removeprefix(stem): own[key] for key in own})
            except RuntimeError as error:
                lines = str(error).strip().splitlines()
                raise UserError(f"{stem} does not fit the network ({lines[-1].strip()})") from None
            parametrize.remove_parametrizations(layer, name)
            for key in own:
                del state[key]
            state[target] = getattr(layer, name).detach()
            used |= own.keys()
    return used


def _materialise(module: nn.Module, state: State, arch: str) -> None:
    """Give lazy layers the sizes of the weights, as their first run would."""
    for prefix, layer in module.named_modules():
        if not isinstance(layer, LazyModuleMixin):
            continue
        assert isinstance(layer, nn.Module)
        for key, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
            if tensor is None or not is_lazy(tensor):
                continue
            weight = state.get(f"{prefix}.{key}".removeprefix("."))
            if weight is None:
                raise UserError(
                    f"--arch {arch}: it gave a network with lazy layers, and the checkpoint has no"
                    f" {prefix}.{key}: run the network once on an input in the factory"
                )
            tensor.materialize(tuple(weight.shape))
        for hook in ("_initialize_hook", "_load_hook"):
            if hasattr(layer, hook):
                getattr(layer, hook).remove()
                delattr(layer, hook)
        if layer.cls_to_become is not None:
            layer.__class__ = layer.cls_to_become


def _grant_biases(module: nn.Module, state: State) -> None:
    """A bias for layers that the factory makes without: a slice plan may have given them one."""
    for name, layer in module.named_modules():
        key = f"{name}.bias"
        if key in state and isinstance(layer, nn.Linear | _ConvNd) and layer.bias is None:
            layer.register_parameter("bias", nn.Parameter(torch.zeros_like(state[key])))


def _supply(name: str, shape: tuple[int, ...], state: State, kept: Mapping[str, Tensor]) -> bool:
    """A mask that the network has a place for: the one that was applied, which changes nothing
    more; ones where the weights never had one."""
    if name in kept and tuple(kept[name].shape) == shape:
        state[name] = kept[name]
        return True
    if name.endswith(("_mask", ".mask")):
        target = name.removesuffix("_mask")
        if name.endswith(".mask"):
            target = name.removesuffix("mask") + "weight"
        if target in state:
            weight = state[target]
            state[name] = torch.ones(weight.shape if len(shape) == weight.dim() else shape)
            return True
    return False


def _refuse_transposed(module: nn.Module, filters: Iterable[str]) -> None:
    """Refuse masks of whole filters for transposed convolutions, whose first axis is the inputs."""
    for name in filters:
        layer = module.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, _ConvTransposeNd):
            raise UserError(
                f"the mask of {name} has one value a channel, and the layer is a transposed"
                " convolution with as many inputs as outputs: save it in the shape of the weight"
            )


def _call(arch: str) -> tuple[nn.Module, str | None]:
    """Import and call the factory that ``--arch`` names: naming it is the user's consent.

    What it prints is no part of the command's output. Returns the network, and a note where it was
    one of several things.
    """
    with contextlib.redirect_stdout(sys.stderr):
        made = _made(arch)
    parts = [*made.values()] if isinstance(made, dict) else made
    several = parts if isinstance(parts, list | tuple) else [parts]
    networks = [part for part in several if isinstance(part, nn.Module)]
    if len(networks) == 1:
        what = type(made).__name__
        return networks[0], None if networks[0] is made else f"the one network in the {what} taken"
    if networks:
        raise UserError(
            f"--arch {arch}: it gave {len(networks)} networks: write one that gives one"
        )
    raise UserError(f"--arch {arch}: it gave a {type(made).__name__}, not a torch nn.Module")


def _made(arch: str) -> Any:
    """What the factory gives."""
    where, _, name = arch.rpartition(":")
    is_file = where.endswith(".py")
    is_module = where.replace(".", "").isidentifier()
    if not (is_file or is_module) or not name.replace(".", "").isidentifier():
        raise UserError(f"--arch {arch}: write it as pkg.module:factory or path/file.py:factory")
    try:
        factory: Any
        if is_file:
            factory = current_folder.import_file(Path(where))
        else:
            with current_folder.asked():
                factory = importlib.import_module(where)
        for part in name.split("."):
            factory = getattr(factory, part)
    except ImportError as error:
        raise UserError(f"--arch {arch}: cannot import {where} ({error})") from None
    except AttributeError:
        raise UserError(f"--arch {arch}: {where} has no {name}") from None
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise UserError(f"--arch {arch}: importing {where} failed ({_reason(error)})") from error
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UserError(f"--arch {arch}: {name} is not a function or class that makes a network")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        how = ": it must work without arguments" if isinstance(error, TypeError) else ""
        raise UserError(f"--arch {arch}: calling it failed ({_reason(error)}){how}") from error


def _reason(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
