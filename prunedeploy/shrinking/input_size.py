"""The size of a network's input, where neither the user nor a recipe states it.

The first layer says how many channels or features the network reads, and the network itself on
which image sizes it runs: one with a linear layer behind its feature maps runs on one only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# of images, the usual ones first; those of CIFAR, of MNIST and of Inception among them
SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 227, 160, 192, 320, 384, 416, 512, 640, 16, 8)


def input_size(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of a batch of one that ``module`` runs on: what a network of its parameters takes,
    one that it was seen to run on, or None.

    Nothing is computed: shapes alone go through the network.

    Example:
        >>> import torch
        >>> input_size(torch.nn.Sequential(torch.nn.Linear(784, 10)))
        (1, 784)
    """
    from prunedeploy import models

    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if recipe := models.recognise(shapes):
        return (1, *recipe.input_for(shapes))
    return next((shape for shape in _likely(module) if _runs(module, shape)), None)


def _likely(module: nn.Module) -> list[tuple[int, ...]]:
    """Shapes to try, by the first layer with weights."""
    from torch import nn

    layers = (x for x in module.modules() if getattr(x, "weight", None) is not None)
    first = next(layers, None)
    if isinstance(first, nn.Linear):
        return [(1, first.in_features)]
    if isinstance(first, nn.Conv2d):
        return [(1, first.in_channels, side, side) for side in SIDES]
    return []


def _runs(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether shapes of ``shape`` go through the network."""
    import torch

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        with torch.no_grad():
            torch.func.functional_call(module, on_meta, (torch.empty(shape, device="meta"),))
    except Exception:  # the network's own code may raise anything
        return False
    return True
