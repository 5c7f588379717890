"""What is said of the steps: the options of every command, and the logger of the library."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prunedeploy
from prunedeploy.cli import commands, logs, main, progress
from prunedeploy.core.errors import UserError
from prunedeploy.core.log import LOGGER, Logged, logged


@pytest.fixture
def net(folder: Path, write_network) -> Path:
    return write_network(folder / "net.onnx", 16)


def shrink(*options: str) -> int:
    return main(["shrink", "net.onnx", "--align", "1", *options])


def test_every_step_in_a_line(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shrink("--verbose") == 0
    said = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\[\d\d:\d\d:\d\d\] \S", line) for line in said)
    assert [line.partition("] ")[2] for line in said[:3]] == [
        "reading net.onnx",
        "loading net.onnx",
        "running the model as it is",
    ]
    assert len(said) > 8


def test_no_progress(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shrink("-q") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "parameters" in out
    assert main(["shrink", "none.onnx", "-q"]) == 2
    assert capsys.readouterr().err.startswith("prunedeploy: error: ")
    assert shrink("-q", "-v") == 2
    assert "say the opposite" in capsys.readouterr().err


def test_a_log_file(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Path("steps.log")
    assert shrink("-q", "--log-file", "steps.log") == 0
    first = log.read_text().splitlines()
    assert all(re.match(r"[\d-]{10} [\d:,]{12} INFO \S", line) for line in first)
    assert sum(line.endswith(" loading net.onnx") for line in first) == 1
    assert main(["shrink", "none\x1b[31m.onnx", "--log-file", "steps.log"]) == 2
    last = log.read_text().splitlines()[-1]
    assert " ERROR " in last
    assert last.isprintable()
    assert log.read_text().splitlines()[: len(first)] == first
    capsys.readouterr()
    assert shrink("--log-file", "nowhere/steps.log") == 2
    assert "cannot write nowhere/steps.log" in capsys.readouterr().err


def test_a_bug_goes_into_the_log_file(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("prunedeploy.shrinking.pipeline.carry_out", broken)
    with pytest.raises(ZeroDivisionError):
        shrink("--log-file", "steps.log")
    assert "Traceback" in Path("steps.log").read_text()


def test_nothing_stays_behind(net: Path) -> None:
    handlers, level = list(LOGGER.handlers), LOGGER.level
    assert shrink("-v", "--log-file", "steps.log") == 0
    assert (LOGGER.handlers, LOGGER.level, progress.shown) == (handlers, level, True)


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda each: each.__name__)
def test_every_command_has_the_options(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command.__name__.replace("_", "-"), "--help"]) == 0
    text = capsys.readouterr().out
    options = ("--verbose", "--quiet", "--log-file")
    assert [text.count(f" {option} ") for option in options] == [1] * 3


def test_a_commands_own_verbose_is_handed_on() -> None:
    seen = []

    def own(verbose: bool = False) -> None:
        seen.append(verbose)

    wrapped = logs.with_logs(own)
    with logs.kept():
        wrapped(verbose=True, quiet=False, log_file=None)
        wrapped(verbose=False, quiet=False, log_file=None)
    assert seen == [True, False]


# -- the library ---------------------------------------------------------------------------------


def test_the_library_logs_and_prints_nothing(
    net: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.INFO, "prunedeploy"):
        prunedeploy.shrink("net.onnx", align=1, progress=said.append)
    assert [record.message for record in caplog.records if record.name == "prunedeploy"] == said
    assert "running the model as it is" in said
    assert capfd.readouterr() == ("", "")
    assert any(isinstance(each, logging.NullHandler) for each in LOGGER.handlers)


def test_a_message_is_logged_once() -> None:
    assert logged(logged(None)) == Logged(None)


def test_completion_names_commands_and_options(tmp_path: Path) -> None:
    def completed(*words: str) -> list[str]:
        environment = {
            **os.environ,
            "_PRUNEDEPLOY_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("prunedeploy", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            [sys.executable, "-m", "prunedeploy"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert completed("in") == ["inspect"]
    assert completed("build", "--ru") == ["--runtime"]


def test_user_errors_name_one_option() -> None:
    with logs.kept(), pytest.raises(UserError):
        logs.with_logs(lambda: None)(verbose=True, quiet=True, log_file=None)
