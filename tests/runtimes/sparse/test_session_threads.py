"""The threads of a session: how many there are, where they run, and how many a run gets."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from engines import build, feed, network, output, wide_network

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine
from prunedeploy.engines import opening


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("engine")
    return build(wide_network(folder / "net.onnx"), folder / "e", batch=(1, 3), threads=2)


def tasks() -> set[int]:
    """This process's threads, by the system's numbers."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def test_threads_are_as_asked_and_end_with_the_session(engine):
    before = len(tasks())
    with opening.open(engine, threads=5) as session:
        assert len(tasks()) == before + 4
    assert len(tasks()) == before
    with pytest.raises(UserError, match="session is closed"):
        session.run(feed(engine, 1))
    session.close()  # twice does no harm
    with opening.open(engine, threads=1):
        assert len(tasks()) == before


def test_a_network_too_small_for_threads_gets_one(tmp_path):
    small = build(network(tmp_path / "net.onnx"), tmp_path / "e", threads=2)
    before = len(tasks())
    with opening.open(small, threads=5) as session:
        assert session.threads_used == 0
        session.run(feed(small, 1))
        assert session.threads_used == 1
        assert len(tasks()) == before


def settled(thread: int, bound: set[int], patience: float = 10.0) -> bool:
    """Whether a thread may run on exactly these processors again.

    A run does not wait for threads that are late: one may be between its two calls, which move
    it and set it free again, after the run has returned.
    """
    end = time.monotonic() + patience
    while os.sched_getaffinity(thread) != bound:
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinities are Linux's")
def test_threads_may_run_where_they_might_before(engine):
    """They move away from each other, but stay nowhere: after rests, in a row, and bound."""
    allowed = os.sched_getaffinity(0)
    for bound in (allowed, {min(allowed)}):
        before = tasks()
        os.sched_setaffinity(0, bound)
        try:
            with opening.open(engine, 2) as session:
                feeds = feed(engine, 3)
                for rest in (0, 0.005, 0, 0.02, 0):
                    time.sleep(rest)
                    session.run(feeds)
                own = tasks() - before
                assert own
                assert os.sched_getaffinity(0) == bound
                for thread in own:
                    assert settled(thread, bound), "a thread stays where it was moved"
        finally:
            os.sched_setaffinity(0, allowed)


def test_every_number_of_threads_gives_the_same(engine):
    """Whatever a session settles on, and however often it tries another number."""
    feeds = {batch: feed(engine, batch) for batch in (1, 3)}
    with opening.open(engine, 1) as alone:
        want = {batch: output(alone, feeds[batch]) for batch in feeds}
    for threads in (2, 3, 4, 7):
        used = set()
        with opening.open(engine, threads) as session:
            for run in range(40):
                batch = 3 if run % 4 == 3 else 1
                np.testing.assert_array_equal(output(session, feeds[batch]), want[batch])
                used.add(session.threads_used)
        assert {threads, 1} <= used <= {threads, threads // 2, threads // 4, 1}


def test_results_are_right_on_one_processor(engine):
    """There the threads of a session take turns."""
    allowed = os.sched_getaffinity(0)
    feeds = feed(engine, 3)
    with opening.open(engine, 1) as alone:
        want = output(alone, feeds)
    with opening.open(engine, 2) as session:
        try:
            for thread in tasks():
                os.sched_setaffinity(thread, {min(allowed)})
            for _ in range(60):
                np.testing.assert_array_equal(output(session, feeds), want)
        finally:
            for thread in tasks():
                os.sched_setaffinity(thread, allowed)


def _spin() -> None:
    while True:
        pass


def test_results_are_right_beside_busy_neighbours(engine):
    """Threads that the system does not schedule have their shares computed by others."""
    feeds = feed(engine, 3)
    with opening.open(engine, 1) as alone:
        want = output(alone, feeds)
    context = multiprocessing.get_context("spawn")
    neighbours = [context.Process(target=_spin, daemon=True) for _ in range(3)]
    for each in neighbours:
        each.start()
    try:
        with opening.open(engine, 4) as session:
            for _ in range(60):
                np.testing.assert_array_equal(output(session, feeds), want)
    finally:
        for each in neighbours:
            each.kill()
            each.join()
