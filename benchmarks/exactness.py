"""Exact shrink over all reference networks in the four regimes, as a table in Markdown.

    python benchmarks/exactness.py [--networks resnet18,vgg16] [--float32] [-o docs/exactness.md]

Regimes: *clean* (all that writes a channel is zero), *beta* (the same, but BatchNorm's shift is
not, so that constants flow into padded convolutions), *columns* (channels that nobody reads),
*independent* (zero rows layer by layer, not aligned across residual sums). "attainable" is counted
by hand from each family's structure (tests/support/regimes.py), apart from the pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import zoo

from prunedeploy.models import RECIPES, by_name

HEADER = (
    "| network | regime | parameters | left | attainable | share removed | float64 | float32 |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)


def table(names: Iterable[str], single: bool) -> Iterable[str]:
    """One line a network and regime; the largest difference relative to the output's range."""
    yield HEADER
    for name in names:
        for regime in zoo.REGIMES:
            yield line(name, regime, single)


def line(name: str, regime: str, single: bool) -> str:
    """One row of the table."""
    recipe = by_name(name)
    begin = time.perf_counter()
    exact = zoo.check(recipe, regime, torch.float64)
    rounded = zoo.check(recipe, regime, torch.float32) if single else None
    print(f"{name} {regime}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    known = exact.attainable >= 0
    share = (exact.before - exact.after) / (exact.before - exact.attainable) if known else None
    cells = (
        name,
        regime,
        f"{exact.before:,}",
        f"{exact.after:,}",
        f"{exact.attainable:,}" if known else "not derived",
        f"{share:.4f}" if share is not None else "",
        f"{exact.difference.max_rel:.1e}",
        f"{rounded.difference.max_rel:.1e}" if rounded is not None else "",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description="exactness over the reference networks")
    parser.add_argument("--networks", default=",".join(recipe.name for recipe in RECIPES))
    parser.add_argument("--float32", action="store_true", help="in float32 too")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    lines = []
    for each in table(arguments.networks.split(","), arguments.float32):
        print(each, flush=True)
        lines.append(each)
    if arguments.output:
        arguments.output.write_text(
            "# Exactness over the reference networks\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
