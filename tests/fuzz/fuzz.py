"""Fuzzing from the command line.

    python tests/fuzz/fuzz.py [--minutes 30 | --count 1000] [--seed 0] [--from 0] [TARGET...]
    python tests/fuzz/fuzz.py --replay FOLDER

The first runs targets in turn; what it finds is written to ``fuzz-findings/`` with the command that
runs it again. The second is that command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzz_targets import TARGETS, Target  # noqa: E402
from harness import Corpus, Found, Tally, attempt, run, target_of, write  # noqa: E402

FINDINGS = Path("fuzz-findings")
# cases of the fastest targets between two others: few at first, so that a short run has all of them
FIRST, ROUND = 60, 2000


def _keep(found: Found, corpus: Corpus, seed: int) -> Path:
    """Write what was found: its files, and what it did."""
    folder = FINDINGS / f"{found.target}.{seed}.{found.number}"
    write(corpus.case(seed, found.number), folder)
    (folder.parent / f"{folder.name}.txt").write_text(f"{found.what}\n")
    return folder


def _replay(folder: Path) -> int:
    target = target_of(folder.name.partition(".")[0])
    with tempfile.TemporaryDirectory() as name:
        corpus = Corpus(target, Path(name) / "corpus")
        files = [path for path in folder.rglob("*") if path.is_file()]
        case = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        wrong = attempt(target, case, corpus.fixed, Path(name) / "case")
    print(wrong or "success, or one line for the user")
    return bool(wrong)


def _fuzz(arguments: argparse.Namespace) -> int:
    names = arguments.targets or list(TARGETS)
    chosen = [target_of(name) for name in names]
    tallies = {target.name: Tally(name) for name, target in zip(names, chosen, strict=True)}
    with contextlib.suppress(KeyboardInterrupt):  # what was done until then counts
        _rounds(arguments, chosen, tallies)
    for tally in tallies.values():
        print(
            f"{tally.target:14} {tally.cases:7,} cases, {len(tally.found)} findings, "
            f"at most {tally.seconds:.2f} s, {tally.peak >> 20} MB"
        )
    return any(tally.found for tally in tallies.values())


def _rounds(
    arguments: argparse.Namespace, chosen: Sequence[Target], tallies: Mapping[str, Tally]
) -> None:
    """Some cases of each target in turn, until all are done or the time is over."""
    until = time.monotonic() + arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="prunedeploy-corpus-") as name:
        place = (arguments.corpus or Path(name)).resolve()
        corpora = {x.name: Corpus(x, place / x.name) for x in chosen}
        done, count = False, FIRST
        while not done and time.monotonic() < until:
            done = True
            for target in chosen:
                tally = tallies[target.name]
                begin = arguments.begin + tally.cases
                end = min(begin + max(1, count // target.cost), arguments.begin + arguments.count)
                done = done and begin >= end
                numbers = range(begin, end)
                for found in run(tally, place / target.name, arguments.seed, numbers, until):
                    kept = _keep(found, corpora[target.name], arguments.seed)
                    print(f"{found.what}\n  python tests/fuzz/fuzz.py --replay {kept}", flush=True)
            count = min(2 * count, ROUND)


def main(given: Sequence[str] | None = None) -> int:
    """Fuzz or replay; status 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--count", type=int, default=10**9, help="cases of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", type=int, default=0, dest="begin", metavar="NUMBER")
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="where seeds are kept")
    parser.add_argument("--replay", type=Path, metavar="FOLDER")
    arguments = parser.parse_args(given)
    return _replay(arguments.replay) if arguments.replay else _fuzz(arguments)


if __name__ == "__main__":
    sys.exit(main())
