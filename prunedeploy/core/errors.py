"""Errors of the user's input or machine: one line, with advice on how to mend it.

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line and exits with status 2.

    The message says what is wrong and, after a colon or a full stop, what to do next.
    """


class OutputError(UserError):
    """What is to be written cannot be: the place is taken, or the machine does not let us."""


class UnsupportedModelError(UserError):
    """A runtime that lacks what the model needs; another may have it.

    ``reason`` says so without advice, for whoever tries several runtimes; ``node`` is the name of
    the one that is in the way, where it is one.
    """

    def __init__(self, runtime: str, reason: str, node: str = "") -> None:
        other = "hybrid here, or ort" if runtime == "sparse" else "ort"
        super().__init__(f"the {runtime} runtime cannot compute {reason}: use --runtime {other}")
        self.reason = f"it cannot compute {reason}"
        self.node = node


class NoGainError(UserError):
    """A runtime could compute the model, but no faster than ONNX Runtime; ``reason`` says why."""

    def __init__(self, runtime: str, reason: str) -> None:
        super().__init__(f"the {runtime} runtime would gain nothing: {reason}; use --runtime ort")
        self.reason = reason


class UnknownOperatorError(UserError):
    """An operator, or a version of one, that the reference interpreter does not know."""


class CompilerError(UserError):
    """A C compiler that is there, or was named, does not do its work."""


class MissingExtra(UserError):  # noqa: N818 - it names what is missing, not an error
    """A part that is installed on request is not there; the message names the extra."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'prunedeploy[{extra}]'")
        self.extra = extra


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Put the file's name in front of an error about what is in it, unless it is there.

    What the machine lacks (``MissingExtra``, ``CompilerError``) and what is to be written
    (``OutputError``) are not about the file.

    Raises:
        UserError: as it was raised, with its type, attributes and cause.

    Example:
        >>> with naming_file("net.onnx"):
        ...     raise UserError("a loop would take too many steps")
        Traceback (most recent call last):
        ...
        prunedeploy.core.errors.UserError: net.onnx: a loop would take too many steps
    """
    try:
        yield
    except (MissingExtra, CompilerError, OutputError):
        raise
    except UserError as error:
        if Path(path).name not in str(error):
            error.args = (f"{path}: {error}", *error.args[1:])
        raise


def first_cause(error: BaseException) -> str:
    """What went wrong first, in a line: libraries wrap an error once for each call it crosses."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
