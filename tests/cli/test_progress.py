"""The line of progress, on a terminal of some width and elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

STAGE = "loading/a/network/whose/name/is/longer/than/the/terminal/is/wide/at/any/width/of/these"
PROGRAM = f"""
import time
from prunedeploy.cli import progress
from prunedeploy.core.progress import Notice, counted
progress._QUIET_S = 0.05
with progress.working({STAGE!r}) as tell:
    time.sleep(1)  # a busy machine draws late
    tell(Notice("a notice"))
    for part in counted(tell, "timing 8 rounds", range(8)):
        print("of a library")
        time.sleep(0.2)
print("result")
"""


def on_terminal(columns: int) -> tuple[str, str]:
    """What the program writes to standard output, and to a terminal as standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        text=True,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return out, written.decode()


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_gets_one_line_that_fits(columns: int) -> None:
    out, written = on_terminal(columns)
    assert out == "result\n"
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    lines = re.split("\r\n|\r|\n", text)
    assert max(map(len, lines)) <= columns
    assert any(re.match(r"\[ *\d+\.\d s\] loading/.*…$", line) for line in lines)
    assert any(re.search(r"timing.* [1-7]/8, \d+ s left$", line) for line in lines)
    assert ("━" in written) == (columns == 80)
    assert lines[-2:] == ["a notice", ""]


def test_elsewhere_only_what_stays_is_printed() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "result\n"
    assert done.stderr == "of a library\n" * 8 + "a notice\n"


def test_a_refusal_is_one_line() -> None:
    program = PROGRAM.replace('print("of a library")', "raise SystemExit('refused')")
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.stderr == "refused\n"
