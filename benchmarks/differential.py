"""The reference interpreter against ONNX Runtime, as a table: operators x opsets x forms.

    python benchmarks/differential.py [--operators Conv,Softmax] [--seed 0] [--rows]

The forms are those of tests/support/forms, for every version of every operator since opset 7:
types, ranks, each attribute set and left out, inputs and outputs left out; the same in the types
that no table lists, and with the attributes of two. ONNX Runtime runs them with its optimisations
off. What it cannot run is compared with the operator's definition in ONNX, with onnx's own code, or
with ONNX Runtime in float32 or in an earlier version. *By reason*: the two differ, or we refuse,
and tests/support/forms/known.py says who is right and why. Exits with 1 where a form differs
otherwise.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from forms import base, compare, known
from forms.derived import derived

from prunedeploy.reference.randoms import OPERATORS as RANDOM
from prunedeploy.reference.registry import NOT_EVALUATED

COLUMNS = ("agree", "definition", "onnx", "float32", "earlier", "by reason", "not compared")
HEADER = (
    f"| operator and version | opsets | forms | {' | '.join(COLUMNS)} | refused | differ |\n"
    f"|---|---|---:{'|---:' * (len(COLUMNS) + 2)}|"
)


def counted(schema: base.Schema) -> Counter[str]:
    """What became of all forms of an operator's version; prints those that differ."""
    counts: Counter[str] = Counter()
    for form in (*base.forms(schema), *derived(schema)):
        outcome = compare.outcome(schema, form)
        if known.known(schema.name, outcome.status, form.label):
            outcome = compare.Outcome("by reason")
        elif outcome.status in ("differ", "refused"):
            where = f"{schema.name}-{schema.since_version} ({form.label})"
            print(f"{outcome.status}: {where}: {outcome.reason}", file=sys.stderr)
        counts[outcome.status] += 1
    return counts


def row(name: str, opsets: str, counts: Counter[str]) -> str:
    """One line of the table."""
    numbers = [counts[column] for column in (*COLUMNS, "refused", "differ")]
    return f"| {' | '.join(map(str, (name, opsets, counts.total(), *numbers)))} |"


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", default="", help="with commas; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--rows", action="store_true", help="a row for each version")
    given = parser.parse_args()
    base.seed = given.seed
    warnings.simplefilter("ignore")
    wanted = set(filter(None, given.operators.split(",")))
    everything: Counter[str] = Counter()
    operators = versions = 0
    if given.rows:
        print(HEADER)
    for name, schemas in base.versions().items():
        if name in NOT_EVALUATED or name in RANDOM or (wanted and name not in wanted):
            continue
        operators += 1
        for schema in (s for s in schemas if not s.deprecated):
            counts, versions = counted(schema), versions + 1
            everything += counts
            if given.rows:
                opsets = f"{base.opset(schema)} to {base.last_opset(schema)}"
                print(row(f"{name}-{schema.since_version}", opsets, counts), flush=True)
    if not given.rows:
        print(HEADER)
    print(row(f"{operators} operators, {versions} versions", "7 and later", everything))
    sys.exit(bool(everything["differ"]))


if __name__ == "__main__":
    main()
