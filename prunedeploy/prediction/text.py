"""Forecasts in words. Every one of them says that it is predicted."""

from __future__ import annotations

from prunedeploy.core.records import Forecast


def band(found: Forecast) -> str:
    """27.3 (21.8 to 34.1), in milliseconds."""
    middle, low, high = (f"{1e3 * x:.3g}" for x in (found.seconds, found.low, found.high))
    return f"{middle} ({low} to {high})"


def error(found: Forecast, measured_ms: float) -> str:
    """+4 %: how far the forecast lies from what was measured."""
    return f"{1e3 * found.seconds / measured_ms - 1:+.0%}"


def line(found: Forecast) -> str:
    """One line: what would run, and how long it should take."""
    threads = f", {found.threads} thread{'s' * (found.threads > 1)}"
    how = f"{found.runtime}, {found.precision}, batch {found.batch}"
    where = threads if found.runtime in ("ort", "sparse") else ""
    return f"predicted, not measured: {how}{where}: {band(found)} ms"
