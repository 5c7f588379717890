"""Random networks at opsets 7 to 25 through ``shrink``: ONNX Runtime before against after.

    python benchmarks/random_graphs.py [--count 5000] [--first 0]

The networks have two to six operators of those that channels pass through, with dead channels,
constants and dead readers among them (tests/support/generators.py). Prints a row an opset, every
network that differs or is refused, and exits with 1 where one differs beyond rounding. Ended by
Ctrl-C it prints what it has; ``--first`` goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from grown import OPSETS, Outcome, outcome

HEADER = (
    "| opset | networks | smaller | parameters left | same | by rounding | refused | differ "
    "| largest difference |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def row(name: str, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    before, after = sum(o.before for o in outcomes), sum(o.after for o in outcomes)
    counts = [
        sum(o.status == s for o in outcomes) for s in ("same", "rounding", "refused", "differs")
    ]
    cells = (
        *(name, len(outcomes), sum(o.after < o.before for o in outcomes)),
        f"{after / max(before, 1):.1%}",
        *counts,
        f"{max((o.difference for o in outcomes if o.status == 'same'), default=0):.1e}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Parse, grow, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="of the networks, by number")
    given = parser.parse_args()
    by_opset: dict[int, list[Outcome]] = defaultdict(list)
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(given.first, given.first + given.count):
            opset, seed = OPSETS[number % len(OPSETS)], number // len(OPSETS)
            with tempfile.TemporaryDirectory() as folder:
                each = outcome(opset, seed, Path(folder))
            by_opset[opset].append(each)
            if each.status != "same":
                print(f"opset {opset} seed {seed}: {each}", flush=True)
    print(HEADER)
    for opset, some in sorted(by_opset.items()):
        print(row(str(opset), some))
    everything = [o for some in by_opset.values() for o in some]
    print(row("all", everything))
    sys.exit(any(o.status == "differs" for o in everything))


if __name__ == "__main__":
    main()
