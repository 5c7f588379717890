"""Runs what may end the process in a child that is a copy of it, and says what became of it.

Libraries in C and C++ that were not written for strangers' files follow a null pointer or take all
memory there is; no exception handler helps there. The child is a fork, which costs a few
milliseconds, knows all that its parent does, and inherits no thread but its own.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from prunedeploy.core.budget import Budget

NO_MEMORY = 3  # an exit status of the child


def trial(work: Callable[[], object], budget: Budget) -> str | None:
    """Try ``work`` in a child, within the processor time and memory of ``budget``.

    What it raises and returns is lost, as are its changes to objects: who calls does it again.

    Returns:
        Why it must not be done in this process; None where it came to an end.

    Example:
        >>> trial(lambda: os.abort(), Budget(0))
        'ends the process (SIGABRT)'
    """
    pid = os.fork()
    if not pid:
        _work(work, budget)
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:  # Ctrl-C, SIGTERM
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return f"takes more than {budget.seconds} s of processor time"
    if code < 0:
        return f"ends the process ({signal.Signals(-code).name})"
    return "takes all memory" if code == NO_MEMORY else None


def _work(work: Callable[[], object], budget: Budget) -> None:
    """Never returns: nothing of the parent's, such as what it has yet to print, is done twice."""
    code = 0
    try:
        faulthandler.disable()  # it would print what the parent says in one line
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        _limit(budget)
        work()
    except MemoryError:
        code = NO_MEMORY
    except Exception:
        pass  # the parent meets the same
    finally:
        os._exit(code)


def _limit(budget: Budget) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    for what, soft in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, budget.seconds),
        (resource.RLIMIT_AS, size + budget.unpacked),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (soft if hard < 0 else min(soft, hard), hard))
