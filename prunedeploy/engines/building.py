"""Building an engine: in a folder of its own, checked against the model, then moved to its output.

The folder that ``build`` writes is never seen half done: an engine that was there before is
replaced at once, and only by one whose outputs agree with the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prunedeploy import targets
from prunedeploy.core import records
from prunedeploy.core.errors import UserError, naming_file
from prunedeploy.core.files import atomic_directory, sha256
from prunedeploy.core.log import logged
from prunedeploy.core.records import Engine
from prunedeploy.engines import choice, sources
from prunedeploy.engines.engine_folder import MANIFEST, refuse_to_replace, write_manifest
from prunedeploy.engines.request import BuildRequest, Progress, build_options
from prunedeploy.engines.verified_build import build_verified, narrow_precision
from prunedeploy.graph.fixed_shapes import Shapes, sized
from prunedeploy.runtimes.api import BuildOptions, Tuning
from prunedeploy.runtimes.registry import by_name as runtime_by_name


def build(
    model: str | Path | None = None,
    target: str = "host",
    runtime: str = "auto",
    output: str | Path | None = None,
    baseline: str | Path | None = None,
    progress: Progress | None = None,
    *,
    batch: int | Sequence[int] = (),
    threads: int = 0,
    tune: Tuning = "quick",
    within: float | None = None,
    blocks: bool = True,
    shapes: Shapes | None = None,
) -> Engine:
    """Build an engine, and write it once it is known to compute what the model computes.

    Args:
        model: an ONNX file; the newest result of ``shrink`` in the current folder when None.
        target: a name of ``targets.TARGETS``.
        runtime: a name of ``runtimes.RUNTIMES``. "auto" is the fastest: on this machine every
            runtime that can compute the model is built and timed, for another target the
            prediction decides; the manifest's ``choice`` has the times.
        output: the engine's folder; ``<model>.<target>.<runtime>.engine`` in the current folder
            when None. An engine already there is replaced, anything else is refused.
        baseline: the dense model to compare speed with; when None, the one that ``shrink``
            recorded beside the model, if it did.
        progress: called with one line of text for each choice and each step.
        batch: sizes to build for, where the runtime builds ahead of time (``sparse``); the
            model's own or 1 when empty.
        threads: how many such an engine will mostly run with; 0 for all cores of the target.
        tune: whether such a runtime measures which way to compute each layer, and how long.
        within: how far outputs may be from the model's in float64, in parts of their range, where
            that is less than the 1e-5 that ``verify`` allows; an engine that is further off is
            refused. The sparse runtime has forms of dense layers that round less, and takes them
            where it has to.
        blocks: False builds a sparse engine without the kernel for blocks of rows that share
            columns, for measurements of what blocks bring.
        shapes: sizes of inputs that the model leaves open, by their names.

    Returns:
        The engine: its folder, and its manifest with the difference from the model.

    Raises:
        UserError: no such model, target or runtime; the target is not at hand; the engine
            computes something else; ``output`` cannot be written or is not an engine.

    Example:
        >>> import prunedeploy
        >>> engine = prunedeploy.build("net.onnx", runtime="sparse", batch=(1, 2), tune="none")
        >>> engine.path.name, engine.manifest.batches, engine.manifest.difference.passed
        ('net.host.sparse.engine', (1, 2), True)
    """
    progress = logged(progress)
    options = replace(build_options(batch, threads, tune, progress), blocks=blocks)
    origin = sources.model_file(model, progress)
    with naming_file(origin), sized(origin, shapes) as source:
        return _build(
            *(source, origin, target, runtime, output, baseline, progress), options, within=within
        )


def _build(
    source: Path,
    origin: Path,
    target: str,
    runtime: str,
    output: str | Path | None,
    baseline: str | Path | None,
    progress: Progress,
    options: BuildOptions,
    *,
    within: float | None,
) -> Engine:
    """``build`` of the model in ``source``, which is that in ``origin`` with its inputs' sizes."""
    machine = targets.by_name(target)
    names, refused = choice.candidates(machine, runtime)
    if within is not None:
        _check_within(within, source, machine, names)
    outputs = {
        name: Path(output or f"{origin.stem}.{machine.name}.{name}.engine") for name in names
    }
    for folder in outputs.values():
        refuse_to_replace(folder)
    dense = sources.dense_file(origin, baseline, progress)
    specs = _specs(source)

    def request(name: str) -> BuildRequest:
        builder = runtime_by_name(name)
        return BuildRequest(
            *(source, origin, machine, builder, outputs[name], dense), *specs, within
        )

    if len(names) > 1 and targets.why_not_here(machine) is None:
        with choice.measured(request, names, options) as best:
            return _move(best.folder, best.request.output, _add_refused(best.manifest, refused))
    chosen = choice.predicted(source, machine, names, options) if len(names) > 1 else None
    wanted = request(chosen.runtime if chosen is not None else names[0])
    progress(f"building {wanted.output} with {wanted.runtime.name}")
    with atomic_directory(wanted.output) as folder:
        manifest = replace(build_verified(folder, wanted, options), choice=chosen)
        manifest = _add_refused(manifest, refused)
        write_manifest(folder, manifest)
    return Engine(wanted.output, manifest, sha256(wanted.output / MANIFEST))


def _check_within(
    within: float, source: Path, machine: targets.Target, names: Sequence[str]
) -> None:
    """Refuse a bound that ``verify`` does not allow, or that nothing could be held to."""
    from prunedeploy.reference.verify import TOLERANCE

    largest = TOLERANCE["float32"]
    if not 0 < within <= largest:
        raise UserError(f"outputs cannot be held within {within:g}: give at most {largest:g}")
    computes = all(runtime_by_name(name).computes for name in names)
    if not computes or targets.why_not_here(machine):
        raise UserError(f"outputs cannot be held within {within:g}: nothing is computed here")
    if precision := narrow_precision(source):
        raise UserError(f"outputs cannot be held within {within:g}: the model is in {precision}")


def _add_refused(
    manifest: records.Manifest, refused: tuple[records.RefusedRuntime, ...]
) -> records.Manifest:
    """Add the runtimes that could not even be tried to the record of the choice."""
    if not refused:
        return manifest
    made = manifest.choice or records.RuntimeChoice("measured", manifest.runtime, ())
    return replace(manifest, choice=replace(made, refused=(*made.refused, *refused)))


def _move(built: Path, output: Path, manifest: records.Manifest) -> Engine:
    """Move the files of an engine from the folder where it was built to ``output``."""
    with atomic_directory(output) as folder:
        for file in built.iterdir():
            file.replace(folder / file.name)
        write_manifest(folder, manifest)
    return Engine(output, manifest, sha256(output / MANIFEST))


def _specs(source: Path) -> tuple[tuple[records.TensorSpec, ...], tuple[records.TensorSpec, ...]]:
    from prunedeploy.graph import model as models
    from prunedeploy.reference.fitting import fitted

    program = models.load(source)
    return fitted(program), models.specs(program)[1]
