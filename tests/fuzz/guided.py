"""Fuzzing of one target with Atheris: inputs that reach new code are kept and mutated further.

    python tests/fuzz/guided.py TARGET [-max_total_time=600] [other options of libFuzzer]

Inputs are the files of a case, one after the other; mutations are those of ``mutate``, and
libFuzzer's own of the bytes. A finding is written as those of ``fuzz.py`` are.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

# What reads files; to instrument all that computes takes minutes.
READERS = [f"prunedeploy.{name}" for name in ("checkpoint", "core", "graph", "inspection")]

with atheris.instrument_imports(include=READERS):
    import fuzz
    from harness import Corpus, attempt, target_of, write
    from mutate import Case, edited

    for name in ("checkpoint.read", "checkpoint.state", "graph.model", "inspection.inspect"):
        importlib.import_module(f"prunedeploy.{name}")  # later, in functions, would be too late


def _packed(case: Case) -> bytes:
    """The files of a case as one input."""
    return b"".join(len(case[name]).to_bytes(4, "little") + case[name] for name in sorted(case))


def _unpacked(data: bytes, names: list[str]) -> Case:
    """The case again, whatever became of the input."""
    case = {}
    for name in names:
        length = int.from_bytes(data[:4], "little")
        case[name], data = data[4 : 4 + length], data[4 + length :]
    return case


def main(name: str, options: list[str]) -> None:
    """Until something is found, or as long as the options say."""
    target = target_of(name)
    folder = Path(tempfile.mkdtemp(prefix="prunedeploy-fuzz-")).resolve()
    corpus = Corpus(target, folder / "corpus")
    names = sorted(corpus.seeds[0])
    seeds = [seed for seed in corpus.seeds if sorted(seed) == names]
    (folder / "seeds").mkdir()
    for number, seed in enumerate(seeds):
        (folder / "seeds" / str(number)).write_bytes(_packed(seed))
    found = fuzz.FINDINGS.resolve() / f"{name}.guided.0"

    def once(data: bytes) -> None:
        case = _unpacked(data, names)
        if wrong := attempt(target, case, corpus.fixed, folder / "case"):
            write(case, found)
            raise RuntimeError(f"{wrong}: python tests/fuzz/fuzz.py --replay {found}")

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.3:
            return atheris.Mutate(data, size)  # type: ignore[no-any-return]
        case = _unpacked(data, names)
        chosen = random.choice(names)
        case[chosen] = edited(case[chosen], chosen, random.choice(seeds)[chosen], random)
        target.repair(case, random)
        return _packed(case)[:size]

    longest = 4 * max(len(_packed(seed)) for seed in seeds)
    arguments = [sys.argv[0], f"-max_len={longest}", *options, str(folder / "seeds")]
    atheris.Setup(arguments, once, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
