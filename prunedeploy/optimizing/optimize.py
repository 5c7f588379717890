"""The whole route in one call: shrink, build, measure, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prunedeploy import checkpoint, targets
from prunedeploy.bundle.write import write_bundle
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import BenchResult, Engine, ShrinkResult
from prunedeploy.engines.building import build
from prunedeploy.engines.request import Progress
from prunedeploy.graph.fixed_shapes import Shapes
from prunedeploy.measure.bench import bench
from prunedeploy.prediction.predict import predict_all
from prunedeploy.prediction.record import Prediction
from prunedeploy.reports.headline import headline, unvarying
from prunedeploy.reports.report import report
from prunedeploy.runtimes.api import Tuning, silent
from prunedeploy.shrinking.example_inputs import ExampleInput
from prunedeploy.shrinking.pipeline import shrink

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


def optimize(
    model: str | Path,
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
    shapes: Shapes | None = None,
    batch: int = 1,
    threads: int = 0,
    tune: Tuning = "quick",
    rounds: int = 100,
    commands: Sequence[str] = (),
    progress: Progress | None = None,
) -> OptimizeResult:
    """Shrink a network, build the fastest engine of it, measure it beside the dense one, report.

    Args:
        model: a checkpoint or an ONNX file.
        output: a folder for everything; ``<model>.optimized`` in the current folder when None. It
            is new, empty, or one that ``optimize`` wrote.
        target: the machine to be fast on. For one that is not this one a device bundle is written,
            and the speed is predicted.
        data: an .npz file of labelled images, to count the accuracy and changed predictions on.
        arch, input_shape, trust, mask, weights, prefix, inputs: of a checkpoint, as ``shrink`` has
            them.
        shapes: sizes of inputs by their names, which all models and engines then have.
        batch: inputs a run.
        threads: that the engine runs with; 0 for all cores.
        tune: how thoroughly the sparse runtime measures its schedules.
        rounds: timed runs of each engine.
        commands: the command lines that the report shows.
        progress: called with one line of text for each step.

    Raises:
        UserError: anything about the input, the target or the folder that the user can mend.

    Example:
        ``print(prunedeploy.optimize("resnet18.pt").summary)``
    """
    begin = time.perf_counter()
    progress = progress or silent
    stem = checkpoint.name_of(model)
    machine = targets.by_name(target)
    with _folder(Path(output) if output is not None else Path(f"{stem}.optimized")) as folder:
        shrunk = shrink(
            model,
            folder / f"{stem}.onnx",
            arch=arch,
            input_shape=input_shape,
            trust=trust,
            mask=mask,
            weights=weights,
            prefix=prefix,
            inputs=inputs,
            shapes=shapes,
            target=target,
            progress=progress,
        )
        engine, measured, bundle = None, None, None
        predicted: tuple[Prediction, ...] = ()
        if targets.why_not_here(machine) is None:
            engine = build(
                *(shrunk.model, target, "auto", folder / f"{stem}.engine", shrunk.dense, progress),
                batch=batch,
                threads=threads,
                tune=tune,
            )
            measured = bench(
                engine.path,
                shrunk.dense,
                batch=batch,
                threads=threads,
                data=data,
                rounds=rounds,
                progress=progress,
                profile=engine.manifest.runtime == "sparse",
            )
            summary = headline(measured)
        else:
            bundle = write_bundle(
                *(shrunk.model, target, folder / f"{stem}.bundle", shrunk.dense, progress),
                batch=batch,
                threads=threads,
            ).path
            predicted, summary = _predict(shrunk, target, batch, threads)
        if warning := unvarying(shrunk.unvarying):
            summary = f"{summary}. WARNING: {warning}"
        page = folder / "report.html"
        parts = [shrunk, *([measured] if measured else predicted)]
        report(parts, page, commands=commands)
        result = OptimizeResult(
            *(folder, summary, shrunk, engine, measured, bundle, predicted, page),
            seconds=time.perf_counter() - begin,
        )
        with atomic_path(folder / RESULT) as file:
            file.write_text(to_json(result))
        return result


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
