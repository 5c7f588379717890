"""Targets and self-checks, device bundles, and what remote machines measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunedeploy.cli.show.verdicts import difference
from prunedeploy.cli.tables import say, size, table
from prunedeploy.prediction import text as forecasts

if TYPE_CHECKING:
    from prunedeploy.engines.bundle_record import Written
    from prunedeploy.engines.self_check import Check
    from prunedeploy.remote.record import RemoteResult
    from prunedeploy.targets import Target


@dataclass(frozen=True)
class Targets:
    """The table of targets, and what the self-check of this machine came to."""

    targets: tuple[Target, ...]
    checks: tuple[Check, ...]


def print_targets(listing: Targets) -> None:
    """Print the machines, then the result of the check of every runtime, with its reason."""
    rows = [
        (
            " ".join((target.name, *(f"({alias})" for alias in target.aliases))),
            target.what,
            target.arch,
            ", ".join((*target.isa, *(f"compute {x}" for x in (target.compute_capability,) if x))),
            ", ".join(target.runtimes),
        )
        for target in listing.targets
    ]
    headers = ("target", "machine", "arch", "isa, compute", "runtimes, best first")
    table(headers, rows, left=frozenset(range(5)))
    say()
    checks = [(x.target, x.runtime, x.status, x.reason) for x in listing.checks]
    table(("target", "runtime", "check", "reason"), checks, left=frozenset(range(4)))


def print_bundle(written: Written) -> None:
    """Print what is in a device bundle, and that it is no engine."""
    bundle = written.bundle
    say(f"{written.path}: device bundle for {bundle.target}, not an engine: nothing is measured")
    if written.path.is_file():
        say(f"  {size(written.path.stat().st_size)}, unpack it with tar xzf {written.path}")
    for each in bundle.models:
        say(f"  {each.file}: opset {each.opset}, {difference(each.difference)}")
    if sparse := bundle.sparse:
        how = f"compiled with {sparse.compiler}" if sparse.compiled else "as C sources"
        needs = f", needs glibc {sparse.glibc}" if sparse.glibc else ""
        say(f"  sparse engine for {bundle.arch} ({sparse.isa}), {how}{needs}")
    for part in bundle.missing:
        say(f"  NOT complete: there is no {part}")
    for note in bundle.notes:
        say(f"  {note}")
    for forecast in sorted(bundle.predicted, key=lambda forecast: forecast.seconds):
        say(f"  {forecasts.line(forecast)}")
    say("  on the device: sh build.sh && python3 bench.py, or here: --remote user@host")


def print_remote(result: RemoteResult) -> None:
    """Print what the device is, the measurements of each engine, and what is missing."""
    import numpy as np

    named = [str(result.identity.get(x, "")) for x in ("board", "processor", "l4t", "system")]
    say(f"{result.host} ({result.target}): {', '.join(x for x in named if x) or 'says nothing'}")
    if result.problem:
        say(f"  NOT complete: {result.problem}")
    for text in result.missing:
        say(f"  missing: {text}")
    rows = []
    for run in result.runs:
        figures: tuple[str, ...] = ("-", "-", "-")
        if run.samples_ns:
            p50, p90, p99 = np.percentile(np.array(run.samples_ns) / 1e6, (50, 90, 99))
            figures = (f"{p50:.3f}", f"{p90:.3f}", f"{p99:.3f}")
        gain = result.ratios.get(run.name)
        faster = f"{gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}]" if gain else "-"
        off = difference(run.difference) if run.difference is not None else "-"
        rows.append((run.name, run.runtime, str(run.batch), *figures, faster, run.error or off))
    if rows:
        headers = ("engine", "runtime", "batch", "p50 ms", "p90 ms", "p99 ms", "faster [95 %]")
        table((*headers, "difference"), rows, left=frozenset({0, 1, 7}))
    for name in result.engines:
        say(f"{result.output}/{name}: an engine, built there and verified here")
    say(f"measured there: {_conditions(result)}")


def _conditions(result: RemoteResult) -> str:
    """Clocks, temperature, power mode, throttling: as far as the device tells."""
    known = []
    for key, what, scale, unit in (
        ("cpu_khz", "CPU", 1e-3, "MHz"),
        ("celsius", "", 1, "degrees C"),
    ):
        seen = result.seen.get(key)
        if isinstance(seen, list) and [type(x) in (int, float) for x in seen] == [True, True]:
            known.append(f"{what} {seen[0] * scale:.0f} to {seen[1] * scale:.0f} {unit}".strip())
    if mode := result.identity.get("power_mode"):
        known.append(" ".join(str(mode).split()))
    throttled = {True: "it was throttled", False: "not throttled", None: "throttling unknown"}
    return ", ".join([*known, throttled[result.throttled]])
