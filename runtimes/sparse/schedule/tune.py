"""The tuner chooses every layer's schedule: it measures the cost model's best few here.

Layers of one shape, density and epilogue are one *case*; a case that was measured before is read
from the cache. ``trials`` measures.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, cache_folder
from prunedeploy.core.progress import Counted, Notice
from prunedeploy.runtimes.api import silent
from prunedeploy.runtimes.sparse.codegen.project import closure
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.shapes import density
from prunedeploy.runtimes.sparse.kernels.table import KERNELS, special
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule import cost, trials
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, inside
from prunedeploy.runtimes.sparse.toolchain.compile import Toolchain

Effort = Literal["none", "quick", "full"]
CANDIDATES: dict[str, int] = {"quick": 8, "full": 48}  # of a kernel, measured a case
ROUNDS: dict[str, int] = {"quick": 4, "full": 10}  # of each, of which the fastest counts
ROOT = Path(__file__).parents[1]
#: in ROOT: the code that times depend on
SOURCES = ("isa.py", "kernels/**/*.py", "schedule/**/*.py", "codegen/**/*.py")
VARIANTS = 2  # candidates of the same tile that "quick" measures, of other panels
MARGIN = 1.03  # by which blocks and programs have to be faster
# times what another needs by the model, which was off by less than 1.5 in 200 cases (AVX-512)
HOPELESS = 1.6
LARGE = 100_000  # non-zeros of a layer
LIBRARY = 512 << 20  # bytes of programs that one library of trials holds
STORED = 12  # bytes of a non-zero and what goes with it: 6 in rows, 15 in programs
COUNTS = attrgetter("tile_rows", "tile_width_x8", "channels", "groups", "rows")
FAR = 1 << 23  # the most that are read where kernels compete whose weights differ in size

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The fastest way of a case and the fastest without blocks, and the seconds of both."""

    schedule: Schedule
    plain: Schedule
    seconds: float
    without: float


@dataclass(frozen=True)
class Tuned:
    """The schedule of every step by name, and how many cases were measured, not remembered.

    ``seconds`` and ``without`` are those of all layers together: as they are computed, and if none
    of them had blocks.
    """

    schedules: dict[str, Schedule]
    measured: int
    seconds: float = 0.0
    without: float = 0.0

    def __str__(self) -> str:
        """The gain by blocks, in words; empty where there are none."""
        count = sum(KERNELS[schedule.kernel].finds_blocks for schedule in self.schedules.values())
        if not count:
            return ""
        return (
            f"blocks in {count} of {len(self.schedules)} layers: measured one by one, all take "
            f"{self.seconds * 1e3:.2f} ms, without blocks {self.without * 1e3:.2f}"
        )


def tune(
    plan: Plan,
    tools: Toolchain,
    threads: int,
    effort: Effort = "quick",
    cache: Path | None = None,
    progress: Progress | None = None,
    blocks: BlockCache | None = None,
    use_blocks: bool = True,
) -> Tuned:
    """The schedules of all layers of ``plan`` that are cut into tiles.

    Args:
        plan: of one batch.
        tools: the compiler, for this machine unless effort is "none".
        threads: how many threads the engine is expected to run with.
        effort: "none" takes the model's word; "quick" and "full" measure so many of its best.
        cache: folder of remembered measurements; the user's cache when None.
        progress: told what is being measured.
        blocks: the blocks of layers that are known.
        use_blocks: False takes what is the fastest without blocks, in the same measurement.
    """
    blocks = blocks or BlockCache()
    steps = [step for step in plan.steps if isinstance(step, Conv) and is_tiled(step)]
    isa = tools.isa
    if effort == "none":
        return Tuned({step.name: choose.schedule(step, isa, threads, blocks) for step in steps}, 0)
    progress = progress or silent
    store = _Store(cache or cache_folder(), isa, threads, blocks)
    cases: dict[str, list[Conv]] = {}
    for step in steps:
        cases.setdefault(store.key(step, effort), []).append(step)
    choices = {key: store.get(group[0], key) for key, group in cases.items()}
    known = {key: choice for key, choice in choices.items() if choice is not None}
    unknown = {key: group[0] for key, group in cases.items() if key not in known}
    if store.damage:
        progress(Notice(f"{store.damage}: measuring again"))
    if unknown:
        measured = _measure(unknown, _far(steps), tools, threads, effort, blocks, progress)
        store.update(measured)
        known |= measured
    chosen = {step.name: known[key] for key, group in cases.items() for step in group}
    tuned = Tuned(
        {name: choice.schedule if use_blocks else choice.plain for name, choice in chosen.items()},
        len(unknown),
        sum(choice.seconds if use_blocks else choice.without for choice in chosen.values()),
        sum(choice.without for choice in chosen.values()),
    )
    if str(tuned):
        progress(str(tuned))
    return tuned


def is_tiled(step: Conv) -> bool:
    """Whether ``step`` is cut into tiles, and is no special case."""
    return step.y.size > 0 and special(step) is None


# -- what was measured before ----------------------------------------------------------------------


class _Store:
    """Schedules by case, in one JSON file a machine, instruction set and set of kernels."""

    def __init__(
        self, folder: Path, isa: str, threads: int, blocks: BlockCache | None = None
    ) -> None:
        self._isa, self._threads = isa, threads
        self._block_cache = blocks or BlockCache()
        self._path = folder / f"schedules-{_machine(isa)}.json"
        self._known: dict[str, Any] = {}
        self.damage = ""  # why what is stored cannot be taken
        try:
            self._known = dict(json.loads(self._path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            pass  # none yet
        except (OSError, ValueError, TypeError, RecursionError):
            self.damage = f"{self._path} is damaged"

    def key(self, step: Conv, effort: Effort) -> str:
        """All that speed depends on, but for the values of the weights."""
        share = round(density(step), 2 if density(step) > 0.1 else 3)
        parts = (
            step.x.shape, step.y.shape, step.weight.shape, step.strides, step.pads,
            step.dilations, step.groups, step.residual is not None, step.activation.op, share,
            self._blocks(step), self._threads, effort, inside(step),
        )  # fmt: skip
        return repr(parts).replace(" ", "")

    def _blocks(self, step: Conv) -> tuple[float, ...]:
        """Share of the non-zeros in blocks, and of the cells of these that are not zero."""
        blocks = self._block_cache
        price = choose.fill(step, self._isa, blocks)
        if price >= 1:
            return 0.0, 0.0
        blocked = blocks.find(step, price)
        return round(blocks.share(step, price), 2), round(blocked.inside / max(blocked.cells, 1), 1)

    def get(self, step: Conv, key: str) -> Choice | None:
        """The measurement of ``step``, whose key is ``key``; None where there is none.

        What is stored is data out of a file: only schedules that would be measured today count.
        """
        if key not in self._known:
            return None
        possible = choose.candidates(step, self._isa, self._threads, self._block_cache)
        known = {schedule: schedule for schedule in possible}
        try:
            stored = dict(self._known[key])
            schedule, plain = (known[Schedule(**stored.pop(x))] for x in ("schedule", "plain"))
            choice = Choice(schedule, plain, **stored)
            if all(type(x) is float and 0 < x < math.inf for x in (choice.seconds, choice.without)):
                return choice
        except (TypeError, ValueError, KeyError):
            pass
        self.damage = f"{self._path} has a schedule that cannot be"
        return None

    def update(self, measured: Mapping[str, Choice]) -> None:
        """Remember what was measured."""
        self._known |= {key: asdict(choice) for key, choice in measured.items()}
        with suppress(OSError, UserError):  # a cache that cannot be written is none
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as file:
                file.write_text(json.dumps(self._known, indent=0, sort_keys=True))


def _machine(isa: str) -> str:
    """This processor, and the kernels as they are: other kernels have other best schedules."""
    kernels = closure(trials.HEADERS)
    digest = hashlib.sha256(repr(sorted(kernels.items())).encode())
    for file in sorted(file for pattern in SOURCES for file in ROOT.glob(pattern)):
        digest.update(file.read_bytes())
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith(("model name", "cpu family", "model\t", "CPU part")):
            digest.update(line.encode())
            if line.startswith("model name"):
                break
    return f"{isa}-{digest.hexdigest()[:16]}"


# -- measuring -------------------------------------------------------------------------------------


def _diverse(schedules: Sequence[Schedule], effort: Effort, large: bool = False) -> list[Schedule]:
    """The best of every kernel, for the model knows too little to prefer one a little.

    Of a ``large`` layer fewer programs, which take the longest to write.
    """
    kernels = dict.fromkeys(schedule.kernel for schedule in schedules)
    return [
        schedule
        for kernel in kernels
        for schedule in _best(
            [schedule for schedule in schedules if schedule.kernel == kernel],
            effort,
            CANDIDATES[effort] // (2 if large and KERNELS[kernel].generated else 1),
        )
    ]


def _best(schedules: Iterable[Schedule], effort: Effort, limit: int) -> list[Schedule]:
    best: list[Schedule] = []
    for schedule in schedules:
        tile = _tile(schedule)
        same = sum(tile == _tile(other) for other in best)
        if effort == "full" or same < VARIANTS:
            best.append(schedule)
        if len(best) == limit:
            break
    return best


def _tile(schedule: Schedule) -> Schedule:
    """``schedule`` without its panel."""
    return replace(schedule, channels=0)


def _measure(
    cases: Mapping[str, Conv],
    far: int,
    tools: Toolchain,
    threads: int,
    effort: Effort,
    blocks: BlockCache,
    progress: Progress,
) -> dict[str, Choice]:
    """The fastest schedule of each case; ``far`` floats are read between two runs (``_far``)."""
    choices: dict[str, Choice] = {}
    stage = f"measuring {len(cases)} kinds of layers"
    for some in _together(cases, effort):
        library = trials.Trials(tools.isa, threads, blocks)
        for key, case in some.items():
            schedules = _tried(case, tools.isa, threads, effort, blocks)
            # kernels that store unlike amounts of weights: these are as far as in the network
            unlike = len({schedule.kernel for schedule in schedules}) > 1
            library.add(key, case, schedules, far if unlike else trials.FLUSH)
        known = len(choices)
        progress(Counted(stage, known, len(cases)))

        def tell(done: int, known: int = known) -> None:
            progress(Counted(stage, known + done, len(cases)))

        seconds = trials.seconds(library, tools, ROUNDS[effort], tell)
        measured: dict[str, list[tuple[float, Schedule]]] = {}
        for trial, taken in zip(library.all, seconds, strict=True):
            measured.setdefault(trial.key, []).append((taken, trial.schedule))
        choices |= {key: _choice(times) for key, times in measured.items()}
    return choices


def _tried(
    step: Conv, isa: str, threads: int, effort: Effort, blocks: BlockCache
) -> list[Schedule]:
    """The candidates that are measured of a layer."""
    schedules = choose.ranked(step, isa, threads, blocks)
    if effort == "quick":
        schedules = _hopeful(step, schedules, isa, threads, blocks)
    return _diverse(schedules, effort, bool(np.count_nonzero(step.weight) > LARGE))


def _hopeful(
    step: Conv, schedules: Sequence[Schedule], isa: str, threads: int, blocks: BlockCache
) -> list[Schedule]:
    """Schedules of kernels whose best is not hopeless by the model; ``schedules`` are ranked.

    One without blocks is always among them, so that what blocks bring is known.
    """
    best = {schedule.kernel: schedule for schedule in reversed(schedules)}
    needed = {
        kernel: cost.cycles(step, schedule, isa, threads, blocks)
        for kernel, schedule in best.items()
    }
    limit = HOPELESS * min(needed.values())
    plain = next(
        (schedule.kernel for schedule in schedules if not KERNELS[schedule.kernel].finds_blocks),
        None,
    )
    return [
        schedule
        for schedule in schedules
        if needed[schedule.kernel] <= limit or schedule.kernel == plain
    ]


def _together(cases: Mapping[str, Conv], effort: Effort) -> Iterator[dict[str, Conv]]:
    """Cases that go into one library, so that instances are shared: as many as fit well."""
    some: dict[str, Conv] = {}
    size = 0
    for key, case in cases.items():
        programs = 4 * _stored(case) * CANDIDATES[effort]
        if some and size + programs > LIBRARY:
            yield some
            some, size = {}, 0
        some[key] = case
        size += programs
    if some:
        yield some


def _far(steps: Iterable[Conv]) -> int:
    """Floats between two runs of a layer: twice the network's, for others use the caches too."""
    return min(max(2 * sum(map(_stored, steps)), trials.FLUSH), FAR)


def _stored(step: Conv) -> int:
    """Floats of a layer's non-zeros, and of offsets or instructions."""
    return int(np.count_nonzero(step.weight)) * STORED // 4


def _choice(times: Sequence[tuple[float, Schedule]]) -> Choice:
    """The fastest; what is larger, only where it is faster by more than measurements are off by."""
    plain = [pair for pair in times if not KERNELS[pair[1].kernel].finds_blocks] or list(times)
    without, other = _fastest(plain)
    seconds, schedule = min(times, key=lambda pair: pair[0])
    if not KERNELS[schedule.kernel].finds_blocks or seconds * MARGIN > without:
        seconds, schedule = without, other
    return Choice(schedule, other, seconds, without)


def _fastest(times: Sequence[tuple[float, Schedule]]) -> tuple[float, Schedule]:
    """The fastest; generated code only where it is faster by the margin."""
    best = min(times, key=lambda pair: pair[0])
    others = [pair for pair in times if not KERNELS[pair[1].kernel].generated]
    if not KERNELS[best[1].kernel].generated or not others:
        return best
    other = min(others, key=lambda pair: pair[0])
    return best if best[0] * MARGIN <= other[0] else other
