"""Runs cases in a process of its own, so that one that crashes, hangs or takes all memory is known.

A case is known by target, seed and number: worker and supervisor make the same one of these.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from fuzz_targets import Target
from mutate import Case, changed

PATIENCE = 10  # times as long as its seconds a case may take by the clock
AT_ONCE = 4000  # cases of one worker, which may leak
#: what workers find imported already
PRELOAD = [
    *("torch", "onnx", "onnxruntime", "prunedeploy.checkpoint", "prunedeploy.cli.commands"),
    *("prunedeploy.engines.building", "prunedeploy.inspection.inspect"),
    *("prunedeploy.reports.report", "prunedeploy.shrinking.pipeline", "prunedeploy.measure.bench"),
]


def target_of(name: str) -> Target:
    """The target of this name; ``module:name`` for one of another module's ``TARGETS``."""
    module, _, own = name.rpartition(":")
    return importlib.import_module(module or "fuzz_targets").TARGETS[own]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Found:
    """A case that did what none may do."""

    target: str
    number: int
    what: str


@dataclass
class Tally:
    """What became of the cases of a target."""

    target: str
    cases: int = 0
    found: list[Found] = field(default_factory=list)
    seconds: float = 0.0  # the longest of a case
    peak: int = 0  # the most memory, in bytes


class Corpus:
    """The seeds of a target, written into ``folder`` once."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.fixed = target, folder / "fixed"
        if not folder.exists():
            _in_child(target.seeds, folder)
        self.seeds = [_read(path) for path in sorted(folder.glob("[0-9]*"))]

    def case(self, seed: int, number: int) -> Case:
        """The case of this number; the first ones are the seeds as they are."""
        if number < len(self.seeds):
            return dict(self.seeds[number])
        random = Random(f"{self.target.name} {seed} {number}")
        case = changed(random.choice(self.seeds), self.seeds, random)
        self.target.repair(case, random)
        return case


def _in_child(make: Callable[[Path], None], folder: Path) -> None:
    process = _context().Process(target=_quietly, args=(make, folder))
    process.start()
    process.join()
    if process.exitcode:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"the seeds in {folder} cannot be made")


def _context() -> Any:
    """Processes begin as copies of one that has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _quietly(make: Callable[[Path], None], folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        make(folder)


def _read(folder: Path) -> Case:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write(case: Case, folder: Path) -> None:
    """The files of a case."""
    for name, data in case.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def attempt(target: Target, case: Case, fixed: Path, folder: Path) -> str:
    """What is wrong with how ``target`` took ``case``; empty where nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(case, folder)
    os.chdir(folder)
    try:
        target.run(fixed)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = [
            f"{Path(x.filename).name}:{x.lineno} {x.name}"
            for x in frames
            if "/tests/" not in x.filename
        ]
        return f"{type(error).__name__}: {str(error)[:300]!a} at {' > '.join(at[-4:])}"
    finally:
        os.chdir(folder.parent)
    return ""


def _work(
    name: str, corpus: Path, seed: int, numbers: range, folder: Path, answers: Connection
) -> None:
    """The process that runs cases: after each it answers with its number, error, seconds, peak."""
    import torch

    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    with (folder / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # crashes are expected, and cores are large; so are the files that a case may write
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    made = Corpus(target_of(name), corpus)
    resource.setrlimit(resource.RLIMIT_FSIZE, (made.target.memory, made.target.memory))
    answers.send(None)
    for number in numbers:
        case = made.case(seed, number)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        begin = _seconds()
        wrong = attempt(made.target, case, made.fixed, folder / "case")
        answers.send((number, wrong, _seconds() - begin, _memory(os.getpid(), "VmHWM")))


def _seconds() -> float:
    """Seconds of the processor, those of programs that were called included."""
    return sum(os.times()[:4])


def _seconds_of(process: int) -> float:
    """The same of another process, without its children; 0 where it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory(process: int, key: str) -> int:
    """A line of /proc/PID/status in bytes; 0 where the process is gone."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) << 10
    return 0


def run(tally: Tally, corpus: Path, seed: int, numbers: range, until: float) -> Iterator[Found]:
    """Run cases of a target, until the time ``until``; what is found is given and counted."""
    begin = numbers.start
    while begin < numbers.stop and time.monotonic() < until:
        with tempfile.TemporaryDirectory(prefix="prunedeploy-fuzz-") as name:
            part = range(begin, min(begin + AT_ONCE, numbers.stop))
            for found in _watched(tally, corpus, seed, part, Path(name), until):
                tally.found.append(found)
                yield found
        begin = numbers.start + tally.cases if numbers.start + tally.cases > begin else begin + 1


def _watched(
    tally: Tally, corpus: Path, seed: int, part: range, folder: Path, until: float
) -> Iterator[Found]:
    context = _context()
    answers, theirs = context.Pipe(duplex=False)
    arguments = (tally.target, corpus, seed, part, folder, theirs)
    worker = context.Process(target=_work, args=arguments)
    worker.start()
    theirs.close()
    number, target = part.start, target_of(tally.target)
    try:
        _answer(answers, worker.pid, folder, math.inf, target.memory)  # it is ready
        while number < part.stop and time.monotonic() < until:
            answer = _answer(answers, worker.pid, folder, target.seconds, target.memory)
            tally.cases += 1
            if isinstance(answer, str):
                yield Found(tally.target, number, answer)
                return
            number, wrong, seconds, peak = answer
            tally.seconds, tally.peak = max(tally.seconds, seconds), max(tally.peak, peak)
            if not wrong and peak > target.memory:
                wrong = f"takes {peak >> 20} MB"
            if wrong:
                yield Found(tally.target, number, wrong)
            number += 1
    finally:
        worker.kill()
        worker.join()


def _answer(answers: Connection, process: int, folder: Path, seconds: float, memory: int) -> Any:
    """What the worker says of its next case, or in words why it never will."""
    begin, end = _seconds_of(process), time.monotonic() + PATIENCE * seconds
    try:
        while not answers.poll(0.05):
            if (peak := _memory(process, "VmRSS")) > memory:
                return f"takes more than {peak >> 20} MB"
            if _seconds_of(process) - begin > seconds or time.monotonic() > end:
                return f"hangs: longer than {seconds} s"
        return answers.recv()
    except EOFError:
        log = (folder / "log").read_bytes()[-500:] if (folder / "log").exists() else b""
        return f"the process died: {log.decode('utf-8', 'replace')!a}"
