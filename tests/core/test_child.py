"""Trials in a child: every end that one can have, and what its parent knows of it."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_time_is_that_of_the_budget() -> None:
    assert trial(spin, Budget(0)) == "takes more than 10 s of processor time"


def test_what_the_parent_has_yet_to_print_is_printed_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    print("once", end="")
    trial(lambda: None, Budget(0))
    assert capfd.readouterr().out == "once"
