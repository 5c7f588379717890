"""Differences from a reference, and what they mean, in a line."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.core.records import CrossCheck, Difference

EXACT = 1e-5  # ``verify.TOLERANCE`` of float32, without its imports


def difference(measured: Difference) -> str:
    """The relative difference beside its tolerance, and what that means.

    Outputs are called the same where no more than the rounding of float32 is allowed of any.
    """
    widest = max((measured.tolerance, *measured.tolerances.values()))
    verdict = "same outputs" if widest <= EXACT else "within the tolerance"
    if not measured.passed:
        verdict = "NOT the same outputs"
    where = f", at {measured.where}" if measured.where else ""
    return (
        f"{measured.max_rel:.2g} of the output range (tolerance {measured.tolerance:.2g}, "
        f"{measured.samples} inputs{where}): {verdict}"
    )


def cross_checks(checks: Sequence[CrossCheck]) -> str:
    """The agreement of a second oracle with the reference, in words."""
    alone = [each for each in checks if not each.oracle]
    if not checks or alone:
        reason = f" ({alone[0].model}: {alone[0].reason})" if alone else ""
        return f"was not held against ONNX Runtime{reason}"
    return f"agrees with {checks[0].oracle}, within {max(x.difference for x in checks):.2g}"
