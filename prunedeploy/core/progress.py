"""What a long computation tells of itself: its stage, and how many of its parts are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Notice(str):
    """What the user should know of, and not a stage: it stays where stages come and go."""


class Counted(str):
    """A stage of which ``done`` of ``total`` parts are done; as text it is the stage alone."""

    done: int
    total: int

    def __new__(cls, stage: str, done: int, total: int) -> Counted:
        """``stage`` in one line."""
        self = super().__new__(cls, stage)
        self.done, self.total = done, total
        return self


def counted(progress: Callable[[str], None], stage: str, items: Sequence[T]) -> Iterator[T]:
    """Yield ``items``, and tell before each one how many are done.

    Args:
        progress: is told.
        stage: in one line.
        items: the parts of the stage.

    Example:
        ``for image in counted(progress, "computing images", images): ...``
    """
    for done, item in enumerate(items):
        progress(Counted(stage, done, len(items)))
        yield item
