"""Turns a saved state_dict into plain dense weights: one function for each convention, in order.

Each function edits the dictionary in place, tensor by tensor, so that weights are never all in
memory twice, and returns what it found in one line, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunedeploy.checkpoint import beside, buffers, compressed, layers, parametrized
from prunedeploy.checkpoint.beside import Applied
from prunedeploy.checkpoint.masks import Doubts
from prunedeploy.checkpoint.pickle.packed import PackedTensor
from prunedeploy.checkpoint.pickle.stub import Quantised
from prunedeploy.checkpoint.survey import COUNTERS, refuse_names
from prunedeploy.checkpoint.tensors import NUMBERS
from prunedeploy.checkpoint.walk import MaskCandidate
from prunedeploy.core.budget import EXPANDED
from prunedeploy.core.errors import UserError

State = dict[str, Tensor]

# Wrappers that put themselves into the name of every parameter they hold.
WRAPPER = re.compile(
    r"(?:^module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
FLAT = ("_flat_param", "flat_param")


@dataclass
class Normalised:
    """Plain dense weights, and what it took.

    ``masks`` are those that were applied and stood among the weights, by their names: a network of
    the user's own may have a place for them. ``doubts`` say by the names of entries why the file
    has to be refused, unless such a network has a place for them. ``bare`` are weights that lack
    the mask of their parametrization, and the name that they had in it. ``filters`` are as in
    ``masks.Settled``.
    """

    state: State
    notes: list[str] = field(default_factory=list)
    masks: State = field(default_factory=dict)
    doubts: Doubts = field(default_factory=dict)
    bare: dict[str, str] = field(default_factory=dict)
    filters: set[str] = field(default_factory=set)

    def settle(self, applied: Applied) -> None:
        """Note that masks were applied from elsewhere."""
        self.filters |= applied.filters
        for target in applied.targets:
            self.doubts.pop(self.bare.pop(target, ""), None)

    def refuse_doubts(self) -> None:
        """Refuse the file for what nobody has settled.

        Raises:
            UserError: the first doubt.
        """
        for why in self.doubts.values():
            raise UserError(why)


def normalise(
    tensors: dict[str, Any],
    candidates: Sequence[MaskCandidate] = (),
    origins: Mapping[str, str] | None = None,
) -> Normalised:
    """``tensors`` as a plain state_dict, and what it took. ``tensors`` is emptied.

    Args:
        tensors: name to tensor; other values are left out.
        candidates: what is kept elsewhere in the file and may be masks.
        origins: the classes of the network's modules by their names, where the file says.

    Raises:
        UserError: quantised, complex or otherwise unusable weights; a mask whose weight or meaning
            is not certain; the message names them.
    """
    notes: list[str | None] = [compressed.decompress(tensors), *_clean(tensors)]
    state: State = tensors
    positions = _positions(state)
    folded = parametrized.fold(state, origins or {})
    notes.append(folded.note)
    doubts = dict(folded.doubts)
    notes += [step(state, doubts) for step in STEPS]
    inside = buffers.apply(state)
    applied = beside.apply(state, list(candidates))
    notes += [*inside.notes, *applied.notes]
    doubts |= inside.doubts
    doubts |= {name: f"{name} {parametrized.BARE}" for name in folded.bare.values()}
    notes += [step(state, doubts) for step in LATER]
    notes.append(_one_dtype(state))
    # The order of the modules is the only order there is (see ``selection.py``): restore it.
    last = len(positions)
    order = sorted(state, key=lambda name: positions.get(name.rpartition(".")[0], last))
    plain = {name: state[name] for name in order}
    filters = set(inside.filters | applied.filters)
    lines = [line for line in notes if line]
    done = Normalised(plain, lines, inside.masks, doubts, dict(folded.bare), filters)
    done.settle(applied)
    return done


def zero_share(state: Mapping[str, Tensor]) -> float:
    """The share of the weights of layers, [out, in, ...], that are zero."""
    weights = [t for t in state.values() if t.is_floating_point() and t.dim() > 1]
    total = sum(weight.numel() for weight in weights)
    zeros = sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
    return zeros / total if total else 0.0


def _positions(state: State) -> dict[str, int]:
    """Where each module, and each module around it, is first named."""
    positions: dict[str, int] = {"": 0}
    for at, name in enumerate(state):
        parts = name.split(".")
        for end in range(1, len(parts)):
            positions.setdefault(".".join(parts[:end]), at)
    return positions


def check_finite(state: State) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, tensor in state.items():
        # The sum is not finite when one weight is not: no temporary of the weight's size.
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise UserError(
                    f"{name} holds NaN or infinity in {bad:,} of {tensor.numel():,} places:"
                    " the training diverged or the file is broken, take an earlier checkpoint"
                )


def _clean(tensors: dict[str, Any]) -> list[str]:
    """Tensors alone, dense, under their own names."""
    names = list(tensors)
    _refuse_shards(tensors)
    _refuse_bombs(tensors)
    counts: dict[str, int] = {}

    def count(what: str) -> None:
        counts[what] = counts.get(what, 0) + 1

    for name in names:
        value = tensors.pop(name)
        plain = WRAPPER.sub("", name)
        if plain != name:
            prefix = name.removesuffix(plain)
            count(f"prefix {prefix}" if prefix != name else "names freed of wrappers")
        if isinstance(value, PackedTensor):
            raise UserError(
                f"{name} is a {value.kind}, which only code of its own can read: save it as a"
                " plain tensor (to_dense, dequantize or full_tensor, whichever it has)"
            )
        if isinstance(value, Quantised) or (isinstance(value, Tensor) and value.is_quantized):
            raise UserError(f"{name} is quantised to integers: load the network from before that")
        if not isinstance(value, Tensor):
            count("entries that are no tensors left out")
            continue
        if plain.rpartition(".")[2] in COUNTERS:
            continue
        if value.dtype not in NUMBERS:
            raise UserError(f"{name} is of type {_dtype(value)}, which is not supported")
        if value.layout != torch.strided:
            count(f"sparse tensors ({str(value.layout).removeprefix('torch.sparse_')}) made dense")
            value = value.to_dense()
        if value.is_complex():
            raise UserError(f"{name} is complex, which is not supported")
        if value.numel() == 0 and value.dim() and plain.rpartition(".")[2] != "indexes":
            raise UserError(
                f"{name} has a size of zero {tuple(value.shape)}: a whole layer was removed,"
                " load the checkpoint from before its shrinking"
            )
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            count(f"{_dtype(value)} weights converted to float32")
            value = value.float()
        tensors[plain] = value
    return [what if what.startswith("prefix ") else f"{n} {what}" for what, n in counts.items()]


def _refuse_shards(tensors: Mapping[str, Any]) -> None:
    """Files of training on several devices that have the names of the weights alone, or a part."""
    sizes = {k: v.numel() for k, v in tensors.items() if isinstance(v, Tensor) and v.dim()}
    empty = [name for name, size in sizes.items() if not size]
    if 2 * len(empty) > len(sizes):
        raise UserError(
            f"{len(empty)} of {len(sizes)} tensors are empty ({empty[0]}, ...): the weights are in"
            " the files of the shards; put them together first (DeepSpeed: zero_to_fp32.py)"
        )
    if flat := [name for name in sizes if name.rpartition(".")[2] in FLAT]:
        raise UserError(
            f"{flat[0]} is the flat parameter of FSDP, several weights in one: save the full"
            " state_dict (StateDictType.FULL_STATE_DICT)"
        )


def _refuse_bombs(tensors: Mapping[str, Any]) -> None:
    """Names and tensors that are many times as large as what the file has of them."""
    refuse_names(tensors)
    total = 0
    for value in tensors.values():
        if not isinstance(value, Tensor):
            continue
        sparse = value.layout != torch.strided
        if sparse or value.numel() * value.element_size() > 2 * value.untyped_storage().nbytes():
            total += value.numel()
    if total > EXPANDED:
        raise UserError(
            f"holds {total:,} elements in tensors that store next to none (sparse, expanded): too"
            " many for weights"
        )


def _one_dtype(state: State) -> str | None:
    """A network computes in one dtype: float64 where all of it is, else float32."""
    floats = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(floats) < 2:
        return None
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = tensor.float()
    return "mixed precision: all weights as float32"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


Step = Callable[[State, Doubts], str | None]
STEPS: tuple[Step, ...] = (layers.weight_norm, layers.nni_wrappers, layers.reparametrised)
LATER: tuple[Step, ...] = (layers.soft_thresholds, layers.gates)
