"""Reparametrised layers: fold what training kept apart into the plain weight of the layer."""

from __future__ import annotations

import torch
from torch import Tensor

from prunedeploy.checkpoint.masks import Doubts, binary, masked
from prunedeploy.core.errors import UserError

State = dict[str, Tensor]


def weight_norm(state: State, _: Doubts) -> str | None:
    """The older torch.nn.utils.weight_norm: ``X_g`` and ``X_v``."""
    count = 0
    for name in [
        n.removesuffix("_g") for n in state if n.endswith("_g") and f"{n[:-2]}_v" in state
    ]:
        weight = normed(state[f"{name}_g"], state[f"{name}_v"])
        if weight is not None:
            del state[f"{name}_g"], state[f"{name}_v"]
            state[name] = weight
            count += 1
    return f"{count} weight normalisations folded" if count else None


def normed(size: Tensor, direction: Tensor) -> Tensor | None:
    """Salimans and Kingma, "Weight Normalization", NIPS 2016: g * v / |v|, one g a slice.

    Args:
        size: g, of shape [] or of as many axes as v, of which one at most is not 1.
        direction: v.

    Returns:
        The weight, or None where the two are not g and v.
    """
    if not size.is_floating_point() or not direction.is_floating_point():
        return None
    axes = list(range(direction.dim()))
    if size.dim():
        kept = [axis for axis, length in enumerate(size.shape) if length != 1]
        fits = size.dim() == direction.dim() and len(kept) < 2
        if not fits or any(size.shape[axis] != direction.shape[axis] for axis in kept):
            return None
        axes = [axis for axis in axes if size.shape[axis] == 1]
    norm = torch.linalg.vector_norm(direction, dim=axes, keepdim=True) if axes else direction.abs()
    return direction * (size / norm)


def reparametrised(state: State, doubts: Doubts) -> str | None:
    """torch.nn.utils.prune: ``X_orig`` times ``X_mask`` is ``X``, whatever the mask's values.

    Paired by name: ``prune.remove`` moves ``X`` to the end of its module, so that the order says
    nothing.
    """
    count = soft = 0
    for name in [name.removesuffix("_orig") for name in state if name.endswith("_orig")]:
        if f"{name}_u" in state:
            raise UserError(f"{name} has spectral normalisation: remove it before saving")
        if f"{name}_mask" not in state:
            doubts[f"{name}_orig"] = (
                f"{name}_orig has no {name}_mask beside it, and is not the weight without it: save"
                " the mask, too, or call torch.nn.utils.prune.remove before saving"
            )
            continue
        mask = state[f"{name}_mask"]
        weight = masked(state[f"{name}_orig"], mask, name)
        if name in state and not torch.equal(state[name], weight):
            doubts[f"{name}_orig"] = (
                f"{name} is there, and {name}_orig with {name}_mask, which make another weight:"
                " save the right one alone"
            )
            continue
        del state[f"{name}_orig"], state[f"{name}_mask"]
        state[name] = weight
        soft += not binary(mask)
        count += 1
    if not count:
        return None
    more = f", {soft} of them not only 0 and 1: multiplied as they are" if soft else ""
    return f"{count} masks (torch.nn.utils.prune){more}"


def nni_wrappers(state: State, _: Doubts) -> str | None:
    """NNI 3: ``L._nni_wrapper.X`` times ``L._nni_wrapper.X_mask`` is ``L.X``, of which ``L`` itself
    only holds a copy of some earlier time."""
    marker = "._nni_wrapper."
    names = [n.removesuffix("_mask") for n in state if marker in n and n.endswith("_mask")]
    names = [name for name in names if name in state]
    for name in names:
        layer, _sep, parameter = name.partition(marker)
        mask = state.pop(f"{name}_mask")
        state.pop(f"{name}_mvp_score", None)  # what movement pruning chose the mask by
        state[f"{layer}.{parameter}"] = masked(state.pop(name), mask, name)
    return f"{len(names)} masks (NNI)" if names else None


def soft_thresholds(state: State, _: Doubts) -> str | None:
    """Kusupati et al., "Soft Threshold Weight Reparameterization", ICML 2020, equation 3:
    ``sign(W) * relu(|W| - sigmoid(s))``, s stored as ``sparseThreshold``; stored weights are dense.

    On a BatchNorm (STR-BN) the scale is thresholded, and the bias multiplied with the result,
    as ``Y = scale * (X + bias)``.
    """
    convs = norms = 0
    for name in [n for n in state if n.rpartition(".")[2] == "sparseThreshold"]:
        layer = name.removesuffix("sparseThreshold")
        weight = state.get(f"{layer}weight")
        if weight is None or not weight.dim() or not weight.is_floating_point():
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


def gates(state: State, _: Doubts) -> str | None:
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
        if (bias := state.get(f"{layer}bn.bias")) is None or bias.shape != weight.shape:
            raise UserError(f"{layer}bn has no bias like its weight: the checkpoint is incomplete")
        for key in ("weight", "bias"):
            state[f"{layer}bn.{key}"] = state[f"{layer}bn.{key}"] * gate.flatten()
        for key in [key for key in state if key.startswith(f"{layer}bn.")]:
            state[layer + key.removeprefix(f"{layer}bn.")] = state.pop(key)
    return f"{len(names)} channel gates folded (GateDecorators)" if names else None
