"""Give the layers of a network the shapes of a checkpoint.

Widths are data: a checkpoint that was already shrunk loads into the same code as the original.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from prunedeploy.core.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def fit(module: nn.Module, shapes: Shapes) -> None:
    """Resize in place every layer of ``module`` that ``shapes`` (a state_dict's) names otherwise.

    Convolutions (plain, transposed, grouped), linear layers, normalisations and PReLU take their
    channel counts, features and groups from the shapes; kernels, strides and paddings are the
    network's own. A resized parameter stays on its device with undefined values: weights are
    expected to follow through ``load_state_dict``. Layers that ``shapes`` does not name, and
    parameters of other kinds of layers, are left alone.

    Raises:
        UserError: a kernel or number of dimensions that the layer cannot have.
    """
    for name, layer in module.named_modules():
        weight = shapes.get(f"{name}.weight" if name else "weight")
        if isinstance(layer, _NormBase):
            weight = weight or shapes.get(f"{name}.running_mean" if name else "running_mean")
        if weight is not None:
            _fit_layer(layer, name, weight)


def _fit_layer(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    if isinstance(layer, _ConvNd):
        _fit_conv(layer, name, shape)
    elif isinstance(layer, nn.Linear):
        _same_rank(layer.weight, name, shape)
        layer.out_features, layer.in_features = shape
        _resize(layer, weight=shape, bias=shape[:1])
    elif isinstance(layer, _NormBase):
        layer.num_features = shape[0]
        _resize(layer, weight=shape, bias=shape, running_mean=shape, running_var=shape)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = shape[0]
        _resize(layer, weight=shape, bias=shape)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = shape
        _resize(layer, weight=shape, bias=shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = shape[0]
        _resize(layer, weight=shape)


def _fit_conv(layer: _ConvNd, name: str, shape: tuple[int, ...]) -> None:
    _same_rank(layer.weight, name, shape)
    if shape[2:] != layer.kernel_size:
        raise UserError(
            f"{name}.weight has kernel {_by(shape[2:])} in the checkpoint and"
            f" {_by(layer.kernel_size)} in the network: name the right one with --arch"
        )
    layer.groups = groups = _groups(layer, name, shape)
    # A transposed convolution stores (in, out / groups), the plain one (out, in / groups).
    whole, per_group = shape[0], shape[1] * groups
    layer.in_channels, layer.out_channels = (
        (whole, per_group) if layer.transposed else (per_group, whole)
    )
    _resize(layer, weight=shape, bias=(layer.out_channels,))


def _groups(layer: _ConvNd, name: str, shape: tuple[int, ...]) -> int:
    """The number of groups: fewer when whole groups went, the same when each group shrank.

    The second axis of the weight is per group. Where it is as before, groups kept their width, so
    the first axis says how many are left; a depthwise convolution (width 1) is that case always.
    """
    if layer.groups == 1:
        return 1
    first, second = layer.weight.shape[:2]
    groups, rest = layer.groups, shape[0] % layer.groups
    if shape[1] == second:
        groups, rest = divmod(shape[0], first // layer.groups)
    if rest or not groups:
        raise UserError(
            f"{name}.weight {shape} cannot be split into the groups of the network's"
            f" {tuple(layer.weight.shape)}: load the checkpoint from before its shrinking"
        )
    return groups


def _same_rank(weight: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != weight.dim():
        raise UserError(
            f"{name}.weight has shape {shape} in the checkpoint and {tuple(weight.shape)} in the"
            " network: name the right one with --arch"
        )


def _resize(layer: nn.Module, **sizes: tuple[int, ...]) -> None:
    """Replace the parameters and buffers of ``layer`` that exist and have another size."""
    for key, size in sizes.items():
        old = layer.__dict__["_parameters"].get(key)
        if old is not None and tuple(old.shape) != size:
            new = torch.empty(size, dtype=old.dtype, device=old.device)
            setattr(layer, key, nn.Parameter(new, requires_grad=old.requires_grad))
        old = layer.__dict__["_buffers"].get(key)
        if old is not None and tuple(old.shape) != size:
            setattr(layer, key, torch.empty(size, dtype=old.dtype, device=old.device))


def _by(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))
