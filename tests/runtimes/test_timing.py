"""Sessions timed in turn."""

from __future__ import annotations

import gc
import time

import pytest

from prunedeploy.runtimes.timing import interleave


class Recorder:
    """A session that takes its time and keeps the order of the runs."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, feeds):
        self.log.append(self.name)
        assert self.log.count(self.name) <= 3 or not gc.isenabled()
        time.sleep(self.seconds)


def test_every_round_runs_each_twice_and_times_the_second():
    log: list[str] = []
    sessions = [Recorder("a", 0.002, log), Recorder("b", 0.004, log)]
    samples = interleave(sessions, {}, rounds=6, warmup=3)
    assert log[:6] == list("aaabbb")
    rounds = ["".join(log[i : i + 4]) for i in range(6, len(log), 4)]
    assert len(rounds) == 6
    assert set(rounds) == {"aabb", "bbaa"}  # the order is drawn anew
    assert [len(x) for x in samples] == [6, 6]
    assert min(samples[0]) >= 2_000_000
    assert min(samples[1]) >= 4_000_000
    assert gc.isenabled()


def test_time_is_limited_but_for_three_rounds():
    log: list[str] = []
    samples = interleave([Recorder("a", 0.01, log)], {}, rounds=100, warmup=3, seconds=0.0)
    assert [len(x) for x in samples] == [3]
    assert len(log) == 1 + 6  # warming up is limited, too
    log.clear()
    samples = interleave([Recorder("a", 0.001, log)], {}, rounds=2, warmup=0, seconds=0.0)
    assert [len(x) for x in samples] == [2]


def test_the_garbage_collector_is_back_after_a_failure():
    class Failing:
        def run(self, feeds):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interleave([Failing()], {}, rounds=1, warmup=0)
    assert gc.isenabled()
