"""Forecasts in words. Every one of them says that it is predicted."""

from __future__ import annotations

from prunedeploy.core.measurements import Forecast


def band(forecast: Forecast) -> str:
    """27.3 (21.8 to 34.1), in milliseconds."""
    middle, low, high = (f"{1e3 * x:.3g}" for x in (forecast.seconds, forecast.low, forecast.high))
    return f"{middle} ({low} to {high})"


def error(forecast: Forecast, measured_ms: float) -> str:
    """+4 %: how far the forecast lies from what was measured."""
    return f"{1e3 * forecast.seconds / measured_ms - 1:+.0%}"


def line(forecast: Forecast) -> str:
    """One line: what would run, and how long it should take."""
    threads = f", {forecast.threads} thread{'s' * (forecast.threads > 1)}"
    how = f"{forecast.runtime}, {forecast.precision}, batch {forecast.batch}"
    where = threads if forecast.runtime in ("ort", "sparse") else ""
    return f"predicted, not measured: {how}{where}: {band(forecast)} ms"
