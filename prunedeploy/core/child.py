"""Runs what may end the process in a child that is a copy of it, and says what became of it.

Libraries in C and C++ that were not written for strangers' files follow a null pointer or take all
memory there is; no exception handler helps there. The child is a fork, which costs a few
milliseconds, knows all that its parent does, and inherits no thread but its own.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prunedeploy.core.budget import Budget

DONE, NO_MEMORY = b"\0", b"\3"  # what a child says of its end
PATIENCE = 20  # seconds by the clock for each of processor time: machines are shared
LOOK = 50  # milliseconds after which a child that says nothing is looked for


def trial(work: Callable[[], object], budget: Budget) -> str | None:
    """Try ``work`` in a child, within the processor time and memory of ``budget``.

    What it raises and returns is lost, as are its changes to objects: who calls does it again.
    Where the system has no such limits, the clock's is the only one.

    Returns:
        Why it must not be done in this process; None where it came to an end.

    Example:
        >>> trial(lambda: os.abort(), Budget(0))
        'ends the process (SIGABRT)'
    """
    limit = PATIENCE * budget.seconds
    reading, writing = os.pipe()
    try:
        try:
            pid = os.fork()
            if not pid:
                _work(work, budget, writing)
        finally:
            os.close(writing)  # the child's alone, so that its end closes the pipe
        child = _Child(pid)
        try:
            said = _answer(child, reading, limit)
        finally:  # Ctrl-C and SIGTERM too
            child.kill()
    finally:
        os.close(reading)
    if said is None:
        return f"takes more than {limit} s"
    if said:
        return "takes all memory" if said == NO_MEMORY else None
    if child.code == -signal.SIGXCPU:
        return f"takes more than {budget.seconds} s of processor time"
    if child.code is not None and child.code < 0:
        return f"ends the process ({signal.Signals(-child.code).name})"
    return "ends the process"


class _Child:
    """A child of this process until it is gone; its number may then be that of another.

    ``code`` is its exit code. It stays None where nobody is told: SIGCHLD is ignored, as some
    services start their programs, or another thread waits for all children.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.gone = pid, False
        self.code: int | None = None

    def look(self, options: int = os.WNOHANG) -> bool:
        """Whether it is gone."""
        if not self.gone:
            try:
                ended, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                self.gone = True
            else:
                if ended:
                    self.gone, self.code = True, os.waitstatus_to_exitcode(status)
        return self.gone

    def kill(self) -> None:
        """End it and wait for its end."""
        if not self.look():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.look(0)


def _answer(child: _Child, pipe: int, seconds: float) -> bytes | None:
    """What the child says of its end; nothing where it died, None where time is up.

    The end of the pipe is not enough to know that it died: what another thread forked meanwhile
    holds the pipe open as well.
    """
    end = time.monotonic() + seconds
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        gone = child.look()  # first: whatever it has said is in the pipe then
        ready = poll.poll(0 if gone else min(1000 * left, LOOK))
        if ready and (said := os.read(pipe, 1)):
            return said
        if gone:
            return b""
        if ready:  # the pipe has ended, and the child is about to
            time.sleep(0.001)
    return None


def _work(work: Callable[[], object], budget: Budget, pipe: int) -> None:
    """Never returns: nothing of the parent's, such as what it has yet to print, is done twice."""
    said = DONE
    try:
        faulthandler.disable()  # it would print what the parent says in one line
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        _limit(budget)
        work()
    except MemoryError:
        said = NO_MEMORY
    except Exception:
        pass  # the parent meets the same
    finally:
        try:
            os.write(pipe, said)
        finally:
            os._exit(0)


def _limit(budget: Budget) -> None:
    """As far as the system can: a trial without a limit is still better than none."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: budget.seconds}
    with suppress(OSError, ValueError, IndexError):  # no /proc
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + budget.unpacked
    for what, soft in limits.items():
        with suppress(OSError, ValueError):
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (soft if hard < 0 else min(soft, hard), hard))
