"""Trials in a child: every end that one can have, and what its parent knows of it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from prunedeploy.core import child
from prunedeploy.core.budget import Budget
from prunedeploy.core.child import trial


def spin() -> None:
    while time.process_time() < 60:
        pass


def fail() -> None:
    raise ValueError


def test_work_that_ends_is_no_news(tmp_path: Path) -> None:
    assert trial((tmp_path / "made").touch, Budget(0)) is None
    assert (tmp_path / "made").exists()
    assert trial(fail, Budget(0)) is None  # its caller meets the same


def test_a_crash_is_the_childs_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert trial(lambda: ctypes.string_at(8), Budget(0)) == "ends the process (SIGSEGV)"
    assert trial(os.abort, Budget(0)) == "ends the process (SIGABRT)"
    assert capfd.readouterr() == ("", "")


def test_memory_is_that_of_the_budget() -> None:
    budget = Budget(0)
    assert trial(lambda: bytearray(budget.unpacked // 2), budget) is None
    assert trial(lambda: bytearray(2 * budget.unpacked), budget) == "takes all memory"


def test_an_exit_is_no_end_of_the_work() -> None:
    assert trial(lambda: os._exit(0), Budget(0)) == "ends the process"


def test_nothing_depends_on_the_signal_of_a_childs_end() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # then nobody can wait for a child
    try:
        assert trial(lambda: None, Budget(0)) is None
        assert trial(fail, Budget(0)) is None
        assert trial(os.abort, Budget(0)) == "ends the process"
        assert trial(lambda: bytearray(1 << 40), Budget(0)) == "takes all memory"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_child_that_only_waits_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PATIENCE", 0.02)
    ids = multiprocessing.Value("i", 0)

    def wait() -> None:
        ids.value = os.getpid()
        time.sleep(60)

    assert trial(wait, Budget(0)) == "takes more than 0.2 s"
    with pytest.raises(ProcessLookupError):
        os.kill(ids.value, 0)


def test_a_pipe_that_others_hold_open_keeps_nobody_waiting() -> None:
    def fork_and_die() -> None:
        if not os.fork():
            time.sleep(3)
            os._exit(0)
        os.abort()

    begin = time.monotonic()
    assert trial(fork_and_die, Budget(0)) == "ends the process (SIGABRT)"
    assert time.monotonic() - begin < 2


def test_work_is_tried_where_there_are_no_limits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    assert trial((tmp_path / "made").touch, Budget(0)) is None
    assert (tmp_path / "made").exists()
    assert trial(os.abort, Budget(0)) == "ends the process (SIGABRT)"


@pytest.mark.slow
def test_time_is_that_of_the_budget() -> None:
    assert trial(spin, Budget(0)) == "takes more than 10 s of processor time"


def test_what_the_parent_has_yet_to_print_is_printed_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    print("once", end="")
    trial(lambda: None, Budget(0))
    assert capfd.readouterr().out == "once"
