"""Choose every layer's tiling by measuring the model's best few on this machine.

Layers of one shape, density and epilogue are one *case*; a case that was measured before is read
from the cache. What is measured is one engine-like run: the caches hold something else before it,
and the slowest thread's share counts.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from prunedeploy.errors import UserError
from prunedeploy.files import atomic_path
from prunedeploy.runtimes.sparse import blocks, choose, cost, streams, tiling, unrolled
from prunedeploy.runtimes.sparse.compile import Toolchain, build_library
from prunedeploy.runtimes.sparse.emit import conv, depthwise, narrow, tiled
from prunedeploy.runtimes.sparse.emit._context import Code, Constants, Context
from prunedeploy.runtimes.sparse.emit.project import CODE, Project, blob, closure
from prunedeploy.runtimes.sparse.plan import GUARD, Buffer, Conv, Plan
from prunedeploy.runtimes.sparse.tiling import Packing, Tiling, inside
from prunedeploy.types import Array

Effort = Literal["none", "quick", "full"]
CANDIDATES: dict[str, int] = {"quick": 8, "full": 48}  # of a kernel, measured a case
ROUNDS: dict[str, int] = {"quick": 4, "full": 10}  # of which the fastest counts
AGAIN = 3  # times as many for those that may be the fastest
CLOSE = 1.15  # which are no slower than this, after the first rounds
MODULES = (blocks, choose, cost, streams, tiled, tiling, unrolled)  # that cut layers
KERNELS = ("rows.h", "unrolled.h", "block.h", "mixed.h", "winograd.h", "winograd2d.h")
VARIANTS = 2  # candidates of the same tile that "quick" measures, of other panels
BLOCKS = True  # False: as if there were none, for measurements of what they bring
MARGIN = 1.03  # by which blocks and programs have to be faster
LARGE = 100_000  # non-zeros of a layer
LIBRARY = 512 << 20  # bytes of programs that one library of trials holds
STORED = 12  # bytes of a non-zero and what goes with it: 6 in rows, 15 in programs
FLUSH = 1 << 20  # floats read between two runs: more than the caches of one core hold
FAR = 1 << 23  # the most that are read where kernels compete whose weights differ in size

SETTLE = """\
#define _GNU_SOURCE
#include "pages.h"
extern __attribute__((visibility("hidden"))) const unsigned char pd_code[];
__attribute__((visibility("default"))) void settle(void) { pd_settle(pd_code, SIZE); }
"""  # as an engine does before it runs
VISIBLE = '__attribute__((visibility("default")))'

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The fastest way of a case and the fastest without blocks, and the seconds of both."""

    way: Tiling
    plain: Tiling
    seconds: float
    without: float


@dataclass(frozen=True)
class Tuned:
    """The tiling of every step by name, and how many cases were measured, not remembered.

    ``seconds`` and ``without`` are those of all layers together: as they are computed, and if none
    of them had blocks.
    """

    tilings: dict[str, Tiling]
    measured: int
    seconds: float = 0.0
    without: float = 0.0

    def __str__(self) -> str:
        """What blocks brought, in words; empty where there are none."""
        count = sum(way.kernel == "mixed" for way in self.tilings.values())
        if not count:
            return ""
        return (
            f"blocks in {count} of {len(self.tilings)} layers: measured one by one, all take "
            f"{self.seconds * 1e3:.2f} ms, without blocks {self.without * 1e3:.2f}"
        )


def tune(
    plan: Plan,
    tools: Toolchain,
    threads: int,
    effort: Effort = "quick",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Tilings for all layers of ``plan`` that are cut into tiles.

    Args:
        plan: of one batch.
        tools: the compiler, for this machine unless effort is "none".
        threads: how many threads the engine is expected to run with.
        effort: "none" takes the model's word; "quick" and "full" measure so many of its best.
        cache: folder of remembered measurements; the user's cache when None.
        progress: told what is being measured.
    """
    steps = [step for step in plan.steps if isinstance(step, Conv) and is_tiled(step)]
    isa = tools.isa
    if effort == "none":
        return Tuned({step.name: choose.tiling(step, isa, threads) for step in steps}, 0)
    store = _Store(cache or _cache_folder(), isa, threads)
    cases: dict[str, list[Conv]] = {}
    for step in steps:
        cases.setdefault(store.key(step, effort), []).append(step)
    unknown = {key: group[0] for key, group in cases.items() if store.get(key) is None}
    if unknown:
        (progress or (lambda _: None))(f"measuring {len(unknown)} kinds of layers")
        store.update(_measure(unknown, _far(steps), tools, threads, effort))
    found = [(step.name, store.get(key)) for key, group in cases.items() for step in group]
    known = {name: choice for name, choice in found if choice is not None}
    tuned = Tuned(
        {name: choice.way if BLOCKS else choice.plain for name, choice in known.items()},
        len(unknown),
        sum(choice.seconds if BLOCKS else choice.without for choice in known.values()),
        sum(choice.without for choice in known.values()),
    )
    if progress is not None and str(tuned):
        progress(str(tuned))
    return tuned


def is_tiled(step: Conv) -> bool:
    """Whether ``step`` is cut into tiles, and is no special case."""
    return step.y.size > 0 and not narrow.suits(step) and not depthwise.suits(step)


# -- what was measured before ----------------------------------------------------------------------


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prunedeploy"


class _Store:
    """Tilings by case, in one JSON file a machine, instruction set and set of kernels."""

    def __init__(self, folder: Path, isa: str, threads: int) -> None:
        self._isa, self._threads = isa, threads
        self._path = folder / f"tilings-{_machine(isa)}.json"
        self._known: dict[str, Any] = {}
        with suppress(OSError, ValueError):  # none yet, or not ours any more
            found = json.loads(self._path.read_text())
            self._known = found if isinstance(found, dict) else {}

    def key(self, step: Conv, effort: Effort) -> str:
        """All that speed depends on, but for the values of the weights."""
        share = round(choose.density(step), 2 if choose.density(step) > 0.1 else 3)
        parts = (
            step.x.shape, step.y.shape, step.weight.shape, step.strides, step.pads,
            step.dilations, step.groups, step.residual is not None, step.activation.op, share,
            self._blocks(step), self._threads, effort, inside(step),
        )  # fmt: skip
        return repr(parts).replace(" ", "")

    def _blocks(self, step: Conv) -> tuple[float, ...]:
        """Share of the non-zeros in blocks, and of the cells of these that are not zero."""
        price = choose.fill(step, self._isa)
        found = blocks.blocks_of(step, price)
        return round(blocks.share(step, price), 2), round(found.inside / max(found.cells, 1), 1)

    def get(self, key: str) -> Choice | None:
        """What was measured for ``key``; None where nothing was, or where it makes no sense."""
        try:
            known = dict(self._known[key])
            ways: Any = {name: Tiling(**known.pop(name)) for name in ("way", "plain")}
            choice = Choice(**ways, **known)
        except (KeyError, TypeError, ValueError):
            return None
        times = (choice.seconds, choice.without)
        sound = all(_is_sound(way, self._isa) for way in ways.values())
        sound = sound and all(type(seconds) is float for seconds in times)
        return choice if sound else None

    def update(self, found: Mapping[str, Choice]) -> None:
        """Remember what was measured."""
        self._known |= {key: asdict(choice) for key, choice in found.items()}
        with suppress(OSError, UserError):  # a cache that cannot be written is none
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as file:
                file.write_text(json.dumps(self._known, indent=0, sort_keys=True))


def _is_program(way: Tiling, isa: str) -> bool:
    packings = ("plain", "none", "raster")
    return isa == "avx512" and way.rows <= unrolled.MOST_ROWS and way.packing in packings


def _is_sound(way: Tiling, isa: str) -> bool:
    """Whether fields are of their type and range: they come out of a file."""
    counts = (way.pieces, way.eighths, way.channels, way.groups, way.rows)
    return (
        way.kernel in conv.KERNELS
        and all(type(count) is int and count > 0 for count in counts)
        and (way.kernel != "unrolled" or _is_program(way, isa))
        and way.packing in get_args(Packing)
        and way.comb in (0, *choose.COMBS)
        and type(way.fill) is float
        and 0 < way.fill <= 1
    )


def _machine(isa: str) -> str:
    """This processor, and the kernels as they are: other kernels have other best tilings."""
    kernels = closure(KERNELS)
    digest = hashlib.sha256(repr(sorted(kernels.items())).encode())
    for module in MODULES:
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith(("model name", "cpu family", "model\t", "CPU part")):
            digest.update(line.encode())
            if line.startswith("model name"):
                break
    return f"{isa}-{digest.hexdigest()[:16]}"


# -- measuring -------------------------------------------------------------------------------------


def _diverse(ways: Sequence[Tiling], effort: Effort, large: bool = False) -> list[Tiling]:
    """The best of every kernel, for the model knows too little to prefer one to another.

    Of a ``large`` layer fewer programs, which take the longest to write.
    """
    kernels = _unique((way.kernel,) for way in ways)
    return [
        way
        for kernel in kernels
        for way in _best(
            [way for way in ways if way.kernel == kernel],
            effort,
            CANDIDATES[effort] // (2 if large and kernel == "unrolled" else 1),
        )
    ]


def _best(ways: Iterable[Tiling], effort: Effort, most: int) -> list[Tiling]:
    found: list[Tiling] = []
    for way in ways:
        tile = _tile(way)
        same = sum(tile == _tile(other) for other in found)
        if effort == "full" or same < VARIANTS:
            found.append(way)
        if len(found) == most:
            break
    return found


def _tile(way: Tiling) -> Tiling:
    """``way`` without its panel."""
    return replace(way, channels=0)


def _measure(
    cases: Mapping[str, Conv], far: int, tools: Toolchain, threads: int, effort: Effort
) -> dict[str, Choice]:
    """The fastest tiling of each case; ``far`` floats are read between two runs (``_far``)."""
    found: dict[str, Choice] = {}
    for some in _together(cases, effort):
        trials = _Trials(tools.isa, threads)
        for key, case in some.items():
            trials.add(key, case, far, effort)
        seconds = _seconds(trials, tools, ROUNDS[effort])
        measured: dict[str, list[tuple[float, Tiling]]] = {}
        for trial, taken in zip(trials.all, seconds, strict=True):
            measured.setdefault(trial.key, []).append((taken, trial.way))
        found |= {key: _choice(times) for key, times in measured.items()}
    return found


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


@dataclass(frozen=True)
class _Trial:
    """A way to compute a case, as code."""

    key: str
    way: Tiling
    code: Code
    sizes: _Sizes


class _Trials:
    """Trials of one library, and what they share."""

    def __init__(self, isa: str, threads: int) -> None:
        self.all: list[_Trial] = []
        self.constants, self.instructions = Constants(), Constants()
        self.isa, self.threads = isa, threads

    def add(self, key: str, case: Conv, far: int, effort: Effort) -> None:
        """Those of a case."""
        step, plan = _alone(case)
        context = Context(plan, self.constants, self.isa, self.threads, code=self.instructions)
        ranked = choose.ranked(step, self.isa, self.threads)
        ways = _diverse(ranked, effort, bool(np.count_nonzero(step.weight) > LARGE))
        # kernels that store unlike amounts of weights: these are as far away as in the network
        flush = far if len({way.kernel for way in ways}) > 1 else FLUSH
        sizes = _Sizes(plan.arena, flush, _written(step, plan))
        self.all += [_Trial(key, way, conv.cut(step, context, way), sizes) for way in ways]

    def build(self, library: Path, tools: Toolchain) -> None:
        """All of them into a shared library."""
        code = self.instructions.data()
        files = _sources([trial.code for trial in self.all])
        files |= closure(["pd.h", *KERNELS, "functions.h", "pages.h"])
        files["code.c"] = blob("pd_code", CODE, code, ".text")
        files["settle.c"] = SETTLE.replace("SIZE", str(len(code)))
        build_library(Project(files, b"", self.isa, (), {}, code), library, tools)


def _seconds(trials: _Trials, tools: Toolchain, rounds: int) -> list[float]:
    """Of every trial; those that are close to the best of their case are measured for longer."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "trials.so"
        trials.build(library, tools)
        runner = _Runner(library, trials)
        seconds = [runner.seconds(index, rounds) for index in range(len(trials.all))]
        best: dict[str, float] = {}
        for trial, taken in zip(trials.all, seconds, strict=True):
            best[trial.key] = min(taken, best.get(trial.key, taken))
        for index, trial in enumerate(trials.all):
            if seconds[index] <= CLOSE * best[trial.key]:
                again = runner.seconds(index, AGAIN * rounds)
                seconds[index] = min(seconds[index], again)
        runner.close()
    return seconds


@dataclass(frozen=True)
class _Sizes:
    """Floats of a trial's arena, of what is read before each of its runs, and those parts of the
    arena that the layers before have just written."""

    arena: int
    flush: int
    written: tuple[slice, ...] = ()


def _written(step: Conv, plan: Plan) -> tuple[slice, ...]:
    """Where the operands of ``step`` lie."""
    views = [step.x] if step.residual is None else [step.x, step.residual]
    begins = [plan.offsets[view.buffer] for view in views]
    sizes = [plan.buffers[view.buffer].size for view in views]
    return tuple(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True))


def _far(steps: Iterable[Conv]) -> int:
    """Floats between two runs of a layer: twice the network's, for others use the caches too."""
    return min(max(2 * sum(map(_stored, steps)), FLUSH), FAR)


def _stored(step: Conv) -> int:
    """Floats of a layer's non-zeros, and of offsets or instructions."""
    return int(np.count_nonzero(step.weight)) * STORED // 4


def _choice(times: Sequence[tuple[float, Tiling]]) -> Choice:
    """The fastest; what is larger, only where it is faster by more than measurements are off by."""
    plain = [pair for pair in times if pair[1].kernel != "mixed"] or list(times)
    without, other = _least(plain, "unrolled")
    seconds, way = min(times, key=lambda pair: pair[0])
    if way.kernel != "mixed" or seconds * MARGIN > without:
        seconds, way = without, other
    return Choice(way, other, seconds, without)


def _least(times: Sequence[tuple[float, Tiling]], kernel: str) -> tuple[float, Tiling]:
    """The fastest; of ``kernel``, if by the margin."""
    best = min(times, key=lambda pair: pair[0])
    others = [pair for pair in times if pair[1].kernel != kernel]
    if best[1].kernel != kernel or not others:
        return best
    other = min(others, key=lambda pair: pair[0])
    return best if best[0] * MARGIN <= other[0] else other


def _alone(step: Conv) -> tuple[Conv, Plan]:
    """``step`` with memory of its own."""
    views = [step.x, step.y] + ([step.residual] if step.residual is not None else [])
    sizes = [view.shape[1] * view.strides[1] for view in views]
    offsets, end = [], GUARD
    for size in sizes:
        offsets.append(end)
        end += -(-(size + GUARD) // 16) * 16
    views = [replace(view, buffer=index, offset=0) for index, view in enumerate(views)]
    moved = replace(step, x=views[0], y=views[1], residual=views[2] if views[2:] else None)
    buffers = tuple(Buffer("arena", size) for size in sizes)
    return moved, Plan(step.x.shape[0], buffers, (moved,), (), (), tuple(offsets), end)


def _sources(codes: Sequence[Code]) -> dict[str, str]:
    """Two files of about the same number of trials, for two compilers at once."""
    files = {}
    for part in range(2):
        chosen = list(range(part, len(codes), 2))
        lines = ['#include "pd.h"']
        lines += [f'#include "{name}"' for name in _unique(codes[i].headers for i in chosen)]
        lines += _unique(codes[i].top for i in chosen)
        for index in chosen:
            lines.append(
                f"{VISIBLE} void trial{index}(const pd_work *w) {{\n{codes[index].body}\n}}"
            )
        files[f"trials{part}.c"] = "\n".join(lines)
    return files


def _unique(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(text for group in groups for text in group))


class _Work(ctypes.Structure):
    _fields_ = [
        ("arena", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("thread", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("error", ctypes.c_void_p),
    ]


class _Runner:
    """What runs trials: a library of them, and memory."""

    def __init__(self, library: Path, trials: _Trials) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.settle()
        self._threads = trials.threads
        self._sizes = [trial.sizes for trial in trials.all]
        scratch = max(trial.code.scratch for trial in trials.all)
        self._weights = _aligned(np.frombuffer(trials.constants.data(), np.uint8))
        self._arena = _aligned(np.ones(max(x.arena for x in self._sizes) + GUARD, np.float32))
        self._scratch = _aligned(np.zeros(scratch + GUARD, np.float32))
        self._other = np.ones(max(x.flush for x in self._sizes), np.float32)

    def close(self) -> None:
        """Give its memory back, of which programs are most."""
        _ctypes.dlclose(self._library._handle)

    def seconds(self, index: int, rounds: int) -> float:
        """Of one trial: the fastest round, the slowest thread's share."""
        function, sizes = getattr(self._library, f"trial{index}"), self._sizes[index]
        worst = 0.0
        for thread in range(self._threads):
            work = _Work(
                self._arena.ctypes.data, 0, 0, self._weights.ctypes.data,
                self._scratch.ctypes.data, thread, self._threads,
            )  # fmt: skip
            best = float("inf")
            for _ in range(rounds):
                self._other[: sizes.flush].sum()
                for part in sizes.written:
                    self._arena[part].sum()
                start = time.thread_time()  # other programs' turns do not count
                function(ctypes.byref(work))
                best = min(best, time.thread_time() - start)
            worst = max(worst, best)
        return worst


def _aligned(array: Array) -> Array:
    """A copy that starts on a page."""
    raw = np.empty(array.nbytes + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    place = raw[start : start + array.nbytes].view(array.dtype)
    place[...] = array
    return place
