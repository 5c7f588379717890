"""A network of a recipe: for the data's channels and classes, at random or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prunedeploy import checkpoint, models
from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.recipe import NetworkChoice


def network(choice: NetworkChoice, sample: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The network, in training mode, for inputs of the shape ``sample`` in so many ``classes``.

    Raises:
        UserError: the checkpoint is of another network, or is for other data.
    """
    if choice.checkpoint:
        module = checkpoint.load(choice.checkpoint, arch=choice.name).module
    else:
        module = _fresh(choice.name, sample, classes, seed)
    _check(module.eval(), choice, sample, classes)
    return module.train().requires_grad_(True)


def _fresh(name: str, sample: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The published network with the weights that its layers draw by ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.by_name(name).factory()
        stem = next(each for each in module.modules() if isinstance(each, nn.Conv2d))
        if stem.in_channels != sample[0]:
            shape = (stem.out_channels, sample[0] // stem.groups, *stem.kernel_size)
            stem.in_channels, stem.weight = sample[0], nn.Parameter(torch.empty(shape))
            stem.reset_parameters()
        head = [each for each in module.modules() if isinstance(each, nn.Linear)][-1]
        if head.out_features != classes:
            head.out_features = classes
            head.weight = nn.Parameter(torch.empty(classes, head.in_features))
            if head.bias is not None:
                head.bias = nn.Parameter(torch.empty(classes))
            head.reset_parameters()
    return module


def _check(module: nn.Module, choice: NetworkChoice, sample: Sequence[int], classes: int) -> None:
    """Refuse a network that does not take the data."""
    size = " x ".join(map(str, sample))
    try:
        with torch.no_grad():
            outputs = module(torch.zeros(1, *sample)).shape[-1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{choice.name} does not take inputs of {size} ({reason})") from None
    if outputs < classes:
        where = choice.checkpoint or choice.name
        raise UserError(f"{where} has {outputs} outputs, the data have {classes} classes")
