"""Prints what ``optimize`` made: the network before and after, the choice, the result."""

from __future__ import annotations

import shlex
import textwrap

from prunedeploy.cli.show.measurements import print_caution
from prunedeploy.cli.show.next_steps import print_choice
from prunedeploy.cli.tables import WIDTH, count, ratio, say, table
from prunedeploy.optimizing.optimize import OptimizeResult


def print_optimized(done: OptimizeResult) -> None:
    """Print the sizes, the times of all runtimes, the files, and the result as the last line."""
    for line in done.shrunk.found:
        say(f"  {line}")
    before, after = done.shrunk.before, done.shrunk.after
    rows = [
        (what, count(old), count(new), ratio(old, new))
        for what, old, new in (
            ("parameters", before.parameters, after.parameters),
            ("non-zeros", before.nonzero, after.nonzero),
            ("MACs, one sample", before.macs, after.macs),
        )
    ]
    table(("", "dense", "shrunk", "ratio"), rows)
    if done.engine is not None:
        print_choice(done.engine.manifest.choice)
    say()
    for what, path in (
        ("engine", done.engine.path if done.engine else None),
        ("bundle", done.bundle),
        ("model", done.shrunk.model),
        ("report", done.report),
    ):
        if path is not None:
            say(f"{what:7} {path}")
    if done.measured is not None:
        print_caution(done.measured)
    say()
    say(*textwrap.wrap(f"{done.summary}.", WIDTH))
    say()
    if done.engine is not None:
        engine = str(done.engine.path)
        say(f"next: prunedeploy serve {shlex.quote(engine)}")
        say("or, in Python:")
        say(f"  prunedeploy.open({engine!r}).run({{...}})")
    elif done.bundle is not None:
        say("next: copy the bundle to the machine, and run build.sh in it there")
