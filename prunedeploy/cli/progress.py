"""Progress on a terminal: what is being done, how much of it is done, and for how long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING

from prunedeploy.core.log import LOGGER, logged
from prunedeploy.core.progress import Counted, Notice
from prunedeploy.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_QUIET_S = 1.0  # what is over sooner is not announced
_BAR = 20  # characters
_WIDE = 64  # terminals of so many characters have room for a bar

shown = True  # False with --quiet or --verbose (see ``cli/logs.py``)


@contextmanager
def working(stage: str) -> Iterator[Callable[[str], None]]:
    """Show ``stage``, then every stage that the yielded callback is given, while the block runs.

    Standard output belongs to the result alone, so whatever a library prints meanwhile goes to
    standard error. On a terminal one line there shows the time, the stage, and where its parts are
    counted a bar and the time that is left; it is gone at the end. Elsewhere none is shown. Notices
    are printed where the block ends well: a refusal is one line. All of it is logged, and nothing
    else done where ``shown`` is False.
    """
    line = _Line(stage)
    LOGGER.info("%s", stage)
    drawn = shown and sys.stderr.isatty()
    with redirect_stdout(sys.stderr), _drawn(line) if drawn else nullcontext():
        yield logged(line.announce)
    for notice in line.notices if shown else ():
        print(notice, file=sys.stderr)


class _Line:
    """The line as it is now; rich draws it anew several times a second."""

    def __init__(self, stage: str) -> None:
        self._begin = time.monotonic()
        self._since = (self._begin, 0)  # this stage is shown, and how much of it was done then
        self._stage = stage
        self.notices: list[str] = []

    def announce(self, stage: str) -> None:
        """From now on ``stage`` is being done, or more of it is done."""
        if isinstance(stage, Notice):
            self.notices.append(printable(stage))
            return
        if stage != self._stage:
            done = stage.done if isinstance(stage, Counted) else 0
            self._since = (time.monotonic(), done)
        self._stage = stage

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        stage, now = self._stage, time.monotonic()
        passed, tail = Text(f"[{now - self._begin:5.1f} s] "), Text()
        if isinstance(stage, Counted) and stage.total > 1:
            if options.max_width >= _WIDE:
                full = _BAR * stage.done // stage.total
                tail.append(" ").append("━" * full, "green").append("━" * (_BAR - full), "dim")
            since, already = self._since
            tail.append(f" {_left(stage, stage.done - already, now - since)}")
        text = Text(printable(stage))
        text.truncate(max(options.max_width - len(passed) - len(tail), 1), overflow="ellipsis")
        line = Text.assemble(passed, text, tail)
        line.truncate(options.max_width, overflow="ellipsis")
        yield line


def _left(stage: Counted, done: int, seconds: float) -> str:
    """How many parts are done; how long the others take if they take as long as ``done`` did."""
    text = f"{stage.done}/{stage.total}"
    if not done:
        return text
    return f"{text}, {seconds / done * (stage.total - stage.done):.0f} s left"


@contextmanager
def _drawn(line: _Line) -> Iterator[None]:
    """Draw ``line`` on standard error once the block has run for a second."""
    over = threading.Event()
    thread = threading.Thread(target=_draw, args=(line, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _draw(line: _Line, over: threading.Event) -> None:
    if over.wait(_QUIET_S):
        return
    from rich.console import Console
    from rich.live import Live

    # what libraries print meanwhile goes above the line
    with Live(line, console=Console(stderr=True), transient=True, refresh_per_second=8):
        over.wait()
