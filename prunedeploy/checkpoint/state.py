"""From a state_dict as saved to plain dense weights: one function a convention, in order.

Each function edits the dictionary in place, tensor by tensor, so that weights are never all in
memory twice, and returns what it found in one line, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunedeploy.checkpoint import layers, masks
from prunedeploy.checkpoint.standin import Quantised
from prunedeploy.errors import UserError

State = dict[str, Tensor]

# Wrappers that put themselves into the name of every parameter they hold.
WRAPPER = re.compile(
    r"(?:^module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
COUNTERS = ("total_ops", "total_params")  # thop's
NARROW = (torch.float16, torch.bfloat16)


def normalise(tensors: dict[str, Any], beside: State | None = None) -> tuple[State, list[str]]:
    """``tensors`` as a plain state_dict, and what it took. ``tensors`` is emptied.

    Args:
        tensors: name to tensor; other values are left out.
        beside: masks kept elsewhere in the file, by name of layer or weight.

    Raises:
        UserError: quantised, complex or otherwise unusable weights; the message names them.
    """
    found: list[str | None] = [*_clean(tensors)]
    state: State = tensors
    places = _places(state)
    for step in STEPS:
        found.append(step(state))
    if beside:
        found.append(masks.apply(state, unwrapped(beside), "in the same file"))
    found.append(_one_dtype(state))
    # The order of the modules is the only order there is (see ``selection.py``): restore it.
    order = sorted(state, key=lambda name: places[name.rpartition(".")[0]])
    return {name: state[name] for name in order}, [line for line in found if line]


def _places(state: State) -> dict[str, int]:
    """Where each module, and each module around it, is first named."""
    places: dict[str, int] = {"": 0}
    for at, name in enumerate(state):
        parts = name.split(".")
        for end in range(1, len(parts)):
            places.setdefault(".".join(parts[:end]), at)
    return places


def unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same under names without ``module.`` in front and ``_orig_mod.`` anywhere."""
    return {WRAPPER.sub("", name): value for name, value in tensors.items()}


def check_finite(state: State) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, tensor in state.items():
        # The sum is not finite when one weight is not: no temporary of the weight's size.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise UserError(
                    f"{name} holds NaN or infinity in {bad:,} of {tensor.numel():,} places:"
                    " the training diverged or the file is broken, take an earlier checkpoint"
                )


def _clean(tensors: dict[str, Any]) -> list[str]:
    """Tensors alone, dense, under their own names."""
    names = list(tensors)
    counts: dict[str, int] = {}

    def count(what: str) -> None:
        counts[what] = counts.get(what, 0) + 1

    for name in names:
        value = tensors.pop(name)
        plain = WRAPPER.sub("", name)
        if plain != name:
            prefix = name.removesuffix(plain)
            count(f"prefix {prefix}" if prefix != name else "names freed of wrappers")
        if isinstance(value, Quantised) or (isinstance(value, Tensor) and value.is_quantized):
            raise UserError(f"{name} is quantised to integers: load the network from before that")
        if not isinstance(value, Tensor):
            count("entries that are no tensors left out")
            continue
        if plain.rpartition(".")[2] in COUNTERS:
            continue
        if value.layout != torch.strided:
            count(f"sparse tensors ({str(value.layout).removeprefix('torch.sparse_')}) made dense")
            value = value.to_dense()
        if value.is_complex():
            raise UserError(f"{name} is complex, which is not supported")
        if value.numel() == 0 and value.dim() and plain.rpartition(".")[2] != "indexes":
            raise UserError(
                f"{name} has a size of zero {tuple(value.shape)}: a whole layer was removed,"
                " load the checkpoint from before its shrinking"
            )
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            count(f"{_dtype(value)} weights converted to float32")
            value = value.float()
        tensors[plain] = value
    return [what if what.startswith("prefix ") else f"{n} {what}" for what, n in counts.items()]


def _one_dtype(state: State) -> str | None:
    """A network computes in one dtype: float64 where all of it is, else float32."""
    floats = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(floats) < 2:
        return None
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = tensor.float()
    return "mixed precision: all weights as float32"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


STEPS: tuple[Callable[[State], str | None], ...] = (
    layers.parametrizations,
    layers.weight_norm,
    masks.reparametrised,
    masks.beside_weights,
    layers.soft_thresholds,
    layers.gates,
)
