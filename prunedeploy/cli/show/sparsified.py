"""Prints what a recipe gave: accuracy, zeros, latencies, notes, where the files are."""

from __future__ import annotations

from pathlib import Path

from prunedeploy.cli.tables import count, say, table
from prunedeploy.sparsify.row import Row


def print_row(row: Row, folder: Path) -> None:
    """Print the row of a recipe whose files are in ``folder``."""
    outcome, cost, method = row.outcome, row.cost, row.recipe.method
    say(f"network   {row.recipe.network.name}, {method.name}, seed {row.recipe.seed}")
    held = outcome.selection_accuracy
    selection = "" if held is None else f"; {held:.2%} of those held out for selection"
    say(f"accuracy  {outcome.accuracy:.2%} of {count(outcome.tested)} test examples{selection}")
    say(f"zeros     {outcome.weight_sparsity:.2%} of the weights of all layers")
    say(f"removed   {outcome.unit_sparsity:.2%} of the units, {method.sparsity:.2%} asked for")
    say(f"training  {count(outcome.steps)} steps in {cost.seconds:.3g} s")
    deployed = row.deployed
    if deployed is not None:
        say(f"shrunk    {count(deployed.parameters)} parameters, {count(deployed.macs)} MACs")
        say()
        times = [
            (
                latency.runtime,
                str(latency.batch),
                f"{latency.milliseconds:.3g} {latency.kind}",
                "-" if latency.speed is None else f"{latency.speed.value:.2f}x",
            )
            for latency in deployed.latencies
        ]
        table((f"on {deployed.target}", "batch", "ms", "to dense"), times)
    say()
    for part in (outcome, cost, deployed):
        for note in () if part is None else part.notes:
            say(f"note      {note}")
    say(f"files     {folder}")
