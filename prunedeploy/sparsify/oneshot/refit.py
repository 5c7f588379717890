"""Exact least squares: the weights that are kept take over what the removed ones did.

For each output row w of a layer, with dense weights v, the refit finds the w on the kept support
that minimises the mean of ((w - v)ᵀ x)² over the calibration's windows x. With the metric H (the
second moments of x, or their covariance where a shift is free) that is, on the support S,

    H[S, S] (w - v)[S] = H[S, R] v[R]            R: what was removed
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunedeploy.sparsify.oneshot.calibrate import Calibration, Moments, grouped, groups_of
from prunedeploy.sparsify.oneshot.parallel import side_by_side
from prunedeploy.sparsify.units import Masks

RIDGE = 1e-4  # added to the metric's diagonal, relative to its mean
SMALLEST = 1e-30  # mean of the diagonal, of layers that read nothing that varies
DIRECT = 1024  # kept weights of a row up to which its system is factorised
ITERATIONS, TOLERANCE = 500, 1e-8  # of conjugate gradients, for longer rows


def damped(metric: Tensor, ridge: float = RIDGE) -> Tensor:
    """The metric [groups, n, n] with a ridge that pulls weights towards the dense ones."""
    size = metric.diagonal(dim1=1, dim2=2).mean(1).clamp_min(SMALLEST)
    eye = torch.eye(metric.shape[1], dtype=metric.dtype)
    return metric + ridge * size[:, None, None] * eye


def refit_rows(dense: Tensor, mask: Tensor, metric: Tensor) -> Tensor:
    """The refitted rows of one group.

    Args:
        dense: float64 [rows, columns].
        mask: bool of the same shape, True is kept.
        metric: float64 [columns, columns], positive definite.

    Returns:
        [rows, columns], zero off the mask. A row that keeps all is returned as it is.
    """
    if int(mask.sum(1).max()) > DIRECT:
        return _conjugate(dense, mask, metric)
    result = torch.where(mask, dense, 0)
    pull = (dense * ~mask) @ metric
    for row in (~mask).any(1).nonzero()[:, 0].tolist():
        kept = mask[row].nonzero()[:, 0]
        if len(kept):
            factor = torch.linalg.cholesky(metric[kept][:, kept])
            moved = torch.cholesky_solve(pull[row, kept][:, None], factor)
            result[row, kept] += moved[:, 0]
    return result


def _conjugate(dense: Tensor, mask: Tensor, metric: Tensor) -> Tensor:
    """The same by conjugate gradients, scaled by the diagonal, for all rows at once."""
    scale = metric.diagonal()
    moved = torch.zeros_like(dense)
    residual = torch.where(mask, (dense * ~mask) @ metric, 0)
    start = residual.norm(dim=1)
    scaled = residual / scale
    direction, power = scaled.clone(), (residual * scaled).sum(1)
    for _ in range(ITERATIONS):
        if bool((residual.norm(dim=1) <= TOLERANCE * start).all()):
            break
        image = torch.where(mask, direction @ metric, 0)
        step = (power / (direction * image).sum(1).clamp_min(1e-300))[:, None]
        moved += step * direction
        residual -= step * image
        scaled = residual / scale
        power, before = (residual * scaled).sum(1), power
        direction = scaled + (power / before.clamp_min(1e-300))[:, None] * direction
    return torch.where(mask, dense + moved, 0)


def layer_error(change: Tensor, dense: Tensor, metric: Tensor) -> float:
    """The mean square of what a change of the weights does to the outputs, relative to theirs.

    ``change`` and ``dense`` are [groups, rows, columns], ``metric`` [groups, columns, columns].
    """
    whole = float(((dense @ metric) * dense).sum())
    return float(((change @ metric) * change).sum()) / whole if whole > 0 else 0.0


def refitted(weight: Tensor, mask: Tensor, moments: Moments, groups: int) -> tuple[Tensor, float]:
    """A layer's weight with the kept part refitted, in its own shape and dtype, and its error."""
    metric = moments.metric()
    dense, kept = grouped(weight.double(), groups), grouped(mask, groups)
    if moments.diagonal:  # the least squares of each weight are its own: nothing moves
        fitted = torch.where(kept, dense, 0)
    else:
        each = zip(dense, kept, damped(metric), strict=True)
        fitted = torch.stack([refit_rows(*group) for group in each])
    error = layer_error(fitted - dense, dense, metric)
    return fitted.reshape(weight.shape).to(weight.dtype), error


@torch.no_grad()
def refit(
    module: nn.Module,
    masks: Masks,
    calibration: Calibration,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Refit every masked layer of ``module``, in place, to its own dense outputs.

    Masks of what has no calibration (biases, normalisations) are left to the caller. Biases take up
    the shift of the mean where a layer has one. A layer that keeps all its weights keeps them bit
    for bit.

    Returns:
        For each masked weight the mean square error of the layer's outputs, relative to their mean
        square (their variance, where a shift is free).
    """
    names = [name for name in masks if name in calibration]

    def fitted(name: str) -> tuple[Tensor, float]:
        layer = module.get_submodule(name.rpartition(".")[0])
        weight = module.get_parameter(name)
        return refitted(weight, masks[name], calibration[name], groups_of(layer))

    every = side_by_side(fitted, names, "refitting", progress)
    for name, (new, _) in zip(names, every, strict=True):
        take(module.get_submodule(name.rpartition(".")[0]), new, calibration[name])
    return {name: error for name, (_, error) in zip(names, every, strict=True)}


@torch.no_grad()
def take(layer: nn.Module, new: Tensor, moments: Moments) -> None:
    """Give a layer new weights; its bias, if any, keeps the mean of every output."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if isinstance(bias, Tensor):
        change = grouped((weight - new).double(), groups_of(layer))
        bias += (change @ moments.mean[:, :, None]).flatten().to(bias.dtype)
    weight.copy_(new)
