"""The parts of a report about machines that are not at hand: measured there, or predicted."""

from __future__ import annotations

import numpy as np

from prunedeploy.core.markdown import Row, cell, markdown
from prunedeploy.core.measurements import Forecast
from prunedeploy.prediction import text as forecasts
from prunedeploy.prediction.record import Prediction
from prunedeploy.remote.record import DeviceRun, RemoteResult

TOP = 10  # layers of a forecast that are named


def remote_section(result: RemoteResult) -> str:
    """A section on a device: its measurements or why there are none, and the predictions."""
    parts = [f"### Speed on {cell(result.target)}, {result.kind}", _device(result)]
    if result.problem:
        parts.append(f"**Not complete:** {cell(result.problem)}.")
    if result.missing:
        parts.append("Missing: " + "; ".join(map(cell, result.missing)) + ".")
    if result.runs:
        headers = ("", "batch", "p50, ms", "p90, ms", "p99, ms", "times faster", "difference")
        rows = [_run(run, result) for run in result.runs]
        parts.append(markdown((*headers, "predicted beforehand, ms"), rows))
    return "\n\n".join(parts)


def _device(result: RemoteResult) -> str:
    named = [str(result.identity.get(key, "")) for key in ("board", "processor", "l4t", "system")]
    throttled = {True: "It was throttled.", False: "It was not throttled.", None: ""}
    identity = ", ".join(cell(x) for x in named if x) or "it says nothing of itself"
    text = (
        f"Measured over SSH on {cell(result.host)}: {identity}. {throttled[result.throttled]} "
        "Differences were verified here, relative to the range of the output; ratios are to the "
        "fastest run of the dense baseline."
    )
    return " ".join(text.split())


def _run(run: DeviceRun, result: RemoteResult) -> Row:
    name = f"{run.name} ({run.runtime}, {run.precision})"
    off = f"{run.difference.max_rel:.1e}" if run.difference is not None else "-"
    if run.error or not run.samples_ns:
        return (name, str(run.batch), "-", "-", "-", "-", run.error or off, "")
    p50, p90, p99 = (float(x) for x in np.percentile(np.array(run.samples_ns) / 1e6, (50, 90, 99)))
    gain = result.ratios.get(run.name)
    faster = f"{gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f})" if gain is not None else "-"
    forecast = _forecast(run, result)
    predicted = ""
    if forecast is not None:
        predicted = f"{forecasts.band(forecast)}: {forecasts.error(forecast, p50)}"
    times = (f"{p50:.3f}", f"{p90:.3f}", f"{p99:.3f}")
    return (name, str(run.batch), *times, faster, off, predicted)


def _forecast(run: DeviceRun, result: RemoteResult) -> Forecast | None:
    """That of the same runtime, precision and batch, of the model and not of its baseline."""
    if run.of != "model":
        return None
    for each in result.predicted:
        same = (each.runtime, each.precision, each.batch) == (run.runtime, run.precision, run.batch)
        if same and (each.runtime != "sparse" or each.threads == run.threads):
            return each
    return None


def forecast_section(prediction: Prediction) -> str:
    """A forecast, and the layers that take most of it."""
    whole = prediction.forecast.seconds
    slowest = sorted(prediction.layers, key=lambda layer: -layer.seconds)[:TOP]
    rows = [
        (
            x.name,
            x.kernel,
            f"{1e3 * x.seconds:.3f}",
            f"{x.seconds / whole:.1%}" if whole else "",
            x.limit,
        )
        for x in slowest
    ]
    parts = [
        f"### {cell(prediction.model)} on {cell(prediction.target)}, {prediction.kind}",
        f"{forecasts.line(prediction.forecast).capitalize()}. From {cell(prediction.basis)}.",
        markdown(("layer", "kernel", "ms", "share", "bound by"), rows, texts=(0, 1, 4)),
    ]
    if prediction.notes:
        parts.append("Not known: " + "; ".join(map(cell, prediction.notes)) + ".")
    return "\n\n".join(parts)
