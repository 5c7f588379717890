"""Names of strangers' files, before they are printed."""

from __future__ import annotations

import pytest

from prunedeploy.core.markdown import cell
from prunedeploy.core.text import printable, printable_lines, shortened


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


def test_lines_stay_lines() -> None:
    assert printable_lines("a\n\n\x1b[2Jb\n") == "a\n\n\\x1b[2Jb\n"
    assert printable_lines("a\r\u2028b\tc") == "a\\r\\u2028b\\tc"  # these are no lines


def test_words_that_fill_a_terminal() -> None:
    path = "/".join(["folder"] * 500)
    assert shortened(f"{path} is no file") == f"{path} is no file"
    assert len(shortened(f"{'9' * 100_000} is no number")) < 300
    shape = shortened(f"the shape [{', '.join('1' * 100_000)}] of net.onnx")
    assert len(shape) < 10_000
    assert shape.endswith("of net.onnx")
