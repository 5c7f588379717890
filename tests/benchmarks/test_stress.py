"""benchmarks/stress.py, for a moment: every answer right, or one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stress.py"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["sparse", "ort"])
def test_nothing_is_wrong(runtime: str) -> None:
    command = [sys.executable, SCRIPT, "--seconds", "3", "--reloads", "50", "--runtime", runtime]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["many_threads", "forks", "reloads", "replaced"]
    assert all(" right" in line for line in lines)
    assert "50 right" in lines[2]
