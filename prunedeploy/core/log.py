"""The logger ``prunedeploy``: a step of a long computation is one record at level INFO.

Notices are at level WARNING.

logging.basicConfig(level=logging.INFO)  # shows them
logging.getLogger("prunedeploy").setLevel(logging.WARNING)  # hides them again
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from prunedeploy.core.progress import Counted, Notice

LOGGER = logging.getLogger("prunedeploy")
LOGGER.addHandler(logging.NullHandler())


@dataclass
class Logged:
    """Logs each message, and passes it on to ``callback`` where there is one."""

    callback: Callable[[str], None] | None
    last: str = ""

    def __call__(self, message: str) -> None:
        """One step, in one line."""
        again = isinstance(message, Counted) and message == self.last  # another part of a stage
        self.last = message
        if not again:
            level = logging.WARNING if isinstance(message, Notice) else logging.INFO
            LOGGER.log(level, "%s", message)
        if self.callback is not None:
            self.callback(message)


def logged(progress: Callable[[str], None] | None) -> Logged:
    """``progress`` with every message logged, once however often this is applied."""
    return progress if isinstance(progress, Logged) else Logged(progress)
