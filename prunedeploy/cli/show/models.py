"""Models that were lowered, and forecasts of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunedeploy.cli.show.verdicts import difference
from prunedeploy.cli.tables import say, share, table
from prunedeploy.passes import RoundWeights
from prunedeploy.prediction import text
from prunedeploy.prediction.record import Prediction

if TYPE_CHECKING:
    from prunedeploy.engines.lowering import LowerResult


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of a model, and why there is none in some runtimes."""

    predictions: tuple[Prediction, ...]
    refused: tuple[str, ...]


def print_lowered(result: LowerResult) -> None:
    """Print what was written, how far it is from the source, and what each pass did and refused."""
    say(f"{result.model}: opset {result.opset}, IR version {result.ir_version}, {result.precision}")
    say(f"  from {result.source}: {difference(result.difference)}")
    for line in result.found:
        say(f"  {line}")
    for report in result.passes:
        taken = [note for note in report.result.notes if note.status == "taken"]
        if report.name == RoundWeights.name and taken:
            count = sum(note.count for note in taken)
            say(f"  {count:,} weights rounded to {result.weights}, in layers: {len(taken)}")
        for note in report.result.notes:
            if note.status != "taken":
                say(f"  {report.name}: {note.where}: {note.reason}")


def print_forecasts(forecasts: Forecasts, layers: bool) -> None:
    """Print a line a forecast, and with ``layers`` a table of the layers."""
    for each in forecasts.predictions:
        size = f", {each.size}," if each.size else ""
        say(f"{each.model}{size} on {each.target}: {text.line(each.forecast)}")
        for note in each.notes:
            say(f"  {note}")
        if layers:
            whole = each.forecast.seconds
            rows = [
                (x.name, x.kernel, f"{1e3 * x.seconds:.3f}", share(x.seconds / whole), x.limit)
                for x in each.layers
            ]
            table(("layer", "kernel", "ms", "share", "bound by"), rows, left=frozenset({0, 1, 4}))
    for basis in dict.fromkeys(each.basis for each in forecasts.predictions):
        say(f"  from {basis}")
    for why in forecasts.refused:
        say(f"  not predicted: {why}")
