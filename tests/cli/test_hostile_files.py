"""Files of strangers, given to the real commands: each is refused in one line, at little cost.

``python tests/support/hostile_files.py FOLDER`` prints what each command does with each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_files import COMMANDS, KINDS, run

SAMPLE = (
    ("memo-writes", "inspect"),
    ("bits", "inspect --mask"),
    ("loop", "shrink"),
    ("json-number", "report"),
    ("bundle-zeros", "run"),
)


@pytest.mark.parametrize(("kind", "command"), SAMPLE)
def test_some_files(kind: str, command: str, tmp_path: Path) -> None:
    (row,) = run(kind, [command], tmp_path)
    assert (row.status, row.wrong) == (2, "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_through_every_command(kind: str, tmp_path: Path) -> None:
    rows = run(kind, [*COMMANDS], tmp_path)
    assert rows
    assert [row for row in rows if row.wrong] == []
