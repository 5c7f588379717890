"""A copy of a torch module as it computes in deployment; the module itself is left as it is."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from prunedeploy.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


def inference_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, whose weights are plain parameters.

    Masks of ``torch.nn.utils.prune``, parametrizations, weight norm and spectral norm are computed
    once, and their results are the weights. Other hooks stay: what they return is part of the
    network. ``torch.compile``, ``DataParallel`` and the like are taken off. Tied weights stay tied.

    Args:
        module: in either mode, on any device.

    Returns:
        The copy, which shares no memory with ``module``.

    Raises:
        UserError: the module holds something that cannot be copied.

    Example:
        >>> from torch import nn
        >>> from prunedeploy.shrinking.inference_copy import inference_copy
        >>> inference_copy(nn.Dropout()).training
        False
    """
    import torch

    network = unwrapped(module)
    try:
        with torch.no_grad():
            copied = copy.deepcopy(network, _on_cpu(network)).eval()
            for each in list(copied.modules()):
                _compute_weights(each)
    except Exception as error:  # the module's own code may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the module cannot be copied ({reason}): save its state_dict, and name --arch"
        ) from error
    return copied


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, without what compiles it or spreads it over devices."""
    from torch import nn

    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(module, "_orig_mod", None)  # torch.compile
        if isinstance(module, wrappers):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _on_cpu(module: nn.Module) -> dict[int, object]:
    """Copies of the tensors for ``copy.deepcopy``, which refuses results of computations.

    Hooks of ``torch.nn.utils`` leave such results in a module's attributes.
    """
    from torch import nn

    memo: dict[int, object] = {}
    for parameter in module.parameters():
        data = parameter.detach().to("cpu", copy=True)
        memo[id(parameter)] = nn.Parameter(data, parameter.requires_grad)
    for tensor in (*module.buffers(), *_computed(module)):
        memo[id(tensor)] = tensor.detach().to("cpu", copy=True)
    return memo


def _computed(module: nn.Module) -> list[torch.Tensor]:
    """Tensors that are plain attributes."""
    import torch

    values = (value for each in module.modules() for value in vars(each).values())
    return [value for value in values if isinstance(value, torch.Tensor)]


def _compute_weights(module: nn.Module) -> None:
    """Replace what computes weights, in one module of the copy, by the weights.

    ``torch.nn.utils.parametrize`` can do that too, but on the class, which copies share.
    """
    from torch import nn
    from torch.nn.utils import parametrize, prune
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    parametrized = module._modules.get("parametrizations")
    if parametrized is not None and parametrize.is_parametrized(module):
        weights = {name: getattr(module, name) for name, _ in parametrized.named_children()}
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    for number, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod | WeightNorm | SpectralNorm):
            hook.remove(module)
            del module._forward_pre_hooks[number]
