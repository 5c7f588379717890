"""One model in all the forms of its blocks, in one interleaved run; whoever is off is not timed."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunedeploy import passes
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Engine, Ratio
from prunedeploy.core.statistics import ratio
from prunedeploy.engines import building, opening
from prunedeploy.graph import model as models
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.verify import TOLERANCE, compare
from prunedeploy.runtimes.api import Session, Tuning
from prunedeploy.runtimes.sparse.payload import LIBRARY
from prunedeploy.runtimes.timing import interleave

DENSE, ROWS, BLOCKS, REPACKED = "dense", "rows", "blocks", "repacked"
WARMUP = 5


@dataclass(frozen=True)
class Time:
    """Microseconds a round; how many times faster than the first; how far from the exact output.

    The exact output is the dense model's in float64; the difference is relative to its range.
    """

    samples_us: tuple[float, ...]
    ratio: Ratio | None = None
    difference: float | None = None

    @property
    def ms(self) -> float:
        """The median."""
        return float(np.median(self.samples_us)) / 1e3


@dataclass(frozen=True)
class Settings:
    """How to run, whatever is run."""

    threads: int = 1
    rounds: int = 50
    tune: Tuning = "quick"
    within: float | None = None  # see building.build


def engines(model: Path, folder: Path, settings: Settings) -> dict[str, Engine]:
    """One of each kind, the dense one first; "repacked" only where a layer of the model pays."""
    built = {DENSE: building.build(model, "host", "ort", folder / "dense.engine")}
    built[BLOCKS] = _sparse(model, folder / "blocks.engine", settings)
    built[ROWS] = _sparse(model, folder / "rows.engine", settings, blocks=False)
    first, second = ((built[kind].path / LIBRARY).read_bytes() for kind in (ROWS, BLOCKS))
    if first == second:
        print("no layer takes blocks: both engines are the same, byte by byte", file=sys.stderr)
    repacked = repack(model, folder / "repacked.onnx")
    if repacked is not None:
        built[REPACKED] = building.build(repacked, "host", "ort", folder / "repacked.engine")
    return built


def _sparse(model: Path, path: Path, settings: Settings, blocks: bool = True) -> Engine:
    return building.build(
        model, "host", "sparse", path, threads=settings.threads, tune=settings.tune,
        progress=lambda text: print(text, file=sys.stderr), within=settings.within,
        blocks=blocks,
    )  # fmt: skip


def repack(model: Path, path: Path) -> Path | None:
    """The model after ``RepackBlocks``; None where no layer pays."""
    packed = models.load(model)
    feeds = random_feeds(models.specs(packed)[0], 1)
    (report,) = passes.run(packed, (passes.RepackBlocks(),), feeds)
    for note in report.result.notes:
        print(f"{note.where}: {note.status}, {note.reason}", file=sys.stderr)
    if not report.result.changed:
        return None
    models.save(packed, path)
    return path


def run(model: Path, batch: int, settings: Settings) -> dict[str, Time]:
    """All engines of a model in turn, each against the model in float64.

    Raises:
        UserError: one of them computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        return together(engines(model, Path(folder), settings), batch, settings, model)


def together(
    engines: dict[str, Engine], batch: int, settings: Settings, model: Path | None = None
) -> dict[str, Time]:
    """Engines in turn on one input; ``model``: what all of them compute, where that is the same.

    Raises:
        UserError: one of them computes something else.
    """
    with ExitStack() as stack:
        sessions = {
            key: stack.enter_context(opening.open(engine, settings.threads, shared=True))
            for key, engine in engines.items()
        }
        first, *_ = sessions.values()
        feeds = random_feeds(first.inputs, batch)
        differences = _differences(sessions, feeds, model) if model is not None else {}
        samples = interleave(list(sessions.values()), feeds, settings.rounds, WARMUP)
    return {
        key: Time(
            tuple(round(each / 1e3, 1) for each in taken),
            ratio(samples[0], taken) if number else None,
            differences.get(key),
        )
        for number, (key, taken) in enumerate(zip(sessions, samples, strict=True))
    }


def _differences(
    sessions: Mapping[str, Session], feeds: Mapping[str, Array], model: Path
) -> dict[str, float]:
    """How far each is from the exact output, rounding and all."""
    exact, differences = Evaluator(model, float64=True).run(feeds), {}
    for key, session in sessions.items():
        difference = compare(exact, session.run(feeds), TOLERANCE["float32"])
        if not difference.passed:
            raise UserError(f"{key} is off by {difference.max_rel:.1e}; not timed")
        differences[key] = difference.max_rel
    return differences
