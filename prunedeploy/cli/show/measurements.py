"""Measured times, and profiles of engines step by step."""

from __future__ import annotations

import textwrap

from prunedeploy.cli.tables import count, say, share, size, table
from prunedeploy.core.measurements import BenchResult, Measurement, Profile
from prunedeploy.core.statistics import summary
from prunedeploy.prediction import text as forecasts
from prunedeploy.reports.headline import caution


def print_benchmark(done: BenchResult) -> None:
    """Print the baseline and every candidate, a line each, at each size."""
    rows = [row for each in done.each_size for row in _rows(each)]
    headers = ("engine", "runs on", "p50 ms", "p90 ms", "p99 ms", "inputs/s", "faster [95 %]")
    table(
        (*headers, "peak memory", "difference", "accuracy", "changed"),
        rows,
        left=frozenset({0, 1}),
    )
    base = done.baseline
    say()
    say(
        f"{done.kind}: batch {base.batch}, threads {base.threads or 'left to the runtime'}, "
        f"{len(base.samples_ns)} runs of each in turn"
    )
    for each in done.each_size:
        print_caution(each)
        for forecast, m in zip(each.predicted, (each.baseline, *each.candidates), strict=False):
            if forecast is not None:
                off = forecasts.error(forecast, summary(m).p50)
                say(f"{_name(m, each)}: {forecasts.line(forecast)}, {off} of the measured p50")
    for each in done.each_size:
        for profile in each.profiles:
            _print_profile(profile)


def _rows(done: BenchResult) -> list[tuple[str, ...]]:
    """A row for the baseline and for every candidate."""
    rows = []
    for i, m in enumerate((done.baseline, *done.candidates)):
        times = summary(m)
        gain = done.ratios[i - 1] if i else None
        right = f"{m.accuracy.correct / m.accuracy.samples:.2%}" if m.accuracy else "-"
        changed = count(m.accuracy.changed_predictions) if m.accuracy else "-"
        rows.append(
            (
                _name(m, done) if i else f"{_name(m, done)} (baseline)",
                f"{m.runtime}/{m.provider}",
                *(f"{ms:.3f}" for ms in (times.p50, times.p90, times.p99)),
                f"{times.throughput:,.1f}",
                f"{gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}]" if gain else "1",
                size(m.peak_memory_bytes),
                f"{m.difference.max_rel:.1e}",
                right,
                changed,
            )
        )
    return rows


def _name(measured: Measurement, done: BenchResult) -> str:
    """The name of what was measured, with the size where there are several."""
    return f"{measured.name}, {done.size}" if done.size else measured.name


def print_caution(done: BenchResult) -> None:
    """Warn where the machine was busy with other work."""
    if warning := caution(done):
        say(*textwrap.wrap(f"caution: {warning}", 80, subsequent_indent="  "))


def _print_profile(profile: Profile) -> None:
    """Print a line a step: its time and its share of all, and what it computes in it."""
    total = sum(step.seconds for step in profile.steps)
    rows = [
        (
            step.name,
            step.choice or step.kind,
            f"{1e3 * step.seconds:.3f}",
            share(step.seconds / total) if total else "-",
            f"{1e-9 * step.flops / step.seconds:.1f}" if step.flops and step.seconds else "-",
            f"{1e-9 * step.bytes / step.seconds:.1f}" if step.bytes and step.seconds else "-",
            share(step.nonzeros / step.weights) if step.weights else "-",
        )
        for step in profile.steps
    ]
    say()
    table(
        ("step", "computed as", "ms", "share", "GFLOP/s", "GB/s", "non-zero"),
        rows,
        left=frozenset({0, 1}),
    )
    say()
    say(
        f"{profile.name}: batch {profile.batch}, threads {profile.threads}, "
        f"{1e3 * total:.3f} ms in {len(profile.steps)} steps, medians of {profile.rounds} runs; "
        "GFLOP/s are of weights that are not zero"
    )
