"""Micro-patterns, 16 channels of which 4 are dead, for prunedeploy and its peers, in Markdown.

    python benchmarks/patterns.py [-o docs/peers.md] [--only NAME] [--peers ENV/bin/python]

Every row is a small network with channels dead by construction (benchmarks/peers/catalogue.py); how
many weights can go is counted by hand. The peers run only with ``--peers``, in an environment of
their own (benchmarks/requirements-peers.txt); without it the table shows what they did last time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from peers import run
from peers.ours import NAME
from peers.result import Result, Results

HEADING = """## Patterns

EXACT: all weights that can go are gone, and the outputs are the same (1e-5 of their range). *part*:
the share that is gone. *kept*: nothing went, and the outputs are the same. WRONG: the largest error
relative to the range of the outputs. CRASH: an error or a crash of the tool. "+ n": values of a map
that is added instead (what constants come to under zero padding).

*clean*: all that writes a dead channel is zero. *beta*: it holds a constant that is not zero.
*columns*: nobody reads it. *independent*: zero rows layer by layer. *denormal*: weights of 1e-41.
"""


def render(keys: list[str], results: Results) -> Iterable[str]:
    """The table, then what refused where we left something."""
    tools = (NAME, *run.PEERS)
    yield HEADING
    yield f"| pattern | regime | {' | '.join(tools)} |"
    yield "|---|---|" + "---|" * len(tools)
    for key in keys:
        name, regime = key.split(" @ ")
        cells = [cell(results[key].get(tool)) for tool in tools]
        yield f"| {name} | {regime} | {' | '.join(cells)} |"
    left = [key for key in keys if results[key][NAME].message]
    if left:
        yield "\nWhat prunedeploy left, and why:\n"
    for key in left:
        yield f"- {key.replace(' @ ', ', ')}: {results[key][NAME].message}"


def cell(result: Result | None) -> str:
    """A verdict in a word or two."""
    if result is None:
        return ""
    words = {
        "EXACT": "EXACT",
        "part": f"part {result.share:.2f}",
        "kept": "kept" if result.removable else "kept (nothing can go)",
        "WRONG": f"**WRONG** {result.error:.0e}",
        "CRASH": "CRASH",
    }
    maps = f" + {result.added:,}" if result.added and result.right else ""
    return words[result.verdict] + maps


if __name__ == "__main__":
    run.main("patterns", render)
