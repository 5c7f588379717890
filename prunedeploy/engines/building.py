"""Building an engine: in a folder of its own, checked against the model, then moved to its output.

The folder that ``build`` writes is never seen half done: an engine that was there before is
replaced at once, and only by one whose outputs agree with the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prunedeploy import targets
from prunedeploy.core import records
from prunedeploy.core.errors import UserError, naming_file
from prunedeploy.core.files import atomic_directory, sha256
from prunedeploy.core.log import logged
from prunedeploy.core.records import Engine, Manifest, RuntimeChoice
from prunedeploy.engines import choice, sources
from prunedeploy.engines.engine_folder import MANIFEST, refuse_to_replace, write_manifest
from prunedeploy.engines.request import BuildRequest, Progress, build_options
from prunedeploy.engines.sizes import Specs, joined
from prunedeploy.engines.verified_build import build_verified, narrow_precision
from prunedeploy.graph.fixed_shapes import sized
from prunedeploy.graph.several_sizes import AllSizes, each_size, merged, size_names
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
    shapes: AllSizes | None = None,
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
        shapes: sizes of inputs that the model leaves open, by their names. A sequence of such makes
            an engine for several sizes, whose session takes inputs of any of them.

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
    with naming_file(origin), ExitStack() as stack:
        files = [stack.enter_context(sized(origin, each)) for each in each_size(shapes)]
        return _build(
            *(files, origin, target, runtime, output, baseline, progress), options, within=within
        )


def _build(
    files: Sequence[Path],
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
    """``build`` of the model in ``origin``, of which each of ``files`` has the inputs of a size."""
    machine = targets.by_name(target)
    names, refused = choice.candidates(machine, runtime)
    if within is not None:
        _check_within(within, files[0], machine, names)
    outputs = {
        name: Path(output or f"{origin.stem}.{machine.name}.{name}.engine") for name in names
    }
    for folder in outputs.values():
        refuse_to_replace(folder)
    dense = sources.dense_file(origin, baseline, progress)
    specs = tuple(map(_specs, files))
    sizes = size_names([inputs for inputs, _ in specs]) if len(files) > 1 else ("",)
    job = _Job(origin, tuple(files), specs, sizes, machine, outputs, dense, within, refused)
    if len(names) > 1 and targets.why_not_here(machine) is None:
        requests = [partial(job.request, size) for size in range(len(files))]
        with choice.measured(requests, names, options, outputs[names[0]]) as best:
            path = outputs[best.choice.runtime]
            with atomic_directory(path) as folder:
                for one, size in zip(best.engines, sizes, strict=True):
                    _move(one.folder, folder / size)
                manifest = job.finish(folder, [x.manifest for x in best.engines], best.choice)
        return Engine(path, manifest, sha256(path / MANIFEST))
    chosen = choice.predicted(files, machine, names, options) if len(names) > 1 else None
    name = chosen.runtime if chosen is not None else names[0]
    path = outputs[name]
    progress(f"building {path} with {name}")
    with atomic_directory(path) as folder:
        manifest = job.finish(folder, job.build(folder, name, options), chosen)
    return Engine(path, manifest, sha256(path / MANIFEST))


@dataclass(frozen=True)
class _Job:
    """What to build of a model: an engine for each of its ``sizes``, by the names of their folders.

    ``files`` are the model at each size, ``specs`` its inputs and outputs there. The name of the
    only size is empty: its engine's folder is the engine's. ``outputs`` are by runtime.
    """

    origin: Path
    files: tuple[Path, ...]
    specs: tuple[Specs, ...]
    sizes: tuple[str, ...]
    target: targets.Target
    outputs: dict[str, Path]
    dense: Path | None
    within: float | None
    refused: tuple[records.RefusedRuntime, ...]

    def request(self, size: int, name: str) -> BuildRequest:
        """For the engine of one size, with the runtime of a name."""
        inputs, outputs = self.specs[size]
        return BuildRequest(
            *(self.files[size], self.origin, self.target, runtime_by_name(name)),
            output=self.outputs[name] / self.sizes[size],
            dense=self.dense,
            inputs=inputs,
            outputs=outputs,
            within=self.within,
        )

    def build(self, folder: Path, name: str, options: BuildOptions) -> list[Manifest]:
        """Build the engines of all sizes in ``folder``."""
        built = []
        for number, size in enumerate(self.sizes):
            if size:
                options.progress(f"building for {size}")
            (folder / size).mkdir(exist_ok=True)
            built.append(build_verified(folder / size, self.request(number, name), options))
        return built

    def finish(
        self, folder: Path, built: Sequence[Manifest], chosen: RuntimeChoice | None
    ) -> Manifest:
        """Write the manifest of the engine in ``folder``, in which the engines of its sizes lie."""
        whole = built[0]
        if len(built) > 1:
            for each, size in zip(built, self.sizes, strict=True):
                write_manifest(folder / size, _add_refused(each, self.refused))
            inputs, outputs = _specs(self.origin)
            open_specs = (
                merged(inputs, [each for each, _ in self.specs]),
                merged(outputs, [each for _, each in self.specs]),
            )
            whole = joined(folder, self.sizes, built, open_specs)
        if len(built) > 1 or whole.choice is None:
            whole = replace(whole, choice=chosen)
        whole = _add_refused(whole, self.refused)
        write_manifest(folder, whole)
        return whole


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


def _add_refused(manifest: Manifest, refused: tuple[records.RefusedRuntime, ...]) -> Manifest:
    """Add the runtimes that could not even be tried to the record of the choice."""
    if not refused:
        return manifest
    made = manifest.choice or RuntimeChoice("measured", manifest.runtime, ())
    return replace(manifest, choice=replace(made, refused=(*made.refused, *refused)))


def _move(built: Path, output: Path) -> None:
    """Move the files of an engine from the folder where it was built to ``output``."""
    output.mkdir(exist_ok=True)
    for file in built.iterdir():
        file.replace(output / file.name)


def _specs(source: Path) -> Specs:
    from prunedeploy.graph import model as models
    from prunedeploy.reference.fitting import fitted

    program = models.load(source)
    return fitted(program), models.specs(program)[1]
