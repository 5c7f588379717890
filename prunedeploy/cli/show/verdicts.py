"""Differences from a reference, and what they mean, in a line."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.core.records import CrossCheck, Difference


def difference(found: Difference) -> str:
    """The relative difference beside its tolerance, and what that means."""
    verdict = "same outputs" if found.passed else "NOT the same outputs"
    where = f", at {found.where}" if found.where else ""
    return (
        f"{found.max_rel:.2g} of the output range (tolerance {found.tolerance:.2g}, "
        f"{found.samples} inputs{where}): {verdict}"
    )


def cross_checks(found: Sequence[CrossCheck]) -> str:
    """Whether a second oracle agrees with what was compared with."""
    alone = [each for each in found if not each.oracle]
    if not found or alone:
        reason = f" ({alone[0].model}: {alone[0].reason})" if alone else ""
        return f"was not held against ONNX Runtime{reason}"
    return f"agrees with {found[0].oracle}, within {max(x.difference for x in found):.2g}"
