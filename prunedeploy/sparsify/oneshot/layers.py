"""The layers of a network that a one-shot method may prune, and how much they compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.oneshot.calibrate import Inputs, groups_of, hooked, run
from prunedeploy.sparsify.units import LAYERS, Masks, Scope, inner_layers


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer by the name of its weight.

    ``positions`` is how many outputs of one sample a row of the weight computes; ``inner`` says
    whether the layer may lose weights.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    positions: int
    inner: bool

    @property
    def weights(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample, none left out."""
        return self.weights * self.positions


def layers_of(module: nn.Module, inputs: Inputs, scope: Scope | None = None) -> tuple[Layer, ...]:
    """The layers that run on ``inputs``, in the order in which they do, each weight once.

    Args:
        module: in eval mode.
        inputs: one batch.
        scope: layers that may lose weights; by default all but the first and the last.

    Raises:
        UserError: the network does not take such inputs, or no layer of it could lose a weight.
    """
    scope = inner_layers(module) if scope is None else scope
    names: dict[nn.Module, str] = {
        each: f"{name}.weight" if name else "weight"
        for name, each in module.named_modules()
        if isinstance(each, LAYERS)
    }
    layers: dict[int, Layer] = {}

    def seen(layer: nn.Module, _: object, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        per_sample = output.numel() // (len(output) * weight.shape[0])
        inner = scope(names[layer].rpartition(".")[0], layer)
        layers.setdefault(
            id(weight),
            Layer(names[layer], tuple(weight.shape), groups_of(layer), per_sample, inner),
        )

    with hooked([each.register_forward_hook(seen) for each in names]), torch.no_grad():
        _run(module, inputs)
    if not any(layer.inner for layer in layers.values()):
        raise UserError("the network has no convolution or linear layer that could lose weights")
    return tuple(layers.values())


def density(layers: tuple[Layer, ...], masks: Masks) -> float:
    """The share of the weights of ``layers`` that stays."""
    left = sum(_left(layer, masks) for layer in layers)
    return left / sum(layer.weights for layer in layers)


def flops(layers: tuple[Layer, ...], masks: Masks) -> float:
    """The share of the multiply-accumulates of ``layers`` that stays where zeros are left out."""
    left = sum(_left(layer, masks) * layer.positions for layer in layers)
    return left / sum(layer.macs for layer in layers)


def _left(layer: Layer, masks: Mapping[str, Tensor]) -> int:
    mask = masks.get(layer.name)
    return layer.weights if mask is None else int(mask.sum())


def _run(module: nn.Module, inputs: Inputs) -> None:
    try:
        run(module, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
        sizes = ", ".join(" x ".join(map(str, each.shape)) for each in tensors)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the network does not take inputs of {sizes} ({reason})") from None
