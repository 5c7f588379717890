"""Targets with one planted fault each, for the tests of the harness."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from fuzz_targets import Target, command


def _seed(folder: Path) -> None:
    (folder / "0").mkdir(parents=True)
    (folder / "0/net.txt").write_bytes(bytes(range(64)))


def _raises(fixed: Path) -> None:
    raise KeyError("planted")


def _dies(fixed: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hangs(fixed: Path) -> None:
    while True:
        pass


def _sleeps(fixed: Path) -> None:
    time.sleep(3600)


def _takes_memory(fixed: Path) -> None:
    held = bytearray(1 << 30)
    held[:: 1 << 12] = bytes(len(held) >> 12)  # every page
    del held


def _runs_code(fixed: Path) -> None:
    Path("PWNED").touch()
    command("inspect", "absent.pt")


def _half(fixed: Path) -> None:
    """A fault of some cases only: those that were made shorter."""
    if len(Path("net.txt").read_bytes()) < 64:
        raise KeyError("planted")


TARGETS = {
    # touching so much memory takes a busy machine's kernel seconds
    name: Target(name, _seed, run, 1, seconds=9 if run is _takes_memory else 0.5, memory=1 << 30)
    for name, run in {
        "raises": _raises,
        "dies": _dies,
        "hangs": _hangs,
        "sleeps": _sleeps,
        "takes-memory": _takes_memory,
        "runs-code": _runs_code,
        "half": _half,
    }.items()
}
