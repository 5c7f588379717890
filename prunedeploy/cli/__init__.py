"""The command line: ``prunedeploy COMMAND ...``, and what becomes of every error.

Exit status: 0 done; 1 done, but the result is not what was asked for (outputs differ from the
reference, a self-check under ``--strict`` fails); 2 a mistake that the user can mend, reported in
one line; 130 interrupted with Ctrl-C; 141 the reader of a pipe went away; 143 ended by SIGTERM. A
bug keeps its traceback.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.log import LOGGER
from prunedeploy.core.text import printable, shortened

COMPLETE = "_PRUNEDEPLOY_COMPLETE"  # set by the scripts of --show-completion

# What the machine lacks, whichever file it was noticed at.
_ENVIRONMENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    from prunedeploy.cli import logs  # imports typer

    with logs.kept():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("onnx_ir").setLevel(
        logging.CRITICAL
    )  # what it logs is reported in other words
    if not sys.warnoptions:  # a library's warnings are for its callers; -W brings them back
        warnings.simplefilter("ignore")
    try:
        with _unwinding():
            status = _run(given)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except _Terminated:
        return _fail("terminated", 143)
    except UserError as error:
        return _fail(str(error), 2)
    except MemoryError as error:
        return _fail(f"out of memory: {str(error) or 'the model does not fit this machine'}", 2)
    except BrokenPipeError:
        _discard_stdout()
        return 141
    except OSError as error:
        if not _is_users(error, given):
            raise
        if error.filename is None:
            _discard_stdout()
        at = f"{error.filename}: " if error.filename else ""
        return _fail(f"{at}{error.strerror or error}", 2)
    return status


class _Terminated(BaseException):
    """SIGTERM; no ``Exception``, so that nobody takes it for an error of their own."""


@contextmanager
def _unwinding() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that nothing half-written stays behind."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # whoever runs us has made arrangements
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> None:
    raise _Terminated


def _run(arguments: list[str]) -> int:
    import typer

    from prunedeploy.cli.commands import app

    command = typer.main.get_command(app)
    if COMPLETE in os.environ:  # a shell asks what may follow
        command.main(arguments, prog_name="prunedeploy")
    try:
        # Not command.main(): it prints its own lines for errors and for Ctrl-C.
        with command.make_context("prunedeploy", arguments) as context:
            command.invoke(context)
    except typer.Exit as exit_:
        return int(exit_.exit_code)
    except Exception as error:
        describe = getattr(error, "format_message", None)  # click's, wherever this typer keeps it
        if describe is None:
            raise
        where = getattr(getattr(error, "ctx", None), "command_path", "prunedeploy")
        raise UserError(f"{describe()} (see {where} --help)") from None
    return 0


def _fail(message: str, status: int) -> int:
    """One line on stderr, whatever the message holds."""
    line = printable(shortened(" ".join(message.split())))
    LOGGER.error("%s", line)
    print(f"prunedeploy: error: {line}", file=sys.stderr)
    return status


def _is_users(error: OSError, arguments: Sequence[str]) -> bool:
    """True for an error of this machine or of a path that was given, False for a bug."""
    if error.errno in _ENVIRONMENT:
        return True
    if not isinstance(error.filename, str):
        return False
    about = Path(error.filename)
    return any(about == Path(a) or Path(a) in about.parents for a in arguments if a != ".")


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, or the interpreter complains about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
