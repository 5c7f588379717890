"""A sweep: all rows of a grid, each in a file; what is missing is computed."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.core.log import logged
from prunedeploy.core.progress import Counted
from prunedeploy.engines.request import Progress
from prunedeploy.sparsify import table
from prunedeploy.sparsify.carry_out import splits_of
from prunedeploy.sparsify.data import Splits
from prunedeploy.sparsify.recipe import DataSource, Recipe, row_key, training_key
from prunedeploy.sparsify.row import Deployed, Row, Trained
from prunedeploy.sparsify.training import trained
from prunedeploy.sweep import grid
from prunedeploy.sweep.local import Local
from prunedeploy.sweep.work import Engine, Failure, Result, Task

GRID, LOCK, REPORT = "sweep.toml", ".lock", "report.html"


@dataclass(frozen=True)
class SweepResult:
    """All rows that are there, what failed, and how many rows were computed this time."""

    folder: Path
    rows: tuple[Row, ...]
    failed: tuple[Failure, ...]
    computed: int
    report: Path


@dataclass(frozen=True)
class _Wanted:
    """One row to have: its recipe, its data, and the tasks that make it."""

    key: str
    recipe: Recipe
    train: Task

    @property
    def measure(self) -> Task:
        """The task behind the training, for rows that deploy."""
        task = self.train
        return Task("measure", self.key, self.recipe, task.data_sha256, task.folder, task.sample)


def sweep(
    path: str | Path,
    output: str | Path | None = None,
    *,
    jobs: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Compute the rows of a grid that are missing, and report all of them.

    Args:
        path: a recipe with lists in it, a TOML file (see ``prunedeploy.sweep.grid``).
        output: a folder for everything; ``<recipe>.sweep`` in the current folder when None. A sweep
            that was interrupted goes on in it.
        jobs: trainings at once on this machine.
        ray: the address of a Ray cluster to run on instead, or "auto" for the one that runs here.
        progress: called with one line of text for each step.

    Returns:
        The rows, in the order of the grid; ``rows/<key>.json`` has each, ``report.html`` all.

    Raises:
        UserError: a mistake in the recipe, the data or the folder; no cluster.

    Example:
        >>> from prunedeploy.sweep.sweep import sweep
        >>> sweep("grid.toml", jobs=2).failed  # doctest: +SKIP
        ()
    """
    if jobs < 1:
        raise UserError(f"jobs should be from 1, found {jobs}")
    progress = logged(progress)
    recipes = grid.read(path)
    table.library()  # which the report needs
    folder = Path(output if output is not None else f"{Path(path).stem}.sweep").absolute()
    with _taken(folder, Path(path)) as lock, contextlib.ExitStack() as stack:
        splits = _data(recipes, progress)
        wanted = _wanted(recipes, splits, folder)
        engine: Engine = Local(jobs)
        if ray is not None:
            from prunedeploy.sweep.ray import Ray, connected

            stack.enter_context(connected(ray, folder / "rows"))
            engine = Ray({each.sha256: each for each in splits.values()}, lock)
        missing = [each for each in wanted if not _file(folder, each.key).is_file()]
        run = _Run(missing, folder, progress)
        run(engine)
        rows = tuple(row for each in wanted if (row := _read(_file(folder, each.key))) is not None)
        report = _report(rows, folder, progress)
    computed = sum(_file(folder, each.key).is_file() for each in missing)
    return SweepResult(folder, rows, tuple(run.failed.values()), computed, report)


class _Run:
    """The computation of missing rows; ``failed`` has what gave nothing, by its key."""

    def __init__(self, missing: Sequence[_Wanted], folder: Path, progress: Progress) -> None:
        self._missing, self._folder, self._progress = missing, folder, progress
        self._trained: dict[str, Trained] = {}
        self._stage, self._count, self._total = "training", 0, len(missing)
        self.failed: dict[str, Failure] = {}

    def __call__(self, engine: Engine) -> None:
        """Train what is not trained, measure what deploys, write each row once it is whole."""
        tasks = {each.train.key: each.train for each in self._missing}
        for task in tasks.values():
            if (record := trained(task.folder, task.key)) is not None:
                self._finish_training(task, record)
        self._all(
            "training",
            [task for key, task in tasks.items() if key not in self._trained],
            lambda part: engine(part, self._finish_training),
        )
        self._all(
            "measuring",
            [x.measure for x in self._missing if x.recipe.deploy and x.train.key in self._trained],
            lambda part: engine(part, self._finish_measuring),
        )

    def _all(
        self, stage: str, tasks: Sequence[Task], run: Callable[[Sequence[Task]], None]
    ) -> None:
        self._stage, self._count, self._total = stage, 0, len(tasks)
        if tasks:
            self._progress(Counted(stage, 0, len(tasks)))
            run(tasks)

    def _finish_training(self, task: Task, result: Result) -> None:
        if isinstance(result, Trained):
            self._trained[task.key] = result
            for each in self._missing:
                if each.train.key == task.key and each.recipe.deploy is None:
                    _write(self._folder, each, result, None)
        self._count_in(task, result)

    def _finish_measuring(self, task: Task, result: Result) -> None:
        if isinstance(result, Deployed):
            wanted = next(each for each in self._missing if each.key == task.key)
            _write(self._folder, wanted, self._trained[wanted.train.key], result)
        self._count_in(task, result)

    def _count_in(self, task: Task, result: Result) -> None:
        if isinstance(result, Failure):
            self.failed[task.key] = result
        self._count += 1
        self._progress(Counted(self._stage, self._count, self._total))


def _data(recipes: Sequence[Recipe], progress: Progress) -> dict[DataSource, Splits]:
    """Each of the data once."""
    splits: dict[DataSource, Splits] = {}
    for source in dict.fromkeys(recipe.source for recipe in recipes):
        progress(f"reading {source.path}")
        splits[source] = splits_of(source)
    return splits


def _wanted(
    recipes: Sequence[Recipe], splits: dict[DataSource, Splits], folder: Path
) -> list[_Wanted]:
    rows = []
    for recipe in recipes:
        data = splits[recipe.source]
        key = training_key(recipe, data.sha256)
        task = Task("train", key, recipe, data.sha256, folder / "trained" / key, data.sample)
        rows.append(_Wanted(row_key(recipe, data.sha256), recipe, task))
    return rows


def _file(folder: Path, key: str) -> Path:
    return folder / "rows" / f"{key}.json"


def _read(file: Path) -> Row | None:
    """The row in a file, if it is there.

    Raises:
        UserError: it is damaged.
    """
    if not file.is_file():
        return None
    try:
        return from_json(Row, file.read_text())
    except UserError as error:
        raise UserError(f"{file} cannot be read ({error}): remove it, and it is computed") from None


def _write(folder: Path, wanted: _Wanted, done: Trained, deployed: Deployed | None) -> None:
    row = Row(
        *(wanted.key, wanted.recipe, wanted.train.data_sha256, prunedeploy.__version__),
        *(done.outcome, done.cost, deployed),
    )
    with atomic_path(_file(folder, wanted.key)) as file:
        file.write_text(to_json(row))


def _report(rows: Sequence[Row], folder: Path, progress: Progress) -> Path:
    from prunedeploy.sweep.report import page

    progress("writing the report")
    with atomic_path(folder / REPORT) as file:
        file.write_text(page(rows), encoding="utf-8")
    return folder / REPORT


@contextlib.contextmanager
def _taken(folder: Path, source: Path) -> Iterator[Path]:
    """The folder for this sweep alone while the block runs; yields the file that is locked.

    Raises:
        UserError: something else is there, or another sweep runs in it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder to write to")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).is_file():
        raise UserError(f"{folder} is a folder that no sweep wrote: name another one")
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another sweep runs in {folder}: wait for it") from None
        with atomic_path(folder / GRID) as file:
            file.write_bytes(source.read_bytes())
        yield folder / LOCK
