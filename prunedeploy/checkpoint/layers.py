"""Reparametrised layers: fold what training kept apart into the plain weight of the layer."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from prunedeploy.checkpoint.masks import is_mask, masked
from prunedeploy.errors import UserError

State = dict[str, Tensor]

ORIGINAL = re.compile(r"^(.*?)parametrizations\.([^.]+)\.original([01]?)$")


def parametrizations(state: State) -> str | None:
    """torch.nn.utils.parametrizations: ``parametrizations.X.original`` with a mask buffer, or
    ``original0`` and ``original1`` of weight normalisation.

    Raises:
        UserError: a parametrization with weights of its own that is neither.
    """
    count = 0
    for name in list(state):
        match = ORIGINAL.match(name)
        if match is None or match[3] == "1":
            continue
        stem = f"{match[1]}parametrizations.{match[2]}."
        target = f"{match[1]}{match[2]}"
        weight = state.pop(name)
        if match[3] == "0":
            if (direction := state.pop(f"{stem}original1", None)) is None:
                raise UserError(f"{name} has no original1 beside it: the checkpoint is incomplete")
            weight = _normed(weight, direction, target)
        for key in [key for key in state if key.startswith(stem)]:
            if not is_mask(state[key], weight):
                raise UserError(
                    f"{key} belongs to a parametrization that is not known: call"
                    " torch.nn.utils.parametrize.remove_parametrizations before saving"
                )
            weight = masked(weight, state.pop(key), target)
        state[target] = weight
        count += 1
    return f"{count} parametrizations folded" if count else None


def weight_norm(state: State) -> str | None:
    """The older torch.nn.utils.weight_norm: ``X_g`` and ``X_v``."""
    names = [n.removesuffix("_g") for n in state if n.endswith("_g") and f"{n[:-2]}_v" in state]
    for name in names:
        state[name] = _normed(state.pop(f"{name}_g"), state.pop(f"{name}_v"), name)
    return f"{len(names)} weight normalisations folded" if names else None


def _normed(size: Tensor, direction: Tensor, name: str) -> Tensor:
    """Salimans and Kingma, "Weight Normalization", NIPS 2016: g * v / |v|, one g a slice."""
    if size.dim() not in (0, direction.dim()):
        raise UserError(f"{name} has a weight normalisation of an unknown form")
    axes = [i for i in range(direction.dim()) if size.dim() == 0 or size.shape[i] == 1]
    norm = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    result: Tensor = direction * (size / norm)
    return result


def soft_thresholds(state: State) -> str | None:
    """Kusupati et al., "Soft Threshold Weight Reparameterization", ICML 2020, equation 3:
    ``sign(W) * relu(|W| - sigmoid(s))``, s stored as ``sparseThreshold``; stored weights are dense.

    On a BatchNorm (STR-BN) the scale is thresholded, and the bias multiplied with the result,
    as ``Y = scale * (X + bias)``.
    """
    convs = norms = 0
    for name in [n for n in state if n.rpartition(".")[2] == "sparseThreshold"]:
        layer = name.removesuffix("sparseThreshold")
        weight = state.get(f"{layer}weight")
        if weight is None:
            raise UserError(f"{name} has no weight beside it: the checkpoint is incomplete")
        threshold = torch.sigmoid(state.pop(name).to(weight.dtype))
        if threshold.numel() == 1:
            threshold = threshold.reshape(())
        elif threshold.numel() == weight.shape[0]:
            threshold = threshold.reshape(-1, *[1] * (weight.dim() - 1))
        else:
            raise UserError(f"{name} has neither one value nor one a channel")
        state[f"{layer}weight"] = weight.sign() * torch.relu(weight.abs() - threshold)
        if weight.dim() == 1:
            norms += 1
            if f"{layer}bias" in state:
                state[f"{layer}bias"] = state[f"{layer}weight"] * state[f"{layer}bias"]
        else:
            convs += 1
    parts = [f"{convs} layers (STR)"] * bool(convs) + [f"{norms} BatchNorms (STR-BN)"] * bool(norms)
    return f"soft threshold applied to {' and '.join(parts)}" if parts else None


def gates(state: State) -> str | None:
    """You et al., "Gate Decorator", NeurIPS 2019: ``bn(x) * g``, then a mask of channels.

    ``L.bn.*`` is the BatchNorm, ``L.g`` the gate, ``L.bn_mask`` the mask, ``L.area`` and
    ``L.score`` the search's notes.
    """
    names = [n.removesuffix("bn.weight") for n in state if n.endswith(".bn.weight")]
    names = [name for name in names if f"{name}g" in state]
    for layer in names:
        weight = state[f"{layer}bn.weight"]
        gate = state.pop(f"{layer}g").to(weight.dtype)
        if (mask := state.pop(f"{layer}bn_mask", None)) is not None:
            if mask.numel() != gate.numel():
                raise UserError(f"{layer}bn_mask has another size than {layer}g")
            gate = gate.flatten() * mask.to(gate.dtype).flatten()
        if gate.numel() != weight.numel():
            raise UserError(f"{layer}g has {gate.numel()} gates for {weight.numel()} channels")
        for key in ("area", "score"):
            state.pop(f"{layer}{key}", None)
        for key in ("weight", "bias"):
            state[f"{layer}bn.{key}"] = state[f"{layer}bn.{key}"] * gate.flatten()
        for key in [key for key in state if key.startswith(f"{layer}bn.")]:
            state[layer + key.removeprefix(f"{layer}bn.")] = state.pop(key)
    return f"{len(names)} channel gates folded (GateDecorators)" if names else None
