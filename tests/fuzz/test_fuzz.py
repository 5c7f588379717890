"""Some mutated inputs of every target: each one is taken, or refused in one line.

The slow part runs those targets that compile or answer over a pipe, and more of the others; ``make
fuzz`` runs them for as long as one likes.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import fuzz
import pytest
from fuzz_targets import TARGETS, FindingError, command
from harness import Corpus, Tally, run

FAST = ("zip", "legacy", "safetensors", "npz", "schedules", "targets", "onnx-inspect")


def findings(target: str, count: int, folder: Path) -> list[str]:
    """What ``count`` cases of a target did that none may do."""
    Corpus(TARGETS[target], folder / target)
    tally = Tally(target)
    found = [x.what for x in run(tally, folder / target, 1, range(count), time.monotonic() + 3600)]
    assert tally.cases == count
    return found


@pytest.mark.parametrize("target", FAST)
def test_some_cases(target: str, tmp_path: Path) -> None:
    assert findings(target, 40, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_more_cases(target: str, tmp_path: Path) -> None:
    assert findings(target, max(10, 600 // TARGETS[target].cost), tmp_path) == []


# -- the harness: each kind of finding is noticed --------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "KeyError: .*planted"),
        ("dies", "the process died"),
        ("hangs", "hangs"),
        pytest.param("sleeps", "hangs", marks=pytest.mark.slow),
        ("takes-memory", "takes .* MB"),
        ("runs-code", "FindingError: .*code of the file was run"),
    ],
)
def test_what_none_may_do_is_found(
    name: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is written down with the command that does it again, and the next case runs."""
    monkeypatch.chdir(tmp_path)
    assert fuzz.main([f"planted:{name}", "--count", "2"]) == 1
    found, replay, *_, tally = capsys.readouterr().out.splitlines()
    assert re.match(says, found)
    assert "2 cases, 2 findings" in tally
    folder = replay.split()[-1]
    assert (tmp_path / folder / "net.txt").read_bytes() == bytes(range(64))  # the seed itself
    if name in ("raises", "runs-code"):
        assert fuzz.main(["--replay", folder]) == 1


def test_the_same_cases_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written down is what was run: a case depends on target, seed and number alone."""
    monkeypatch.chdir(tmp_path)
    assert fuzz.main(["planted:half", "--count", "60", "--seed", "3"]) == 1
    written = [len(x.read_bytes()) for x in tmp_path.glob("fuzz-findings/*/net.txt")]
    assert written
    assert all(size < 64 for size in written)


def test_printed_control_characters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunedeploy.cli.printable", lambda text: text)  # as if nobody did it
    with pytest.raises(FindingError, match="prints"):
        command("run", "\x1b[31mengine", "x.npy", "-o", "y.npy")
