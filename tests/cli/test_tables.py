"""Tables of texts on narrow terminals, and whole in pipes."""

from __future__ import annotations

import sys

import pytest

from prunedeploy.cli import tables

ROWS = [("jetson", "ort", "build on the device itself, or for the host"), ("x86", "sparse", "gcc")]


@pytest.mark.parametrize("columns", [40, 48, 200])
def test_texts_go_on_below_themselves(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tables.table(("target", "runtime", "reason"), ROWS, left=frozenset(range(3)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= columns
    assert (len(lines) == 3) is (columns == 200)
    start = lines[1].index("build")
    last = [line[start:] for line in lines[1 : len(lines) - 1]]
    assert " ".join(last) == ROWS[0][2]


def test_a_pipe_gets_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    tables.table(("target", "runtime", "reason"), ROWS, left=frozenset(range(3)))
    assert len(capsys.readouterr().out.splitlines()) == 3
