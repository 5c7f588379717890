"""How many threads a run gets: the rule of ``c/adaptive.h`` under simulated conditions."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prunedeploy.runtimes.sparse.codegen.project import SOURCES
from prunedeploy.runtimes.sparse.codegen.work import useful_threads
from prunedeploy.runtimes.sparse.plan.steps import Fill
from prunedeploy.runtimes.sparse.plan.views import View
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets import by_name

DRIVER = """
#include "adaptive.h"
static pd_adaptive a;
void start(int threads, int useful) { pd_adaptive_start(&a, threads, useful); }
int pick(void) { return pd_adaptive_pick(&a); }
int threads(int i) { return a.candidate[i].threads; }
int count(void) { return a.count; }
void learn(int i, double seconds) { pd_adaptive_learn(&a, i, seconds); }
"""

# Seconds of a run on so many threads, drawn with a generator.
Times = Callable[[int, np.random.Generator], float]


def _library(folder: Path, *flags: str) -> ctypes.CDLL:
    (folder / "adaptive.c").write_text(DRIVER)
    cc = compiling.toolchain(by_name("host")).command
    command = [*cc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags]
    done = subprocess.run(
        [*command, f"-I{SOURCES}", "adaptive.c", "-o", "adaptive.so"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = ctypes.CDLL(str(folder / "adaptive.so"))
    found.learn.argtypes = [ctypes.c_int, ctypes.c_double]
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return _library(tmp_path_factory.mktemp("adaptive"))


def _runs(library: ctypes.CDLL, times: Times, count: int, seed: int = 0) -> list[tuple[int, float]]:
    """Threads and seconds of each of ``count`` runs of a session that was started before."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        index = library.pick()
        threads = library.threads(index)
        seconds = times(threads, random)
        library.learn(index, seconds)
        found.append((threads, seconds))
    return found


def _noisy(seconds: float, random: np.random.Generator) -> float:
    return seconds * random.lognormal(0, 0.05)


def alone(threads: int, random: np.random.Generator) -> float:
    """Two threads are nearly twice as fast as one."""
    return _noisy({2: 7.8e-3, 1: 14.3e-3}[threads], random)


def spinning(threads: int, random: np.random.Generator) -> float:
    """Another program's threads wait on the second processor without sleeping."""
    return _noisy(2.7e-3 if threads == 1 else random.uniform(4e-3, 16e-3), random)


def busy(threads: int, random: np.random.Generator) -> float:
    """A third program: a run on two threads is lucky, or loses time slices of 3 ms."""
    if threads == 1:
        return _noisy(2.9e-3, random)
    return 1.6e-3 + 3e-3 * random.poisson(3.0) * (random.random() > 0.3)


def far(threads: int, random: np.random.Generator) -> float:
    """The processors are so far from each other that there is nothing to choose."""
    return _noisy(14.6e-3 if threads == 1 else 15e-3, random)


def hiccups(threads: int, random: np.random.Generator) -> float:
    """One run in a hundred is stopped for 50 ms."""
    return alone(threads, random) + (50e-3 if random.random() < 0.01 else 0)


@pytest.mark.parametrize("times", [alone, spinning, busy, far, hiccups])
def test_runs_take_what_the_better_number_takes(library, times):
    library.start(2, 1024)
    _runs(library, times, 20)
    found = [seconds for _, seconds in _runs(library, times, 2000, 1)]
    random = np.random.default_rng(2)
    best = min(np.mean([times(n, random) for _ in range(4000)]) for n in (1, 2))
    assert np.mean(found) < 1.08 * best


def test_nothing_is_tried_while_all_is_well(library):
    library.start(2, 1024)
    _runs(library, alone, 20)
    assert {threads for threads, _ in _runs(library, alone, 1000)} == {2}


@pytest.mark.parametrize("trouble", [spinning, busy])
def test_trouble_is_noticed_within_a_few_runs(library, trouble):
    library.start(2, 1024)
    _runs(library, lambda n, random: _noisy({2: 1.5e-3, 1: 2.7e-3}[n], random), 100)
    found = [threads for threads, _ in _runs(library, trouble, 40)]
    assert found[12:].count(2) <= 4


def test_calm_is_noticed_too(library):
    calm = lambda n, random: _noisy({2: 1.5e-3, 1: 2.7e-3}[n], random)  # noqa: E731
    library.start(2, 1024)
    _runs(library, spinning, 1000)
    found = [threads for threads, _ in _runs(library, calm, 1500)]
    assert set(found[-200:]) == {2}


def test_of_many_threads_the_best_number_is_found(library):
    """The fifth to sixteenth thread bring nothing, as on processors that share their memory."""
    times = lambda n, random: _noisy(16e-3 / min(n, 4) + 0.4e-3 * n, random)  # noqa: E731
    library.start(16, 1024)
    assert [library.threads(i) for i in range(library.count())] == [16, 8, 4, 2, 1]
    found = [threads for threads, _ in _runs(library, times, 600)]
    assert np.mean(np.array(found[100:]) == 4) > 0.9


def test_no_more_threads_than_there_is_work_for(library):
    library.start(16, 4)
    assert [library.threads(i) for i in range(library.count())] == [4, 2, 1]
    library.start(3, 1024)
    assert [library.threads(i) for i in range(library.count())] == [3, 1]
    library.start(8, 1)
    assert library.count() == 1
    assert {threads for threads, _ in _runs(library, lambda n, _: 1e-5 * n, 50)} == {1}


def test_trials_that_nothing_limits_would_be_seen(tmp_path):
    """The broken twin of the first test."""
    text = (SOURCES / "adaptive.h").read_text()
    assert "PD_TRIALS 0.03" in text
    assert "PD_LOSSES 7" in text
    text = text.replace("PD_TRIALS 0.03", "PD_TRIALS 10.0").replace("PD_LOSSES 7", "PD_LOSSES 0")
    (tmp_path / "adaptive.h").write_text(text)
    library = _library(tmp_path, "-I.")
    with pytest.raises(AssertionError):
        test_runs_take_what_the_better_number_takes(library, spinning)


def test_tiny_networks_are_worth_one_thread():
    def steps(elements: int) -> list[Fill]:
        view = View(0, (1, elements), (elements, 1))
        return [Fill("fill", view, np.zeros((1, 1), np.float32))] * 20

    assert useful_threads(steps(1000), "avx512") == 1
    assert useful_threads([], "avx512") == 1
    few, many = useful_threads(steps(10**6), "avx512"), useful_threads(steps(10**9), "avx512")
    assert 2 <= few < many
