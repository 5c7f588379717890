"""Gradients of the loss and of the gradient's norm, which leave the module as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.masks import parameter
from prunedeploy.sparsify.units import Batches, Units, layer_weights

Values = dict[str, Tensor]  # by parameter, of its shape


def parameters_of(module: nn.Module, units: Units) -> Values:
    """The parameters that units lie in."""
    names = {member.parameter: None for group in units for member in group.members}
    return {name: parameter(module, name) for name in names}


def gradients(module: nn.Module, units: Units, batches: Batches) -> Values:
    """dL/dtheta of the parameters of ``units``; L is the mean loss, summed over the batches."""
    wanted = parameters_of(module, units)
    with frozen(module, batches):
        parts = [_grad(loss(module, batch), wanted) for batch in batches]
    return _added(parts)


def gradient_flow(
    module: nn.Module, units: Units, batches: Batches, temperature: float = 1.0
) -> tuple[Values, Values]:
    """g and Hg: the gradient, and half of the derivative of its squared norm.

    The norm is that of the gradient of all weights of layers; logits are divided by
    ``temperature``. Where g holds no such weight (a bias, say) it is zero there.
    """
    wanted = parameters_of(module, units)
    weights = {name: parameter(module, name) for name, _ in layer_weights(module)}
    with frozen(module, batches):
        parts = [_grad(loss(module, batch, temperature), weights) for batch in batches]
        g = _added(parts)
        products = []
        for batch in batches:
            again = _grad(loss(module, batch, temperature), weights, create_graph=True)
            dot = torch.stack([(again[name] * g[name]).sum() for name in g]).sum()
            products.append(_grad(dot, wanted))
    flow = {name: g[name] if name in g else torch.zeros_like(each) for name, each in wanted.items()}
    return flow, _added(products)


def required(batches: Batches) -> None:
    """Refuse to rank by gradients of nothing.

    Raises:
        UserError: there are no batches.
    """
    if not batches:
        raise UserError("this score needs batches: give the sparsifier some training data")


def loss(module: nn.Module, batch: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
    """The mean cross entropy of a batch."""
    inputs, labels = batch
    return F.cross_entropy(module(inputs) / temperature, labels)


@contextlib.contextmanager
def frozen(module: nn.Module, batches: Batches) -> Iterator[None]:
    """In eval mode, with gradients, and everything as before at the end.

    The statistics of a BatchNorm that has seen nothing yet are those of ``batches`` meanwhile: with
    0 and 1, as it starts with, a network without training computes numbers of another size.
    """
    required(batches)
    modes = {each: each.training for each in module.modules()}
    fresh = [each for each in module.modules() if _untrained(each)]
    before = [{key: value.clone() for key, value in each.named_buffers()} for each in fresh]
    try:
        if fresh:
            _estimate(module, fresh, batches)
        module.eval()
        with torch.enable_grad():
            yield
    finally:
        for each, buffers in zip(fresh, before, strict=True):
            for key, value in buffers.items():
                getattr(each, key).copy_(value)
        for layer, mode in modes.items():
            layer.training = mode


def _untrained(layer: nn.Module) -> bool:
    tracked = layer.num_batches_tracked if isinstance(layer, _BatchNorm) else None
    return tracked is not None and int(tracked) == 0


@torch.no_grad()
def _estimate(module: nn.Module, fresh: list[nn.Module], batches: Batches) -> None:
    """The mean of the batches' statistics."""
    momenta = [each.momentum for each in fresh]
    module.eval()
    for each in fresh:
        each.train()
        each.momentum = None  # type: ignore[assignment]
    for inputs, _ in batches:
        module(inputs)
    for each, momentum in zip(fresh, momenta, strict=True):
        each.momentum = momentum


def _grad(of: Tensor, wanted: Values, create_graph: bool = False) -> Values:
    derivatives = torch.autograd.grad(
        of, list(wanted.values()), create_graph=create_graph, allow_unused=True
    )
    return {
        name: torch.zeros_like(wanted[name]) if each is None else each
        for name, each in zip(wanted, derivatives, strict=True)
    }


def _added(parts: list[Values]) -> Values:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
