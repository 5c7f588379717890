"""The network that the weights belong to, recognised or named: one of the reference networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from prunedeploy import models
from prunedeploy.checkpoint import readings
from prunedeploy.checkpoint.readings import Reading
from prunedeploy.core.errors import UserError
from prunedeploy.models import Recipe

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
HOW = "name it with --arch NAME or --arch FILE.py:factory"
SHOWN = 3  # names in an error
HEADS = ("fc", "linear", "classifier", "head")


def recipe_for(arch: str | None, state: State, otherwise: str = "") -> Recipe:
    """The recipe named ``arch``, or the one whose parameter names these are.

    Raises:
        UserError: there is none; ``otherwise`` ends the message.
    """
    if arch is not None:
        return models.by_name(arch)

    recipes: dict[Reading, Recipe] = {}

    def recognised(reading: Reading) -> bool:
        recipe = models.recognise(_shapes(state, reading))
        if recipe is not None:
            recipes[reading] = recipe
        return recipe is not None

    if (reading := readings.choose(state, recognised)) is not None:
        return recipes[reading]
    if advice := readings.advice(state, recognised):
        raise UserError(f"the architecture of all weights is not recognised; {advice}")
    rows = [models.nearest(_shapes(state, reading)) for reading in readings.of_all(state)]
    recipe, missing, unexpected = min(rows, key=lambda row: len(row[1]) + len(row[2]))
    raise UserError(
        f"the architecture is not recognised (nearest is {recipe.name},"
        f" {difference(missing, unexpected)}): {HOW}{otherwise}"
    )


def _shapes(state: State, reading: Reading) -> Shapes:
    return {new: tuple(state[old].shape) for old, new in reading.aliases(state).items()}


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


def from_recipe(recipe: Recipe, state: State) -> tuple[nn.Module, tuple[int, ...], str | None]:
    """The recipe's network with the weights of ``state``, of whatever prefix; its input shape; what
    was left out.

    Raises:
        UserError: names or shapes that are not this network's.
    """
    layout = recipe.layout()

    def read(reading: Reading) -> State:
        names = reading.aliases(state)
        return {recipe.rename(new): state[old] for old, new in names.items()}

    def fits(reading: Reading) -> bool:
        names = read(reading)
        return layout.keys() <= names.keys() and not _unexpected(names, layout)

    reading = readings.choose(state, fits)
    if reading is None:
        reading = max(readings.of_all(state), key=lambda x: len(read(x).keys() & layout.keys()))
    named = read(reading)
    missing = [name for name in layout if name not in named]
    unexpected = _unexpected(named, layout)
    if missing or unexpected:
        how = readings.advice(state, fits) or HOW
        raise UserError(f"it is no {recipe.name}: {difference(missing, unexpected)}; {how}")
    match_kernels(named, layout)
    shapes = shapes_of(named)
    module = filled(recipe.build(shapes), named)
    return module, (1, *recipe.input_for(shapes)), reading.note(state)


def _unexpected(names: Iterable[str], layout: Mapping[str, object]) -> list[str]:
    """But for counters of BatchNorm, new in PyTorch 0.4.1, and preprocessing in the network."""
    return [
        name
        for name in names
        if name not in layout
        and not name.endswith("num_batches_tracked")
        and not name.startswith("normalize.")
    ]


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


def match_kernels(state: State, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """A linear layer kept as a 1x1 convolution (STR), or the other way: the same numbers."""
    for name, tensor in state.items():
        shape = wanted.get(name)
        if shape is not None and len(shape) == 2 and tuple(tensor.shape[2:]) == (1, 1):
            state[name] = tensor.flatten(1)
        elif shape is not None and shape[2:] == (1, 1) and tensor.dim() == 2:
            state[name] = tensor[:, :, None, None]


def filled(module: nn.Module, state: State) -> nn.Module:
    """``module`` with the tensors of ``state`` themselves, in eval mode, without gradients."""
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    try:
        nn.Module.load_state_dict(module, state, strict=False, assign=True)
    except Exception as error:  # hooks of the user's network may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise UserError(f"the weights do not fit the network ({reason}): {HOW}") from None
    for part in nn.Module.modules(module):
        part.training = False
    return module.to(dtype).requires_grad_(False)


def difference(missing: list[str] | tuple[str, ...], more: list[str] | tuple[str, ...]) -> str:
    """Which names are missing and which are too many, in words."""
    parts = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for names, what in ((missing, "missing"), (more, "unexpected"))
        if names
    ]
    return " and ".join(parts) or "the same names, other shapes"
