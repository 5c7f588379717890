"""Which nodes of a hybrid engine are in which runtime, in a few lines."""

from __future__ import annotations

from collections import Counter

from prunedeploy.cli.tables import say, share
from prunedeploy.runtimes.hybrid.placement import Placement

MAX_REASONS = 5


def print_placement(placement: Placement) -> None:
    """Print what each runtime computes, and the reasons of what is in ONNX Runtime."""
    sparse = sum(len(part.nodes) for part in placement.parts)
    parts, nodes = len(placement.parts), sparse + len(placement.stock)
    say(
        f"  sparse: {sparse} of {nodes} nodes in {parts} part{'s' * (parts != 1)}, "
        f"{share(placement.share)} of the multiply-adds"
    )
    if placement.stock:
        say(f"  in ONNX Runtime: {len(placement.stock)}")
    reasons = Counter((each.operator, each.reason) for each in placement.stock)
    for (operator, reason), count in reasons.most_common(MAX_REASONS):
        say(f"    {operator}{f' ({count} times)' if count > 1 else ''}: {reason}")
    if len(reasons) > MAX_REASONS:
        say(f"    and {len(reasons) - MAX_REASONS} reasons more, in placement.json")
