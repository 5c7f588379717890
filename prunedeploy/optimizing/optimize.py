"""The whole route in one call: shrink, build, measure, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy import targets
from prunedeploy.bundle.write import write_bundle
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.log import logged
from prunedeploy.core.measurements import BenchResult
from prunedeploy.core.records import Engine, ShrinkResult
from prunedeploy.engines.building import build
from prunedeploy.engines.request import Progress
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.graph.several_sizes import common, each_size, stated_names
from prunedeploy.measure import labelled
from prunedeploy.measure.bench import bench
from prunedeploy.prediction.predict import predict_all
from prunedeploy.prediction.record import Prediction
from prunedeploy.reports.headline import headline, unvarying
from prunedeploy.reports.report import report
from prunedeploy.runtimes.api import Tuning
from prunedeploy.shrinking.examples import call_and_output
from prunedeploy.shrinking.pipeline import carry_out
from prunedeploy.shrinking.request import CheckpointOptions, check_request, stem_of

if TYPE_CHECKING:
    from prunedeploy.graph.fixed_shapes import Shapes
    from prunedeploy.graph.several_sizes import AllSizes
    from prunedeploy.shrinking.example_inputs import ExampleInput
    from prunedeploy.shrinking.examples import ExampleInputs
    from prunedeploy.shrinking.request import Model

RESULT = "optimize.json"


@dataclass(frozen=True)
class OptimizeResult:
    """What ``optimize`` made, all of it in ``folder``.

    For this machine there are an ``engine`` and a ``measured`` speed; for another one a ``bundle``,
    which builds and measures engines there, and predictions of the fastest runtime, ``predicted``,
    for the dense and for the shrunk model. ``summary`` is the result in one sentence;
    a warning follows where outputs no longer depend on the input.
    """

    folder: Path
    summary: str
    shrunk: ShrinkResult
    engine: Engine | None
    measured: BenchResult | None
    bundle: Path | None
    predicted: tuple[Prediction, ...]
    report: Path
    seconds: float

    def _repr_html_(self) -> str:
        parts = [self.shrunk._repr_html_()]
        if self.measured is not None:
            parts.append(self.measured._repr_html_())
        return "".join([f"<p><b>{escape(self.summary)}</b></p>", *parts])


@dataclass(frozen=True)
class _Settings:
    """The arguments of ``optimize`` that concern engines."""

    target: str
    data: str | Path | None
    batch: int
    threads: int
    tune: Tuning
    rounds: int
    progress: Progress
    sizes: tuple[Shapes, ...]  # empty where there is but one


@dataclass(frozen=True)
class _Made:
    """An engine with its speed, or a bundle with predictions; the result in one sentence."""

    summary: str
    engine: Engine | None = None
    measured: BenchResult | None = None
    bundle: Path | None = None
    predicted: tuple[Prediction, ...] = ()


def optimize(
    model: Model,
    example_inputs: ExampleInputs | str | Path | None = None,
    output: str | Path | None = None,
    *,
    target: str = "host",
    data: str | Path | None = None,
    arch: str | None = None,
    input_shape: Sequence[int] | None = None,
    trust: bool = False,
    mask: str | Path | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    inputs: Sequence[ExampleInput] = (),
    shapes: AllSizes | None = None,
    batch: int = 1,
    threads: int = 0,
    tune: Tuning = "quick",
    rounds: int = 100,
    commands: Sequence[str] = (),
    progress: Progress | None = None,
) -> OptimizeResult:
    """Shrink a network, build the fastest engine of it, measure it beside the dense one, report.

    Args:
        model: a checkpoint, an ONNX file, or a model in memory, as ``shrink`` takes them.
        example_inputs: of a torch module, as ``shrink`` takes them; a path here is ``output``.
        output: a folder for everything; ``<model>.optimized`` in the current folder when None. It
            is new, empty, or one that ``optimize`` wrote.
        target: the machine to be fast on. For one that is not this one a device bundle is written,
            and the speed is predicted.
        data: an .npz file of labelled images, to count the accuracy and changed predictions on.
        arch, input_shape, trust, mask, weights, prefix, inputs: of a checkpoint, as ``shrink`` has
            them.
        shapes: sizes of inputs by their names, which all models and engines then have. A sequence
            of such makes an engine for several sizes; the models are then open where they differ.
        batch: inputs a run.
        threads: that the engine runs with; 0 for all cores.
        tune: how thoroughly the sparse runtime measures its schedules.
        rounds: timed runs of each engine.
        commands: the command lines that the report shows.
        progress: called with one line of text for each step.

    Returns:
        The engine with its measured speed, or the bundle with a predicted one, and all files.

    Raises:
        UserError: anything about the input, the target or the folder that the user can mend.

    Example:
        >>> import prunedeploy
        >>> done = prunedeploy.optimize("net.onnx", "fast", tune="none", rounds=5)
        >>> sorted(path.name for path in done.folder.iterdir())
        ['net.engine', 'net.json', 'net.onnx', 'optimize.json', 'report.html']
        >>> done.measured.candidates[0].difference.passed
        True
    """
    begin = time.perf_counter()
    call, path = call_and_output(example_inputs, output)
    sizes = each_size(shapes)
    several = sizes if len(sizes) > 1 else ()
    settings = _Settings(target, data, batch, threads, tune, rounds, logged(progress), several)
    _check_sizes(settings)
    if data is not None:  # a mistyped name is said at once, not when the engine is built
        labelled.read(Path(data))
    options = CheckpointOptions(
        *(arch, input_shape, trust, mask, weights, prefix), tuple(inputs), common(sizes)
    )
    machine, stem = targets.by_name(target), stem_of(model)
    with _folder(Path(path if path is not None else f"{stem}.optimized")) as folder:
        shrunk = carry_out(
            check_request(
                *(model, folder / f"{stem}.onnx", options, call),
                target=target,
                progress=settings.progress,
            )
        )
        here = targets.why_not_here(machine) is None
        made = (_build if here else _bundle)(shrunk, folder / stem, settings)
        summary = made.summary
        if warning := unvarying(shrunk.unvarying):
            summary = f"{summary}. WARNING: {warning}"
        page = folder / "report.html"
        parts = [shrunk, *([made.measured] if made.measured else made.predicted)]
        choice = made.engine.manifest.choice if made.engine else None
        report(parts, page, commands=commands, choice=choice)
        result = OptimizeResult(
            *(folder, summary, shrunk, made.engine, made.measured, made.bundle),
            *(made.predicted, page, time.perf_counter() - begin),
        )
        with atomic_path(folder / RESULT) as file:
            file.write_text(to_json(result))
        return result


def _check_sizes(settings: _Settings) -> None:
    """Refuse several sizes where something has but one: labelled images, a device bundle."""
    if not settings.sizes:
        return
    stated_names(settings.sizes)
    if settings.data is not None:
        raise UserError("labelled images have one size: leave out --data, or state one --shape")
    if targets.why_not_here(targets.by_name(settings.target)) is not None:
        raise UserError("a device bundle has one size: state one with --shape, make one for each")


def _build(shrunk: ShrinkResult, stem: Path, settings: _Settings) -> _Made:
    """The fastest engine for this machine, measured beside the dense network."""
    if settings.data is not None:
        inputs, _ = models.specs(preparation.from_file(shrunk.model).model)
        normalisation = (shrunk.mean, shrunk.std) if shrunk.mean else None
        labelled.load(Path(settings.data), inputs, normalisation)
    engine = build(
        shrunk.model,
        settings.target,
        output=stem.with_name(f"{stem.name}.engine"),
        baseline=shrunk.dense,
        progress=settings.progress,
        batch=settings.batch,
        threads=settings.threads,
        tune=settings.tune,
        shapes=settings.sizes,
    )
    measured = bench(
        engine.path,
        shrunk.dense,
        batch=settings.batch,
        threads=settings.threads,
        data=settings.data,
        rounds=settings.rounds,
        progress=settings.progress,
        profile=engine.manifest.runtime == "sparse",
    )
    return _Made(headline(measured), engine, measured)


def _bundle(shrunk: ShrinkResult, stem: Path, settings: _Settings) -> _Made:
    """A device bundle for another machine, and the speed that is predicted there."""
    bundle = write_bundle(
        shrunk.model,
        settings.target,
        stem.with_name(f"{stem.name}.bundle"),
        shrunk.dense,
        settings.progress,
        batch=settings.batch,
        threads=settings.threads,
    ).path
    predicted, summary = _predict(shrunk, settings.target, settings.batch, settings.threads)
    return _Made(summary, bundle=bundle, predicted=predicted)


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Make the folder, or take the one of an earlier run; nothing new stays where the block fails.

    Raises:
        UserError: there is something else.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name a folder to write to")
    existed = path.is_dir()
    before = list(path.iterdir()) if existed else []
    if before and not (path / RESULT).is_file():
        raise UserError(f"{path} is a folder that optimize did not write: name another one")
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except BaseException:
        if not before:
            shutil.rmtree(path, ignore_errors=True)
            if existed:
                path.mkdir(exist_ok=True)
        raise


def _predict(
    shrunk: ShrinkResult, target: str, batch: int, threads: int
) -> tuple[tuple[Prediction, ...], str]:
    """Predict the fastest runtime in float32 for the dense and for the shrunk model."""
    best: list[Prediction] = []
    for model in (shrunk.dense, shrunk.model):
        forecasts, _ = predict_all(model, target, batch=batch, threads=threads)
        exact = [each for each in forecasts if each.forecast.precision == "float32"]
        if not exact:
            return (), f"no prediction for {target}: measure there with the bundle"
        best.append(min(exact, key=lambda each: each.forecast.seconds))
    dense, small = best
    if not small.forecast.seconds:
        return (dense, small), f"nothing is left to compute on {target}"
    gain = dense.forecast.seconds / small.forecast.seconds
    summary = (
        f"predicted for {target}, not measured: {gain:.2f}x faster, "
        f"{1e3 * dense.forecast.seconds:.3g} ms in {dense.forecast.runtime} to "
        f"{1e3 * small.forecast.seconds:.3g} ms in {small.forecast.runtime}"
    )
    return (dense, small), summary
