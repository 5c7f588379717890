"""The engine of one machine: a process for each task, several at once.

A task has a process of its own, so that its peak memory is its own and a crash costs one row. It is
the copy of a process that has imported all that a training takes and computed nothing.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import cast

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.training import WEIGHTS
from prunedeploy.sweep.work import Done, Failure, Result, Task, measure, train_in

PR_SET_PDEATHSIG = 1  # of sys/prctl.h
IMPORTED = [  # once, before the first task
    "prunedeploy.sweep.work",
    "prunedeploy.sparsify.methods",
    "torch._dynamo",  # by which channels are exported
    "onnxscript",
    "sklearn.datasets",  # where it is: the digits
]


class Local:
    """Runs ``jobs`` tasks at once."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def __call__(self, tasks: Sequence[Task], done: Done) -> None:
        """Carry out all of one kind; measurements one at a time, with nothing beside them."""
        jobs = 1 if any(task.kind == "measure" for task in tasks) else self.jobs
        waiting = list(reversed(tasks))
        running: dict[Connection, tuple[Task, ForkServerProcess]] = {}
        with _ended(running.values()):
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.pop()
                    receiver, process = _start(task)
                    running[receiver] = task, process
                for ready in wait(list(running)):
                    receiver = cast(Connection, ready)
                    task, process = running[receiver]
                    result = _result(task, receiver, process)
                    del running[receiver]
                    done(task, result)


@contextmanager
def _ended(running: Iterable[tuple[Task, ForkServerProcess]]) -> Iterator[None]:
    """No process goes on after an interruption."""
    try:
        yield
    finally:
        for _, process in running:
            process.kill()
            process.join()


def _start(task: Task) -> tuple[Connection, ForkServerProcess]:
    # torch's threads do not survive a fork of this process: the server that is forked has none
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(task, sender))
    process.start()
    sender.close()
    return receiver, process


def _result(task: Task, receiver: Connection, process: ForkServerProcess) -> Result:
    """What the process sent; where it sent nothing, how it ended."""
    try:
        result: Result = receiver.recv()
    except EOFError:
        process.join()
        result = Failure(task.name, f"its process ended with {process.exitcode}")
    receiver.close()
    process.join()
    return result


def _child(task: Task, sender: Connection) -> None:
    """Carry out one task; ended with the server of processes, which ends where this one does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and ends all
    try:
        if task.kind == "train":
            result: Result = train_in(task, task.folder)
        else:
            result = measure(task, task.folder / WEIGHTS)
    except UserError as error:
        result = Failure(task.name, " ".join(str(error).split()))
    except Exception as error:
        traceback.print_exc()
        result = Failure(task.name, f"a bug: {type(error).__name__}: {error}")
    with suppress(BrokenPipeError):  # nobody is there any more
        sender.send(result)
