"""All kinds of files that a stranger makes to break who reads them, and what commands do with them.

    python tests/support/hostile_files.py FOLDER [--kinds WORD...] [--commands WORD...] [--jobs 2]

The script writes each kind of file into ``FOLDER``, gives it to every command that reads such a
file, and prints a table: file, command, exit status, seconds of the processor, megabytes, line. A
row that is not as promised begins with ``!``; the exit status is 1 where there is one. The seconds
and megabytes are those of the whole process and of those that it started; the limits hold for what
is beyond the imports, which is what the same command takes for two bytes that are no such file. A
file that is taken, since it is only odd, is held to what the command takes for a good one.

A maker is given an empty folder and returns the path that a command is to be given: of a few
megabytes at most.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

import hostile_engines  # noqa: E402
from hostile_containers import OTHERS  # noqa: E402
from hostile_engines import ENGINES  # noqa: E402
from hostile_models import MODELS  # noqa: E402
from hostile_pickles import CHECKPOINTS, Maker  # noqa: E402

KINDS: dict[str, Maker] = {**CHECKPOINTS, **OTHERS, **MODELS, **ENGINES}
MAX_SECONDS = 2.0  # of the processor
MAX_MEGABYTES = 500
PATIENCE = 120  # seconds by the clock
FILE = "FILE"  # the file in a command
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", FILE),
    "inspect --mask": ("inspect", "good.pt", "--mask", FILE),
    "shrink": ("shrink", FILE, "-o", "out.onnx"),
    "optimize": ("optimize", FILE, "-o", "out"),
    "lower": ("lower", FILE, "--target", "jetson", "-o", "out.onnx"),
    "build ort": ("build", FILE, "--runtime", "ort", "-o", "out"),
    "build sparse": ("build", FILE, "--runtime", "sparse", "-o", "out"),
    "build --target": ("build", FILE, "--target", "jetson-nano", "-o", "out"),
    "emit": ("build", FILE, "--emit", "c", "-o", "out"),
    "predict": ("predict", FILE, "--target", "jetson"),
    "bench": ("bench", FILE, "--baseline", "good.onnx", "--rounds", "2"),
    "bench --baseline": ("bench", "good.engine", "--baseline", FILE, "--rounds", "2"),
    "bench --data": ("bench", "good.engine", "--baseline", "good.onnx", "--data", FILE),
    "run": ("run", FILE, "good.npy", "-o", "y.npy"),
    "run input": ("run", "good.engine", FILE, "-o", "y.npy"),
    "report": ("report", FILE),
    "serve-repo": ("serve-repo", FILE, "-o", "repo"),
    "of a target": ("predict", "good.onnx", "--target", "evil"),
    "emit for a target": ("build", "good.onnx", "--target", "evil", "--emit", "c", "-o", "out"),
}
READS = {  # by the suffix of the file
    ".onnx": (
        *("inspect", "shrink", "optimize", "lower", "build ort", "build sparse", "build --target"),
        *("emit", "predict", "bench --baseline"),
    ),
    ".npy": ("run input", "bench --data"),
    ".npz": ("inspect", "inspect --mask", "shrink", "optimize", "run input", "bench --data"),
    ".json": ("report", "inspect", "shrink", "optimize"),
    ".engine": ("bench", "run", "serve-repo"),  # serve would go on with one that is right
    ".gz": ("build ort", "run", "bench"),
    ".toml": ("of a target", "emit for a target"),
}
TEXTS = (".onnxtxt", ".textproto")  # read as models are


@dataclass(frozen=True)
class Row:
    """What a command did with a file; ``wrong`` says what of that it may not."""

    kind: str
    command: str
    status: int
    seconds: float
    megabytes: int
    imports: float  # seconds of these, and of the work on a good file for one that was taken
    line: str
    wrong: str


def commands_for(path: Path) -> tuple[str, ...]:
    """The commands that read such a file."""
    if path.suffix in TEXTS or path.name == "net.json":
        return READS[".onnx"]
    return READS.get(path.suffix, ("inspect", "inspect --mask", "shrink", "optimize"))


def run(kind: str, commands: Sequence[str], folder: Path) -> list[Row]:
    """Make the file of a kind in ``folder``, and give it to commands that read it."""
    place = folder / kind
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    path = KINDS[kind](place)
    rows = [_row(kind, name, path, place) for name in commands_for(path) if name in commands]
    shutil.rmtree(place)
    return rows


def _row(kind: str, command: str, path: Path, place: Path) -> Row:
    """Give a file to a command.

    It may be taken where it is right, though odd: within the same limits.
    """
    good(place, COMMANDS[command])
    before = _listing(place)
    name = str(path.relative_to(place))
    words = [name if word == FILE else word for word in COMMANDS[command]]
    status, said, seconds, megabytes = measured(words, place)
    imports, room = usual(command, path.suffix, place.parent, status == 0)
    made = sorted(x for x, _ in _listing(place) ^ before)
    wrong = [_wrong(status, said, path.name if name != "." else place.name)]
    wrong += [f"left {made[:3]}"] * bool(status and made)
    wrong += [f"took {seconds:.1f} s"] * (seconds > MAX_SECONDS + imports)
    wrong += [f"took {megabytes} MB"] * (megabytes > MAX_MEGABYTES + room)
    for each in made:
        if (place / each).is_dir():
            shutil.rmtree(place / each)
        else:
            (place / each).unlink(missing_ok=True)
    line = said.strip().replace("\n", " / ").removeprefix("prunedeploy: error: ")
    found = "; ".join(filter(None, wrong))
    return Row(kind, command, status, seconds, megabytes, imports, line, found)


@cache
def usual(command: str, suffix: str, folder: Path, taken: bool) -> tuple[float, int]:
    """Seconds and megabytes of a command that is given a good file, or what it cannot read."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        (place / f"usual{suffix}").write_bytes(b"\x08\x08")
        if taken and suffix in (".onnx", ".pt"):
            hostile_engines.good(f"good{suffix}", place / f"usual{suffix}")
        good(place, COMMANDS[command])
        words = [f"usual{suffix}" if word == FILE else word for word in COMMANDS[command]]
        _, _, seconds, megabytes = measured(words, place)
    return seconds, megabytes


def _wrong(status: int, said: str, name: str) -> str:
    if status == 0:
        return ""
    if status != 2:
        return f"status {status}"
    lines = said.splitlines()
    if len(lines) != 1 or not lines[0].startswith("prunedeploy: error: "):
        return f"{len(lines)} lines"
    if not lines[0].isprintable():
        return "unprintable"
    return "" if name in lines[0] else "does not name the file"


# A process begins with the peak memory of the one that it was forked from, so a small one starts
# the command, and writes what it used behind its errors.
LAUNCHER = """
import os, signal, sys, time
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[2:]], os.environ)
end = time.monotonic() + float(sys.argv[1])
while not (done := os.wait4(child, os.WNOHANG))[0]:
    if time.monotonic() > end:
        os.kill(child, signal.SIGKILL)
    time.sleep(0.02)
use = done[2]
status = os.waitstatus_to_exitcode(done[1])
print(status, use.ru_utime + use.ru_stime, use.ru_maxrss >> 10, file=sys.stderr)
"""


def measured(words: Sequence[str], folder: Path) -> tuple[int, str, float, int]:
    """Exit status, errors, seconds of the processor and megabytes of a command in ``folder``."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder.parent / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    line = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(PATIENCE)]
    line += ["-P", "-m", "prunedeploy", *words]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, check=True)
    said = done.stderr.decode("utf-8", "backslashreplace").rstrip("\n")
    said, _, use = said.rpartition("\n")
    status, seconds, megabytes = use.split()
    return int(status), said, float(seconds), int(megabytes)


def good(place: Path, words: Sequence[str]) -> None:
    """What a command needs besides the file: a network, an engine, an input."""
    for name in words:
        if name.startswith("good."):
            hostile_engines.good(name, place / name)


def _listing(folder: Path) -> set[tuple[str, int]]:
    """Names and sizes."""
    return {
        (str(path.relative_to(folder)), path.lstat().st_size if path.is_file() else 0)
        for path in folder.rglob("*")
    }


def table(kinds: Sequence[str], commands: Sequence[str], folder: Path, jobs: int) -> Iterator[Row]:
    """Every kind through every command that reads it."""
    with ThreadPoolExecutor(jobs) as pool:
        for rows in pool.map(lambda kind: run(kind, commands, folder), kinds):
            yield from rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), metavar="WORD")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), metavar="WORD")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    said = partial(print, flush=True)
    said(f"  {'file':22} {'command':16} status  CPU s  (imports)    MB  line")
    rows = []
    for row in table(given.kinds, given.commands, folder, given.jobs):
        rows.append(row)
        mark, line = "!" if row.wrong else " ", f"[{row.wrong}] " * bool(row.wrong) + row.line
        said(
            f"{mark} {row.kind:22} {row.command:16} {row.status:6} {row.seconds:6.2f}  "
            f"({row.imports:7.2f}) {row.megabytes:5}  {line[:200]}"
        )
    wrong = sum(bool(row.wrong) for row in rows)
    said(
        f"{len(rows)} runs, {sum(row.status == 2 for row in rows)} refused, {wrong} not as promised"
    )
    most = max(rows, key=lambda row: row.seconds - row.imports)
    said(
        f"at most {most.seconds - most.imports:.2f} s beyond the imports ({most.kind},"
        f" {most.command}) and {max(row.megabytes for row in rows)} MB in all"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
