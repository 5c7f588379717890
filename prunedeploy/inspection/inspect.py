"""Measures how sparse a checkpoint or a model is, and estimates what each engine gains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prunedeploy.core.errors import UserError, naming_file
from prunedeploy.core.records import NextStep
from prunedeploy.graph.layers import (
    Layer,
    is_normalisation,
    module_layers,
    module_macs,
    node_layers,
    state_layers,
)
from prunedeploy.graph.sparsity import TINY

if TYPE_CHECKING:
    import torch

    from prunedeploy.graph.fixed_shapes import Shapes
    from prunedeploy.graph.several_sizes import AllSizes
    from prunedeploy.inspection.block_report import LayerBlocks
    from prunedeploy.inspection.hints import Hint
    from prunedeploy.shrinking.example_inputs import ExampleInput
    from prunedeploy.shrinking.request import CheckpointOptions

DATA_BATCH = 50  # images computed together, where the model leaves it open


@dataclass(frozen=True)
class Totals:
    """Sums over the layers; channels of BatchNorm scales apart from those of weights.

    ``parameters`` are all of the file, ``weights`` those of the layers. ``nonzero_macs`` leave out
    those that meet a zero weight.
    """

    parameters: int
    weights: int
    nonzero: int
    density: float
    outputs: int
    dead_outputs: int
    inputs: int
    dead_inputs: int
    dead_scales: int
    tiny: int
    nonfinite: int
    macs: int | None
    nonzero_macs: int | None


@dataclass(frozen=True)
class Outlook:
    """The gain of one step or runtime from the zeros: estimated from counts, not measured."""

    engine: str
    gain: str


@dataclass(frozen=True)
class SizeWork:
    """The multiply-accumulates of one sample at one of several sizes; see ``Totals``."""

    size: str
    macs: int | None
    nonzero_macs: int | None


@dataclass(frozen=True)
class Inspection:
    """The result of ``inspect``.

    Weights of a size below ``zero_below`` count as zero (float32 denormals). ``hints`` are channels
    that were constant on the data given; nothing is removed for them.
    """

    source: Path
    kind: Literal["model", "checkpoint"]
    arch: str | None
    found: tuple[str, ...]
    zero_below: float
    totals: Totals
    layers: tuple[Layer, ...]
    outlook: tuple[Outlook, ...]
    hints: tuple[Hint, ...] = ()
    blocks: tuple[LayerBlocks, ...] = ()
    next_step: NextStep | None = None  # by the command line
    sizes: tuple[SizeWork, ...] = ()


def inspect(
    path: Path | str,
    arch: str | None = None,
    trust: bool = False,
    mask: Path | str | None = None,
    *,
    data: Path | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    blocks: Path | str | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    inputs: Sequence[ExampleInput] = (),
    shapes: AllSizes | None = None,
) -> Inspection:
    """Measure the zeros of every weight in the checkpoint or ONNX model at ``path``.

    A checkpoint whose architecture is neither named nor recognised is measured from its weights
    alone: a depthwise convolution and one with a single input channel then look the same.

    Args:
        path: the checkpoint or model.
        arch: of a checkpoint, where it cannot be recognised.
        trust: allow a checkpoint to run code while it is loaded.
        mask: a file of masks that goes with the checkpoint.
        data: an .npz file with ``images`` and ``labels``: lists channels that are constant on all
            of them, though not for every input.
        mean: per channel, for uint8 images; known for a recognised checkpoint.
        std: the same.
        blocks: a PNG file to draw the blocks of every layer into; lists them, too.
        weights: which of several sets of weights in a checkpoint, by its key or the prefix of its
            names.
        prefix: take the tensors of a checkpoint alone whose names begin with it.
        inputs: what the network of a checkpoint takes, as ``shrink`` has it.
        shapes: sizes of inputs by their names; a sequence of such for several sizes.

    Returns:
        Shape, density and dead channels of every layer, their totals, and the outlook.

    Raises:
        UserError: the file cannot be read, or needs code to run and ``trust`` is False; the data
            do not fit.

    Example:
        >>> import prunedeploy
        >>> totals = prunedeploy.inspect("net.onnx").totals
        >>> totals.dead_outputs, totals.outputs
        (12, 26)
    """
    from prunedeploy.checkpoint import find, kind
    from prunedeploy.graph.several_sizes import each_size, stated_names
    from prunedeploy.shrinking.request import CheckpointOptions

    path = find(path)
    sizes = each_size(shapes)
    options = CheckpointOptions(
        *(arch, None, trust, mask, weights, prefix), tuple(inputs), sizes[0]
    )
    whole = kind(path) == "onnx"
    if whole:
        options.refuse_for("an ONNX model")
    names = stated_names(sizes)
    first, *others = (
        _inspect_model(path, size)
        if whole
        else _inspect_checkpoint(path, replace(options, shapes=size))
        for size in sizes
    )
    inspection = first
    if others:
        totals = (each.totals for each in (first, *others))
        work = (SizeWork(n, t.macs, t.nonzero_macs) for n, t in zip(names, totals, strict=True))
        inspection = replace(first, sizes=tuple(work))
    if blocks is not None:
        inspection = replace(inspection, blocks=_blocks(path, options, Path(blocks)))
    if data is None:
        return inspection
    if (mean is None) != (std is None):
        raise UserError("give both mean and std, or neither")
    given = (mean, std) if mean is not None and std is not None else None
    return replace(inspection, hints=_hints(path, options, Path(data), given))


def _blocks(path: Path, options: CheckpointOptions, picture: Path) -> tuple[LayerBlocks, ...]:
    from prunedeploy.core.files import check_writable
    from prunedeploy.inspection.block_report import report
    from prunedeploy.shrinking import loading

    check_writable(picture)
    return report(loading.load(path, options).program, picture)


def _hints(
    path: Path,
    options: CheckpointOptions,
    data: Path,
    normalisation: tuple[Sequence[float], Sequence[float]] | None,
) -> tuple[Hint, ...]:
    from prunedeploy.graph import model as models
    from prunedeploy.inspection.hints import hints
    from prunedeploy.measure import labelled
    from prunedeploy.shrinking import loading

    loaded = loading.load(path, options)
    if normalisation is None and loaded.mean:
        normalisation = loaded.mean, loaded.std
    images = labelled.load(data, models.specs(loaded.program)[0], normalisation)
    first = images.spec.shape[0]
    size = first if isinstance(first, int) else min(DATA_BATCH, len(images.labels))
    return hints(loaded.program, images.batches(size))


def _inspect_model(path: Path, shapes: Shapes) -> Inspection:
    from prunedeploy.graph import preparation, work
    from prunedeploy.graph.fixed_shapes import fix

    with naming_file(path):
        prepared = preparation.from_file(path)
        model = prepared.model
        fix(model, shapes)
    nodes = [node for node in model.graph.all_nodes() if node.domain in ("", "ai.onnx")]
    layers = tuple(layer for node in nodes for layer in node_layers(node))
    tensors = (v.const_value for v in model.graph.initializers.values())
    parameters = sum(t.size for t in tensors if t is not None and t.dtype.is_floating_point())
    macs = sum(map(work.macs, nodes)) or None
    return _inspection(path, "model", None, prepared.notes, layers, parameters, macs)


def _inspect_checkpoint(path: Path, options: CheckpointOptions) -> Inspection:
    from prunedeploy import checkpoint
    from prunedeploy.shrinking.input_size import input_size
    from prunedeploy.shrinking.request import batch_shape

    how = options.trust, options.mask, options.weights, options.prefix
    try:
        loaded = checkpoint.load(path, options.arch, *how)
    except UserError:
        if options.arch is not None:
            raise
        # what cannot be read fails here again; an unknown network or a NaN does not
        tensors, notes = checkpoint.weights(path, *how)
        layers = tuple(state_layers(tensors))
        return _inspection(path, "checkpoint", None, notes, layers, _parameters(tensors), None)
    shape = batch_shape(options) or loaded.input_shape or input_size(loaded.module)
    macs = module_macs(loaded.module, None if options.inputs else shape)
    layers = tuple(module_layers(loaded.module, macs))
    parameters, total = _parameters(loaded.module.state_dict()), sum(macs.values()) or None
    return _inspection(path, "checkpoint", loaded.arch, loaded.found, layers, parameters, total)


def _parameters(tensors: Mapping[str, torch.Tensor]) -> int:
    """Learned numbers: what a BatchNorm only counted and averaged is none."""
    return sum(
        t.numel()
        for name, t in tensors.items()
        if t.is_floating_point() and not name.endswith(("running_mean", "running_var"))
    )


def _inspection(
    path: Path,
    kind: Literal["model", "checkpoint"],
    arch: str | None,
    notes: tuple[str, ...],
    layers: tuple[Layer, ...],
    parameters: int,
    macs: int | None,
) -> Inspection:
    totals = _totals(layers, parameters, macs)
    outlook = tuple(_outlook(layers, totals))
    return Inspection(path, kind, arch, notes, TINY, totals, layers, outlook)


def _totals(layers: Iterable[Layer], parameters: int, macs: int | None) -> Totals:
    scales = [layer.pattern for layer in layers if is_normalisation(layer)]
    products = [layer for layer in layers if not is_normalisation(layer)]
    weights = [layer.pattern for layer in products]
    total, nonzero = sum(p.weights for p in weights), sum(p.nonzero for p in weights)
    saved = sum(round(x.macs * (1 - x.pattern.density)) for x in products if x.macs is not None)
    return Totals(
        parameters=parameters,
        weights=total,
        nonzero=nonzero,
        density=nonzero / total if total else 0.0,
        outputs=sum(p.outputs for p in weights),
        dead_outputs=sum(p.dead_outputs for p in weights),
        inputs=sum(p.inputs for p in weights),
        dead_inputs=sum(p.dead_inputs for p in weights),
        dead_scales=sum(p.dead_outputs for p in scales),
        tiny=sum(p.tiny for p in (*weights, *scales)),
        nonfinite=sum(p.nonfinite for p in (*weights, *scales)),
        macs=macs,
        nonzero_macs=None if macs is None else macs - saved,
    )


def _outlook(layers: Iterable[Layer], totals: Totals) -> Iterator[Outlook]:
    weights = [layer for layer in layers if not is_normalisation(layer)]
    yield Outlook("shrink", _shrink_gain(weights, totals))
    yield Outlook("sparse", _sparse_gain(weights, totals))
    yield Outlook("tensorrt", _tensorrt_gain(weights))
    yield Outlook("ort", "nothing more: it computes the zeros that shrink leaves")


def _shrink_gain(layers: Iterable[Layer], totals: Totals) -> str:
    """Weights in dead rows and columns; shrink itself finds out what may really go."""
    if not totals.dead_outputs + totals.dead_inputs + totals.dead_scales:
        return "nothing to remove: every channel is live"
    left = sum(_live_weights(layer) for layer in layers)
    parts = (
        (totals.dead_outputs, "output channels are zero"),
        (totals.dead_inputs, "input channels are never read"),
        (totals.dead_scales, "BatchNorm scales are zero"),
    )
    what = ", ".join(f"{count:,} {text}" for count, text in parts if count)
    if left == totals.weights:  # what a zero scale takes along shows in the network only
        return what
    return f"{what}; {1 - left / totals.weights:.1%} of the weights are those of dead channels"


def _live_weights(layer: Layer) -> float:
    p = layer.pattern
    rows = 1 - p.dead_outputs / max(p.outputs, 1)
    columns = 1 - p.dead_inputs / max(p.inputs, 1) if layer.groups == 1 else 1.0
    return p.weights * rows * columns


def _sparse_gain(layers: list[Layer], totals: Totals) -> str:
    """The most that skipping every zero could save, and how regular the rest is."""
    if not totals.nonzero or totals.nonzero == totals.weights:
        return "nothing: no weight is zero" if totals.nonzero else "nothing: every weight is zero"
    in_blocks = sum(x.pattern.block_share * x.pattern.nonzero for x in layers) / totals.nonzero
    if totals.macs is not None and totals.nonzero_macs:
        ratio, unit = totals.macs / totals.nonzero_macs, "multiply-accumulates"
    else:
        ratio, unit = totals.weights / totals.nonzero, "weights"
    return (
        f"density {totals.density:.1%}: at most {ratio:.2f} times fewer {unit}; "
        f"{in_blocks:.0%} of the non-zeros lie in dense blocks"
    )


def _tensorrt_gain(layers: list[Layer]) -> str:
    fit = [x for x in layers if x.pattern.two_four == 1.0 and x.pattern.nonzero]
    if not fit:
        return "nothing more: no layer is 2:4 sparse throughout, zeros are computed"
    return f"{len(fit)} of {len(layers)} layers are 2:4 sparse: sparse tensor cores (Ampere on)"
