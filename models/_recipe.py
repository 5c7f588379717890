"""A recipe: how to build a reference network for a checkpoint, and what it expects as input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from torch import nn

from prunedeploy.core.errors import UserError
from prunedeploy.models._fit import Shapes, fit
from prunedeploy.models._network import Network, Normalize

# Preprocessing of pixels in [0, 1], as the public implementations do it.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _as_is(name: str) -> str:
    return name


@dataclass(frozen=True)
class Recipe:
    """A reference network by name.

    ``factory`` gives it at its published widths, ``input_shape`` is (C, H, W) of one sample,
    ``mean`` and ``std`` normalise pixels in [0, 1]; they do not apply to a checkpoint that
    brings its own ``normalize.mean``. ``rename`` maps parameter names that older versions of the
    public implementation wrote to today's; the network's ``load_state_dict`` takes both.
    """

    name: str
    factory: Callable[[], Network]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rename: Callable[[str], str] = _as_is

    def build(self, shapes: Shapes) -> nn.Module:
        """The network in eval mode, its parameters having exactly these ``shapes``.

        Parameters are on the meta device, so even a large network costs nothing until
        ``load_state_dict(state, assign=True)`` brings the weights. Buffers are real: a checkpoint
        may lack them (``num_batches_tracked`` before PyTorch 0.4.1).

        Raises:
            UserError: shapes that this network cannot have or that do not fit together.
        """
        shapes = self.canonical(shapes)
        network = self._on_meta()
        fit(network, shapes)
        self._check_widths(network)
        _materialise_buffers(network)
        if "normalize.mean" in shapes:
            network.normalize = Normalize(*shapes["normalize.mean"])
        return network.eval()

    def canonical(self, shapes: Shapes) -> Shapes:
        """``shapes`` under today's parameter names."""
        return {self.rename(name): tuple(shape) for name, shape in shapes.items()}

    def layout(self) -> Shapes:
        """Name to shape of the published network, without ``num_batches_tracked``; computed once.

        The names are in the order of the modules, so the first is the stem's weight.
        """
        return _layout(self)

    def input_for(self, shapes: Shapes) -> tuple[int, int, int]:
        """(C, H, W) of one sample, C being what the stem's weight in ``shapes`` reads."""
        stem = next(iter(self.layout()))
        _, height, width = self.input_shape
        return self.canonical(shapes)[stem][1], height, width

    def _on_meta(self) -> Network:
        with torch.device("meta"):
            return self.factory()

    def _check_widths(self, network: Network) -> None:
        """Run the shapes through: a mistake shows here as one line, not later as a traceback."""
        stem = next(network.parameters())
        sample = torch.empty(1, stem.shape[1], *self.input_shape[1:], device="meta")
        try:
            with torch.no_grad():
                network.eval()(sample)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the checkpoint's shapes do not fit together as {self.name} ({reason}):"
                " name the right network with --arch, or load the file from before its shrinking"
            ) from error


@cache
def _layout(recipe: Recipe) -> Shapes:
    state = recipe._on_meta().state_dict()
    return MappingProxyType(
        {
            name: tuple(tensor.shape)
            for name, tensor in state.items()
            if not name.endswith("num_batches_tracked")
        }
    )


def _materialise_buffers(network: nn.Module) -> None:
    for layer in network.modules():
        for key, buffer in layer.named_buffers(recurse=False):
            fill = torch.ones if key == "running_var" else torch.zeros
            setattr(layer, key, fill(buffer.shape, dtype=buffer.dtype))
