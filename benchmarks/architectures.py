"""Ten architectures with 30 % of their channels dead, for prunedeploy and its peers, in Markdown.

    python benchmarks/architectures.py [-o docs/peers.md] [--only NAME] [--peers ENV/bin/python]

Random weights and BatchNorm statistics, images of 64 x 64. How many weights can go is counted from
structures written down by hand (benchmarks/peers/networks.py). The peers run only with ``--peers``,
in an environment of their own (benchmarks/requirements-peers.txt); without it the table shows what
they did last time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from peers import run
from peers.ours import NAME
from peers.result import Result, Results

HEADING = """## Architectures

Images of 64 x 64, random weights and BatchNorm statistics, 30 % of the channels dead (of the three
heads of ViT one, and 30 % of its neurons). A cell has the share that is gone of the weights that
can go, and the largest error relative to the range of the outputs. WRONG: above 1e-5. "+ n": values
of a map that is added instead (what constants come to under zero padding).

*clean*: all that writes a dead channel is zero. *beta*: it holds a constant that is not zero.
*columns*: nobody reads it. *independent*: zero rows layer by layer; what can go is what goes
together.
"""


def render(keys: list[str], results: Results) -> Iterable[str]:
    """The table, then messages of tools that failed and what refused where we left something."""
    tools = (NAME, *run.PEERS)
    yield HEADING
    yield f"| network | regime | weights that can go | {' | '.join(tools)} |"
    yield "|---|---|---:|" + "---|" * len(tools)
    for key in keys:
        name, regime = key.split(" @ ")
        cells = [cell(results[key].get(tool)) for tool in tools]
        removable = f"{results[key][NAME].removable:,}"
        yield f"| {name} | {regime} | {removable} | {' | '.join(cells)} |"
    yield "\nFailures, and what prunedeploy left:\n"
    for key in keys:
        for tool, result in results[key].items():
            if result.message:
                yield f"- {key.replace(' @ ', ', ')}, {tool}: {result.message}"


def cell(result: Result | None) -> str:
    """Share and error."""
    if result is None:
        return ""
    if result.failed:
        return "CRASH"
    maps = f" + {result.added:,}" if result.added else ""
    wrong = "" if result.right else "**WRONG** "
    return f"{wrong}{max(result.share, 0):.3f} / {result.error:.0e}{maps}"


if __name__ == "__main__":
    run.main("architectures", render)
