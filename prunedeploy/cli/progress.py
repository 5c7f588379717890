"""Progress on stderr: what is being done and for how long, once it takes over a second."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from prunedeploy.core.log import LOGGER, logged
from prunedeploy.core.text import printable

_QUIET_S = 1.0  # what is over sooner is not announced

shown = True  # False with --quiet or --verbose (see ``cli/logs.py``)


@contextmanager
def working(stage: str) -> Iterator[Callable[[str], None]]:
    """Show ``stage``, then every stage that the yielded callback is given, while the block runs.

    Standard output belongs to the result alone, so whatever a library prints meanwhile goes to
    standard error. On a terminal one line is rewritten with the time that has passed and is gone
    at the end; elsewhere a new stage is a new line, ``[  1.2 s] building``. Every stage is logged,
    and nothing else where ``shown`` is False.
    """
    ticker = _Ticker(stage)
    LOGGER.info("%s", stage)
    if shown:
        ticker.start()
    try:
        with redirect_stdout(sys.stderr):
            yield logged(ticker.announce)
    finally:
        ticker.done.set()
        if ticker.is_alive():
            ticker.join()


class _Ticker(threading.Thread):
    """Prints from a thread of its own, so that the time goes on while one long call runs."""

    def __init__(self, stage: str) -> None:
        super().__init__(daemon=True)
        self.stage = printable(stage)
        self.done = threading.Event()

    def announce(self, stage: str) -> None:
        self.stage = printable(stage)

    def run(self) -> None:
        begin, shown, terminal = time.monotonic(), "", sys.stderr.isatty()
        while not self.done.wait(0.2 if shown and terminal else _QUIET_S):
            line = f"[{time.monotonic() - begin:5.1f} s] {self.stage}"
            if terminal:
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            elif shown != self.stage:
                print(line, file=sys.stderr, flush=True)
            shown = self.stage
        if terminal and shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
