"""Names of strangers' files, before they are printed."""

from __future__ import annotations

import pytest

from prunedeploy.core.markdown import cell
from prunedeploy.core.text import printable


@pytest.mark.parametrize("name", ["conv1.weight", "layer.1/überall", "層", "a b"])
def test_what_only_shows_characters_stays(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2Jw", "\\x1b[2Jw"),
        ("a\nb\r", "a\\nb\\r"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("a\ud800", "a\\ud800"),
        ("\x9b31m\x7f\0", "\\x9b31m\\x7f\\x00"),
    ],
)
def test_what_drives_a_terminal_is_written_out(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert "\x1b" not in cell(name)
    cell(name).encode()
