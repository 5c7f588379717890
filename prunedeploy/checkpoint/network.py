"""The network that the weights belong to: recognised, named, or made by the user's own factory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunedeploy import models
from prunedeploy.checkpoint import selection
from prunedeploy.errors import UserError
from prunedeploy.models import Recipe

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
HOW = "name it with --arch NAME or --arch pkg.module:factory"
SHOWN = 3  # names in an error
HEADS = ("fc", "linear", "classifier", "head")


def recipe_for(arch: str | None, state: State, otherwise: str = "") -> Recipe:
    """The recipe named ``arch``, or the one whose parameter names these are.

    Raises:
        UserError: there is none; ``otherwise`` ends the message.
    """
    if arch is not None:
        return models.by_name(arch)
    nearest = []
    for _, names in _variants(state):
        shapes = shapes_of({new: state[old] for old, new in names.items()})
        if recipe := models.recognise(shapes):
            return recipe
        nearest.append(models.nearest(shapes))
    recipe, missing, unexpected = min(nearest, key=lambda row: len(row[1]) + len(row[2]))
    raise UserError(
        f"the architecture is not recognised (nearest is {recipe.name},"
        f" {_difference(missing, unexpected)}): {HOW}{otherwise}"
    )


def linear_head(state: State) -> str | None:
    """The classifier of STR's networks, a 1x1 convolution without bias, as a linear layer: the
    reference networks have one, and a bias of zero changes nothing."""
    for name, weight in state.items():
        layer = name.removesuffix(".weight")
        is_head = layer.rpartition(".")[2] in HEADS and tuple(weight.shape[2:]) == (1, 1)
        if is_head and f"{layer}.bias" not in state:
            state[name] = weight.flatten(1)
            state[f"{layer}.bias"] = weight.new_zeros(weight.shape[0])
            return f"{layer} is a 1x1 convolution without bias: a linear layer with bias zero"
    return None


def from_recipe(recipe: Recipe, state: State) -> tuple[nn.Module, tuple[int, ...]]:
    """The recipe's network with the weights of ``state``, of whatever prefix; its input shape.

    Raises:
        UserError: names or shapes that are not this network's.
    """
    layout = recipe.layout()
    state = _best_variant(state, lambda names: _today(recipe, names).keys() & layout.keys())
    state = {new: state[old] for new, old in _today(recipe, state).items()}
    missing = [name for name in layout if name not in state]
    unexpected = [name for name in state if name not in layout and not _optional(name)]
    if missing or unexpected:
        raise UserError(f"it is no {recipe.name}: {_difference(missing, unexpected)}; {HOW}")
    _match_kernels(state, layout)
    shapes = shapes_of(state)
    return _filled(recipe.build(shapes), state), (1, *recipe.input_for(shapes))


def _today(recipe: Recipe, names: Iterable[str]) -> dict[str, str]:
    """Each name as the recipe calls it today, to the name that the file has."""
    return {recipe.rename(name): name for name in names}


def _optional(name: str) -> bool:
    """Counters of BatchNorm, absent before PyTorch 0.4.1, and preprocessing in the network."""
    return name.endswith("num_batches_tracked") or name.startswith("normalize.")


def from_factory(arch: str, state: State) -> tuple[nn.Module, list[str]]:
    """The network of the user's factory ``pkg.module:name`` with the weights of ``state``; notes.

    The layers are given the shapes of the weights, so a factory of the original network serves
    for a checkpoint that is shrunk already.

    Raises:
        UserError: the factory cannot be had, or its network has other parameters.
    """
    module = _call(arch)
    _make_plain(module)
    wanted = shapes_of(module.state_dict())
    note = None
    if not any(name.rpartition(".")[2] == "indexes" for name in wanted):
        note = selection.expand(state)
    state = _best_variant(state, lambda names: names & wanted.keys())
    _grant_biases(module, state)
    wanted = shapes_of(module.state_dict())
    missing = [
        name
        for name in wanted
        if name not in state
        and not name.endswith("num_batches_tracked")
        and not _supply(name, wanted[name], state)
    ]
    unexpected = [
        name for name in state if name not in wanted and not name.endswith("num_batches_tracked")
    ]
    if missing or unexpected:
        raise UserError(f"it does not fit {arch}: {_difference(missing, unexpected)}; {HOW}")
    _match_kernels(state, wanted)
    models.fit(module, shapes_of(state))
    return _filled(module, state), [note] if note else []


def _grant_biases(module: nn.Module, state: State) -> None:
    """A bias for layers that the factory makes without: a slice plan may have given them one."""
    for name, layer in module.named_modules():
        key = f"{name}.bias"
        if key in state and isinstance(layer, nn.Linear | _ConvNd) and layer.bias is None:
            layer.register_parameter("bias", nn.Parameter(torch.zeros_like(state[key])))


def from_pickle(module: nn.Module) -> nn.Module:
    """A trusted file's own module, its pruned layers made plain."""
    for layer in module.modules():
        if isinstance(layer, nn.DataParallel):
            module = layer.module
            break
    _make_plain(module)
    return module.float().eval().requires_grad_(False)


def same_outputs(first: nn.Module, second: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether both give the same, to rounding, for a random input."""
    sample = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            one, two = first(sample), second(sample.to(next(second.parameters()).dtype))
    except Exception:  # a script may raise anything on an input that is not its own
        return False
    if not isinstance(one, Tensor) or one.shape != two.shape:
        return False
    return bool(torch.allclose(one.double(), two.double(), rtol=1e-4, atol=1e-5))


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Name to shape."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _variants(state: State) -> Iterator[tuple[str, dict[str, str]]]:
    """Ways to read the names: as they are, without ``module.`` inside, without a common prefix."""
    names = {name: name for name in state}
    yield "", names
    inside = {old: old.replace(".module.", ".") for old in state}
    if inside != names and len(set(inside.values())) == len(names):
        yield "module. inside names", inside
        names = inside
    removed = ""
    while True:
        heads = {name.partition(".")[0] for name in names.values()}
        if len(heads) != 1 or not all("." in name for name in names.values()):
            return
        (head,) = heads
        removed += f"{head}."
        names = {old: name.partition(".")[2] for old, name in names.items()}
        yield removed, names


def _best_variant(state: State, known: Callable[[set[str]], set[str]]) -> State:
    """``state`` under the names of which most are ``known``."""
    variants = [names for _, names in _variants(state)]
    best = max(variants, key=lambda names: len(known(set(names.values()))))
    return {new: state[old] for old, new in best.items()}


def _match_kernels(state: State, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """A linear layer kept as a 1x1 convolution (STR), or the other way: the same numbers."""
    for name, tensor in state.items():
        shape = wanted.get(name)
        if shape is not None and len(shape) == 2 and tuple(tensor.shape[2:]) == (1, 1):
            state[name] = tensor.flatten(1)
        elif shape is not None and shape[2:] == (1, 1) and tensor.dim() == 2:
            state[name] = tensor[:, :, None, None]


def _supply(name: str, shape: tuple[int, ...], state: State) -> bool:
    """A mask that the network multiplies with and the weights already have: ones."""
    if name.endswith(("_mask", ".mask")):
        target = name.removesuffix("_mask")
        if name.endswith(".mask"):
            target = name.removesuffix("mask") + "weight"
        if target in state:
            weight = state[target]
            state[name] = torch.ones(weight.shape if len(shape) == weight.dim() else shape)
            return True
    return False


def _filled(module: nn.Module, state: State) -> nn.Module:
    """``module`` with the tensors of ``state`` themselves, in eval mode, without gradients."""
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    try:
        module.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"the weights do not fit the network ({lines[-1]}): {HOW}") from None
    return module.to(dtype).eval().requires_grad_(False)


def _make_plain(module: nn.Module) -> None:
    """Make the parametrized weights of a factory's network plain parameters: masks are applied."""
    from torch.nn.utils import parametrize, prune

    for layer in module.modules():
        for name in [n.removesuffix("_orig") for n in layer._parameters if n.endswith("_orig")]:
            if f"{name}_mask" in layer._buffers:
                prune.remove(layer, name)  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(layer):
            assert isinstance(layer.parametrizations, nn.ModuleDict)
            for name in list(layer.parametrizations):
                parametrize.remove_parametrizations(layer, name)


def _call(arch: str) -> nn.Module:
    """Import and call what ``--arch pkg.module:factory`` names: naming it is the user's consent."""
    where, _, name = arch.partition(":")
    if not where.replace(".", "").isidentifier() or not name.replace(".", "").isidentifier():
        raise UserError(f"--arch {arch}: write it as pkg.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as python -m has it
    try:
        factory = importlib.import_module(where)
        for part in name.split("."):
            factory = getattr(factory, part)
    except ImportError as error:
        raise UserError(f"--arch {arch}: cannot import {where} ({error})") from None
    except AttributeError:
        raise UserError(f"--arch {arch}: {where} has no {name}") from None
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"--arch {arch}: importing {where} failed ({type(error).__name__}: {error})"
        ) from error
    if not callable(factory):
        raise UserError(f"--arch {arch}: {name} is not a function or class that makes a network")
    try:
        module = factory()
    except Exception as error:
        raise UserError(
            f"--arch {arch}: calling it failed ({type(error).__name__}: {error}):"
            " it must work without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"--arch {arch}: it gave a {type(module).__name__}, not a torch nn.Module")
    return module


def _difference(missing: list[str] | tuple[str, ...], more: list[str] | tuple[str, ...]) -> str:
    parts = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for names, what in ((missing, "missing"), (more, "unexpected"))
        if names
    ]
    return " and ".join(parts) or "the same names, other shapes"
