"""Prints what one shot made of a checkpoint."""

from __future__ import annotations

import textwrap

from prunedeploy.cli.tables import count, say, share, table
from prunedeploy.sparsify.oneshot.model import SparsifyResult

WIDTH = 80


def print_one_shot(done: SparsifyResult) -> None:
    """Print the layers, the file, the result in a sentence, and the next command."""
    arch = f" ({done.arch})" if done.arch else ""
    say(f"{done.source}{arch} -> {done.output} in {done.seconds:.1f} s", "")
    rows = [
        (
            each.name.removesuffix(".weight"),
            each.pattern,
            count(each.weights),
            share(each.kept / each.weights),
            f"{each.error:.2%}",
        )
        for each in done.layers
    ]
    table(("layer", "units", "weights", "kept", "error"), rows, left=frozenset({0, 1}))
    say()
    for note in done.notes:
        say(*textwrap.wrap(f"note: {note}", WIDTH))
    say(*textwrap.wrap(f"{done.summary}.", WIDTH), "", f"next: {done.next_step}")
