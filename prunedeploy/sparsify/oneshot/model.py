"""From a checkpoint to a sparse checkpoint, in one call."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prunedeploy import checkpoint
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, check_writable
from prunedeploy.core.log import logged
from prunedeploy.sparsify.oneshot.inputs import SAMPLES, Normalisation, read_samples
from prunedeploy.sparsify.oneshot.one_shot import one_shot
from prunedeploy.sparsify.oneshot.options import OneShotOptions
from prunedeploy.sparsify.oneshot.result import LayerResult, OneShot, Speed
from prunedeploy.sparsify.oneshot.study import Progress


@dataclass(frozen=True)
class SparsifyResult:
    """The sparse checkpoint ``output``, and how it came about; fields as ``OneShot`` has them.

    ``summary`` is the result in one sentence, ``next_step`` the command to go on with.
    """

    source: Path
    output: Path
    arch: str | None
    layers: tuple[LayerResult, ...]
    density: float
    flops: float
    agreement: float
    samples: int
    seconds: float
    speed: Speed | None
    notes: tuple[str, ...]
    summary: str
    next_step: str


def sparsify_model(
    source: str | Path,
    data: str | Path,
    output: str | Path | None,
    options: OneShotOptions,
    *,
    arch: str | None = None,
    trust: bool = False,
    mask: str | Path | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    normalisation: Normalisation | None = None,
    count: int = SAMPLES,
    progress: Progress | None = None,
) -> SparsifyResult:
    """Make a dense checkpoint sparse on a thousand unlabelled samples, and write it.

    Args:
        source: a checkpoint, as ``prunedeploy.load`` takes it.
        data: an .npz file of samples (see ``inputs.read_samples``).
        output: a state_dict with zeros, which ``optimize`` reads; ``<name>.sparse.pt`` in the
            current folder when None.
        options: how sparse or how fast, and by what.
        arch, trust, mask, weights, prefix: of the checkpoint, as ``prunedeploy.load`` has them.
        normalisation: mean and deviation of each channel of pixels in [0, 1]; known for recognised
            networks.
        count: of samples that are drawn.
        progress: called with one line of text for each step.

    Returns:
        What was masked in which layer, the file that was written, and the next command.

    Raises:
        UserError: anything about the input that the user can mend; nothing is written.

    Example:
        >>> import prunedeploy
        >>> options = prunedeploy.OneShotOptions(density=0.2)
        >>> done = prunedeploy.sparsify_model("resnet20.pt", "images.npz", None, options)
        >>> print(done.next_step)
        prunedeploy optimize resnet20.sparse.pt
    """
    report = logged(progress)
    path = Path(output or f"{checkpoint.name_of(source)}.sparse.pt")
    check_writable(path)
    if os.path.realpath(path) == os.path.realpath(source):
        raise UserError(f"{path} is the input: name another output with -o")
    if checkpoint.kind(checkpoint.find(source)) == "onnx":
        raise UserError(f"{source} is an ONNX model: give the checkpoint that it was exported from")
    loaded = checkpoint.load(source, arch, trust, mask, weights, prefix)
    samples = read_samples(
        *(data, count), normalisation=normalisation or _known(loaded), seed=options.seed
    )
    done = one_shot(loaded.module, samples.batches, options, labels=samples.labels, progress=report)
    report("writing")
    with atomic_path(path) as temporary:
        torch.save({"state_dict": done.module.state_dict()}, temporary)
    return _result(Path(source), path, loaded, done, options)


def _known(loaded: checkpoint.Checkpoint) -> Normalisation | None:
    """How the network's pixels are normalised; not at all where it does that itself."""
    if loaded.recipe is None:
        return None
    if not isinstance(getattr(loaded.module, "normalize", nn.Identity()), nn.Identity):
        return (0.0,), (1.0,)
    return loaded.recipe.mean, loaded.recipe.std


def _result(
    source: Path,
    path: Path,
    loaded: checkpoint.Checkpoint,
    done: OneShot,
    options: OneShotOptions,
) -> SparsifyResult:
    command = ["prunedeploy", "optimize", str(path)]
    if loaded.arch is not None and ":" in loaded.arch:
        command += ["--arch", loaded.arch]
    if options.target != "host":
        command += ["--target", options.target]
    return SparsifyResult(
        source=source,
        output=path,
        arch=loaded.arch,
        layers=done.layers,
        density=done.density,
        flops=done.flops,
        agreement=done.agreement,
        samples=done.samples,
        seconds=done.seconds,
        speed=done.speed,
        notes=done.notes,
        summary=done.summary(),
        next_step=shlex.join(command),
    )
