"""Trials: ways to compute layers as code in one library, and the seconds that each takes.

What is measured is one engine-like run: a layer's operands have just been written, its weights and
its result are as far away as the layers around it push them, and the slowest thread's share counts.
"""

from __future__ import annotations

import _ctypes
import ctypes
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen import conv
from prunedeploy.runtimes.sparse.codegen._context import Code, Constants, Context
from prunedeploy.runtimes.sparse.codegen.project import CODE, Project, blob, closure
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.plan.views import GUARD, Buffer
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule
from prunedeploy.runtimes.sparse.toolchain.compile import Toolchain, build_library

AGAIN = 3  # times as many rounds for those that may be the fastest
CLOSE = 1.15  # which are no slower than this, after the first rounds
HEADERS = tuple(kernel.header for kernel in KERNELS.values())
RUNS = 2  # of a trial in a turn: only the first finds what other trials left in the caches
FLUSH = 1 << 20  # floats read between two runs: more than the caches of one core hold

SETTLE = """\
#define _GNU_SOURCE
#include "pages.h"
extern __attribute__((visibility("hidden"))) const unsigned char pd_code[];
__attribute__((visibility("default"))) void settle(void) { pd_settle(pd_code, SIZE); }
"""  # as an engine does before it runs
VISIBLE = '__attribute__((visibility("default")))'


@dataclass(frozen=True)
class Sizes:
    """Floats of a trial's arena, of what is read before each of its runs, and those parts of the
    arena that the layers before have just written."""

    arena: int
    flush: int
    written: tuple[slice, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A way to compute a case, as code."""

    key: str
    schedule: Schedule
    code: Code
    sizes: Sizes


class Trials:
    """Trials of one library, and what they share."""

    def __init__(self, isa: str, threads: int, blocks: BlockCache) -> None:
        self.all: list[Trial] = []
        self.constants, self.instructions = Constants(), Constants()
        self.isa, self.threads, self.blocks = isa, threads, blocks

    def add(self, key: str, case: Conv, schedules: Iterable[Schedule], flush: int) -> None:
        """Add the trials of a case; ``flush`` floats are read before each run."""
        step, plan = _alone(case)
        context = Context(
            plan, self.constants, self.isa, self.threads, code=self.instructions, blocks=self.blocks
        )
        sizes = Sizes(plan.arena, flush, _written(step, plan))
        self.all += [
            Trial(key, schedule, conv.emit_with(step, context, schedule), sizes)
            for schedule in schedules
        ]

    def build(self, library: Path, tools: Toolchain) -> None:
        """All of them into a shared library."""
        code = self.instructions.data()
        files = _sources([trial.code for trial in self.all])
        files |= closure(["pd.h", *HEADERS, "functions.h", "pages.h"])
        files["code.c"] = blob("pd_code", CODE, code, ".text")
        files["settle.c"] = SETTLE.replace("SIZE", str(len(code)))
        build_library(Project(files, b"", self.isa, (), {}, code), library, tools)


def seconds(
    trials: Trials, tools: Toolchain, rounds: int, tell: Callable[[int], None]
) -> list[float]:
    """The time of every trial; those close to the best of their case are measured for longer.

    ``tell`` is called with the number of cases that are done.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "trials.so"
        trials.build(library, tools)
        runner = _Runner(library, trials)
        best = [0.0] * len(trials.all)
        for done, key in enumerate(dict.fromkeys(trial.key for trial in trials.all)):
            tell(done)
            own = [index for index, trial in enumerate(trials.all) if trial.key == key]
            first = runner.seconds(own, rounds)
            near = [i for i, taken in first.items() if taken <= CLOSE * min(first.values())]
            again = runner.seconds(near, AGAIN * rounds) if len(near) > 1 else {}
            for index in own:
                best[index] = min(first[index], again.get(index, first[index]))
        runner.close()
    return best


def _written(step: Conv, plan: Plan) -> tuple[slice, ...]:
    """Where the operands of ``step`` lie."""
    views = [step.x] if step.residual is None else [step.x, step.residual]
    begins = [plan.offsets[view.buffer] for view in views]
    sizes = [plan.buffers[view.buffer].size for view in views]
    return tuple(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True))


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
    """Runs trials: it has a library of them, and memory."""

    def __init__(self, library: Path, trials: Trials) -> None:
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

    def seconds(self, some: Sequence[int], rounds: int) -> dict[int, float]:
        """The times of some trials, in turns: the fastest round of the slowest thread."""
        best = {(index, thread): float("inf") for index in some for thread in range(self._threads)}
        for _ in range(-(-rounds // RUNS)):
            for index, thread in best:
                taken = min(self._once(index, thread) for _ in range(RUNS))
                best[index, thread] = min(best[index, thread], taken)
        return {index: max(best[index, t] for t in range(self._threads)) for index in some}

    def _once(self, index: int, thread: int) -> float:
        """One run of a thread's share of a trial."""
        function, sizes = getattr(self._library, f"trial{index}"), self._sizes[index]
        work = _Work(
            self._arena.ctypes.data, 0, 0, self._weights.ctypes.data,
            self._scratch.ctypes.data, thread, self._threads,
        )  # fmt: skip
        self._other[: sizes.flush].sum()
        for part in sizes.written:
            self._arena[part].sum()
        start = time.thread_time()  # other programs' turns do not count
        function(ctypes.byref(work))
        return time.thread_time() - start


def _aligned(array: Array) -> Array:
    """A copy that starts on a page."""
    raw = np.empty(array.nbytes + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    aligned = raw[start : start + array.nbytes].view(array.dtype)
    aligned[...] = array
    return aligned
