"""The options ``--verbose``, ``--quiet`` and ``--log-file``, which every command has."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from prunedeploy.cli import progress
from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.log import LOGGER
from prunedeploy.core.text import printable


class _Lines(logging.Formatter):
    """One line a record, whatever names are in it; a traceback keeps its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


@contextmanager
def kept() -> Iterator[None]:
    """Undo at the end what the options set up; a bug's traceback goes into the log file too."""
    level, handlers = LOGGER.level, list(LOGGER.handlers)
    try:
        yield
    except Exception:
        LOGGER.exception("ended by a bug")
        raise
    finally:
        for handler in set(LOGGER.handlers) - set(handlers):
            LOGGER.removeHandler(handler)
            handler.close()
        LOGGER.setLevel(level)
        progress.shown = True


def with_logs(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the three options, which it does not see; it may have its own ``verbose``.

    Typer reads the signature.
    """
    own = inspect.signature(command, eval_str=True)
    added = [each for each in _OPTIONS if each.name not in own.parameters]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        if given["verbose"]:
            _show_steps()
        if given["quiet"]:
            _hide_progress()
        if given["log_file"] is not None:
            _log_to(given["log_file"])
        command(**{name: given[name] for name in own.parameters})

    parameters = [*own.parameters.values(), *added]
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapped


def _option(name: str, kind: object, default: object) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=kind)


_OPTIONS = (
    _option(
        "verbose",
        Annotated[bool, typer.Option("--verbose", "-v", help="Show every step in a line.")],
        False,
    ),
    _option(
        "quiet", Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")], False
    ),
    _option(
        "log_file",
        Annotated[
            Path | None, typer.Option(metavar="FILE", help="Append every step to this file.")
        ],
        None,
    ),
)


def _show_steps() -> None:
    progress.shown = False  # the lines take its place
    steps = logging.StreamHandler(sys.stderr)
    steps.addFilter(lambda record: record.levelno < logging.ERROR)  # those are printed anyway
    _attach(steps, "[%(asctime)s] %(message)s", "%H:%M:%S")


def _hide_progress() -> None:
    if not progress.shown:
        raise UserError("--verbose and --quiet say the opposite: give one of them")
    progress.shown = False


def _log_to(path: Path) -> None:
    try:
        file = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    _attach(file, "%(asctime)s %(levelname)s %(message)s")
    LOGGER.info("prunedeploy %s", " ".join(sys.argv[1:]))


def _attach(handler: logging.Handler, form: str, date: str | None = None) -> None:
    handler.setFormatter(_Lines(form, date))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
