"""Single steps compiled and run, and held against the interpreter of plans."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from plan_interpreter import run_step, strided

import prunedeploy.runtimes.sparse as sparse
from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.codegen import emitter
from prunedeploy.runtimes.sparse.codegen._context import Code, Constants, Context
from prunedeploy.runtimes.sparse.codegen.project import CODE, blob
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.plan import steps as plan
from prunedeploy.runtimes.sparse.plan import strides, views

C_FOLDER = next(iter(sparse.__path__)) + "/c"
FLAGS = (
    "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Werror",
    "-Wno-unused-function", "-Wno-unused-const-variable", "-I", C_FOLDER,
)  # fmt: skip
ISA = {isa.name: isa.flags for isa in ISAS.values()}


def supported() -> list[str]:
    """The instruction sets of ``ISA`` that run here, the widest first."""
    if platform.machine() == "aarch64":
        return ["neon", "scalar"]
    found = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    has = set(found.split())
    wide = ["avx512"] if {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"} <= has else []
    return wide + (["avx2"] if {"avx2", "fma"} <= has else []) + ["generic", "scalar"]


def portable_ones_slow() -> list[object]:
    """The same for sweeps that take seconds: C without intrinsics computes them in slow tests."""
    slow = {"generic", "scalar"}
    return [pytest.param(x, marks=pytest.mark.slow) if x in slow else x for x in supported()]


class _Work(ctypes.Structure):
    _fields_ = [
        ("arena", ctypes.c_void_p),
        ("inputs", ctypes.POINTER(ctypes.c_void_p)),
        ("outputs", ctypes.POINTER(ctypes.c_void_p)),
        ("weights", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("thread", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("error", ctypes.POINTER(ctypes.c_int)),
    ]


@dataclass
class Case:
    """One step, its buffers, and what is in those that are not random.

    ``others`` are further steps of the plan, which say what else the buffers hold; ``tuned`` is how
    steps are computed, by name, where it is not left to the emitter.
    """

    step: plan.Step
    buffers: tuple[views.Buffer, ...]
    feeds: dict[int, Array] = field(default_factory=dict)
    tolerance: float = 3e-6
    others: tuple[plan.Step, ...] = ()
    tuned: dict[str, Any] = field(default_factory=dict)


class Memory:
    """Buffers of a case, made as its views are."""

    def __init__(self) -> None:
        self.buffers: list[views.Buffer] = []

    def add(
        self, size: int, place: views.MemorySpace = "arena", dtype: views.Dtype = "float32"
    ) -> int:
        """A buffer's index."""
        index = sum(buffer.space == place for buffer in self.buffers)
        self.buffers.append(views.Buffer(place, size, dtype, index))
        return len(self.buffers) - 1

    def planar(self, shape: tuple[int, ...], channel: int = 1) -> views.View:
        """A planar tensor of its own."""
        size = strides.planar(len(shape), channel).size(shape)
        return views.planar(self.add(size), shape, channel)

    def rows(
        self,
        shape: tuple[int, ...],
        place: views.MemorySpace = "arena",
        dtype: views.Dtype = "float32",
    ) -> views.View:
        """A tensor of its own in C order."""
        return views.row_major(self.add(int(np.prod(shape)), place, dtype), shape)

    def case(self, step: plan.Step, feeds: dict[int, Array] | None = None, **how: Any) -> Case:
        """The case of ``step`` on these buffers."""
        return Case(step, tuple(self.buffers), feeds or {}, **how)


def permuted(view: views.View, axes: Sequence[int]) -> views.View:
    """``view`` with its axes in another order."""
    shape = tuple(view.shape[axis] for axis in axes)
    return views.View(view.buffer, shape, tuple(view.strides[a] for a in axes), view.offset)


def offsets(case: Case) -> tuple[tuple[int, ...], int]:
    """Where each arena buffer begins, with a guard behind it, and what all need."""
    places, end = [], views.GUARD
    for buffer in case.buffers:
        places.append(end)
        if buffer.space == "arena":
            end += -(-buffer.size // views.UNIT) * views.UNIT + views.GUARD
    return tuple(places), end


def plan_of(case: Case) -> plan.Plan:
    """A plan of this step alone."""
    places, arena = offsets(case)
    return plan.Plan(1, case.buffers, (case.step, *case.others), (), (), places, arena)


def source(codes: Sequence[Code]) -> str:
    """C: a function ``step_<n>`` a step."""
    headers = dict.fromkeys(header for code in codes for header in code.headers)
    tops = dict.fromkeys(top for code in codes for top in code.top)
    functions = [
        f"void step_{n}(const pd_work *w) {{\n(void)w;\n{code.body}\n}}"
        for n, code in enumerate(codes)
    ]
    return "\n".join(
        ['#include "pd.h"', *(f'#include "{h}"' for h in headers), *tops, *functions, ""]
    )


class Runner(Protocol):
    """What runs the steps of cases."""

    cases: Sequence[Case]

    def run(self, number: int, arrays: Sequence[Array], arena: Array, threads: int) -> int:
        """One step, each thread's share after the other; the error code it leaves."""


def emitted(cases: Sequence[Case], isa: str) -> tuple[list[Code], bytes, bytes]:
    """The code of every step, the constants of all, and their instructions."""
    constants, instructions = Constants(), Constants()
    name = "generic" if isa == "scalar" else isa
    contexts = [
        Context(plan_of(case), constants, name, tuned=case.tuned, code=instructions)
        for case in cases
    ]
    codes = [emitter(c.step)(c.step, x) for c, x in zip(cases, contexts, strict=True)]
    return codes, constants.data(), instructions.data()


class Library:
    """The steps of ``cases``, compiled."""

    def __init__(self, cases: Sequence[Case], isa: str, *flags: str) -> None:
        self.cases = cases
        self.codes, constants, instructions = emitted(cases, isa)
        self.weights = aligned(np.frombuffer(constants, np.uint8))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "steps.c").write_text(source(self.codes))
            (folder / "code.c").write_text(blob("pd_code", CODE, instructions, ".text"))
            (folder / CODE).write_bytes(instructions)
            command = ["gcc", *FLAGS, *ISA[isa], *(flags or ("-O1",)), "-shared", "-fPIC"]
            done = subprocess.run(
                [*command, "steps.c", "code.c", "-o", "steps.so", "-lm"],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[:4000]
            self.library = ctypes.CDLL(str(folder / "steps.so"))

    def run(self, number: int, arrays: Sequence[Array], arena: Array, threads: int) -> int:
        """One step, each thread's share after the other; the error code it leaves.

        The last share is first: what one writes into the next one's is not covered up.
        """
        code, error = self.codes[number], ctypes.c_int(0)
        scratch = aligned(np.full(code.scratch + views.GUARD, np.nan, np.float32))
        places = {"input": [], "output": []}  # type: dict[str, list[int]]
        for buffer, array in zip(self.cases[number].buffers, arrays, strict=True):
            if buffer.space in places:
                places[buffer.space].append(array.ctypes.data)
        pointers = {
            place: (ctypes.c_void_p * max(len(found), 1))(*found) for place, found in places.items()
        }
        function = getattr(self.library, f"step_{number}")
        for thread in reversed(range(threads)):
            work = _Work(
                arena.ctypes.data, pointers["input"], pointers["output"],
                self.weights.ctypes.data, scratch.ctypes.data, thread, threads,
                ctypes.pointer(error),
            )  # fmt: skip
            function(ctypes.byref(work))
        return error.value


def aligned(array: Array) -> Array:
    """A copy that begins on a vector's boundary."""
    size = array.nbytes
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + size].view(array.dtype)
    copy[...] = array
    return copy


def data_of(case: Case, rng: np.random.Generator) -> tuple[Array, list[Array]]:
    """The arena, filled, and a flat array a buffer: parts of it, or arrays of their own."""
    places, size = offsets(case)
    arena = aligned(rng.standard_normal(size).astype(np.float32))
    arrays: list[Array] = []
    for index, (buffer, place) in enumerate(zip(case.buffers, places, strict=True)):
        if buffer.space == "arena":
            arrays.append(arena[place : place + buffer.size])
        elif buffer.dtype == "float32":
            arrays.append(rng.standard_normal(buffer.size).astype(np.float32))
        else:
            high = 2 if buffer.dtype == "bool" else 100
            arrays.append(rng.integers(0, high, buffer.size).astype(buffer.dtype))
        if index in case.feeds:
            arrays[-1][...] = case.feeds[index].reshape(-1)
    return arena, arrays


def results(runner: Runner, seed: int = 0) -> list[Array]:
    """What every case writes first, in its own shape."""
    rng, found = np.random.default_rng(seed), []
    for number, case in enumerate(runner.cases):
        arena, arrays = data_of(case, rng)
        assert runner.run(number, arrays, arena, 1 + number % 3) == 0
        found.append(strided(plan.writes(case.step)[0], arrays).copy())
    return found


def check(cases: Sequence[Case], isa: str, *flags: str, seed: int = 0) -> None:
    """Every case gives what the interpreter does in float64, and writes nothing else."""
    check_with(Library(cases, isa, *flags), seed)


def check_with(runner: Runner, seed: int = 0) -> None:
    """The same for steps that ``runner`` runs."""
    rng = np.random.default_rng(seed)
    for number, case in enumerate(runner.cases):
        arena, arrays = data_of(case, rng)
        before = arena.copy()
        expected = [a.astype(np.float64) if a.dtype.kind == "f" else a.copy() for a in arrays]
        with np.errstate(all="ignore"):
            run_step(case.step, expected)
        assert runner.run(number, arrays, arena, 1 + number % 3) == 0
        _compare(case, arrays, expected, arena, before)


def _compare(
    case: Case, arrays: list[Array], expected: list[Array], arena: Array, before: Array
) -> None:
    places, _ = offsets(case)
    free = np.zeros(arena.shape, bool)
    for view in plan.writes(case.step):
        flat = [np.zeros(array.shape, bool) for array in arrays]
        strided(view, flat)[...] = True
        found, wanted = arrays[view.buffer], expected[view.buffer]
        if wanted.dtype.kind != "f":
            np.testing.assert_array_equal(found, wanted, err_msg=str(case.step))
            continue
        written = flat[view.buffer]
        finite = np.abs(wanted[written][np.isfinite(wanted[written])])
        scale = max(float(finite.max(initial=0)), 1e-3) * case.tolerance
        np.testing.assert_allclose(
            found[written], wanted[written], rtol=0, atol=scale, err_msg=str(case.step)
        )
        if case.buffers[view.buffer].space == "arena":
            part = slice(places[view.buffer], places[view.buffer] + len(written))
            free[part] |= written | np.isnan(wanted)  # or may be overwritten
    same = (arena == before) | (np.isnan(arena) & np.isnan(before)) | free
    assert same.all(), (case.step, np.flatnonzero(~same)[:8])
