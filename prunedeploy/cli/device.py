"""Targets that are not at hand: bundles written and shown, machines reached over SSH."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from prunedeploy.cli import show
from prunedeploy.cli.progress import working
from prunedeploy.cli.tables import size, table
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.engines.bundle_record import is_bundle
from prunedeploy.prediction import text as forecasts

if TYPE_CHECKING:
    from prunedeploy.core.records import Array
    from prunedeploy.engines.bundle_record import Written
    from prunedeploy.remote.record import RemoteResult


def is_elsewhere(target: str) -> bool:
    """Whether engines for ``target`` come about on another machine."""
    from prunedeploy import targets

    return targets.why_not_here(targets.by_name(target)) is not None


def inputs_of(model: Path, file: Path | None) -> dict[str, Array] | None:
    """The arrays in ``file`` by the names of the model's inputs."""
    from prunedeploy.cli import arrays
    from prunedeploy.graph import model as models

    return None if file is None else arrays.read(file, models.specs(models.load(model))[0])


def write(
    model: Path,
    target: str,
    output: Path | None,
    baseline: Path | None,
    batch: tuple[int, ...],
    threads: int,
    file: Path | None,
    archive: bool,
    json: bool,
) -> None:
    """Write a bundle and say what it is."""
    import prunedeploy as api

    with working(f"reading {model}") as progress:
        found = api.write_bundle(
            *(model, target, output, baseline, progress),
            batch=batch,
            threads=threads,
            inputs=inputs_of(model, file),
            archive=archive,
        )
    show.result(found, bundle, json)
    raise typer.Exit(1 if found.bundle.missing else 0)


def bundle(written: Written) -> None:
    """What is in it, and that it is no engine."""
    found = written.bundle
    print(f"{written.path}: device bundle for {found.target}, not an engine: nothing is measured")
    if written.path.is_file():
        print(f"  {size(written.path.stat().st_size)}, unpack it with tar xzf {written.path}")
    for each in found.models:
        print(f"  {each.file}: opset {each.opset}, {show.difference(each.difference)}")
    if sparse := found.sparse:
        how = f"compiled with {sparse.compiler}" if sparse.compiled else "as C sources"
        least = f", needs glibc {sparse.glibc}" if sparse.glibc else ""
        print(f"  sparse engine for {found.arch} ({sparse.isa}), {how}{least}")
    for part in found.missing:
        print(f"  NOT complete: there is no {part}")
    for note in found.notes:
        print(f"  {note}")
    for forecast in sorted(found.predicted, key=lambda forecast: forecast.seconds):
        print(f"  {forecasts.line(forecast)}")
    print("  on the device: sh build.sh && python3 bench.py, or here: --remote user@host")


# -- over SSH --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class There:
    """The remote machine: its address, what kind it is, options for ssh, and its time."""

    address: str
    target: str | None
    options: tuple[str, ...]
    timeout: float


def build(
    there: There,
    source: Path,
    output: Path | None,
    baseline: Path | None,
    batch: tuple[int, ...],
    threads: int,
    file: Path | None,
    json: bool,
) -> None:
    """Build there, bring the engines here; exit status 1 where not all went well."""
    from prunedeploy.remote.device import remote_build

    with working(f"reading {source}") as progress:
        found = remote_build(
            *(source, there.address, there.target, output, progress),
            ssh_options=there.options,
            timeout=there.timeout,
            baseline=baseline,
            batch=batch,
            threads=threads,
            inputs=None if is_bundle(source) else inputs_of(source, file),
        )
    show.result(found, remote, json)
    raise typer.Exit(_status(found))


def bench(
    there: There,
    sources: list[Path],
    output: Path | None,
    baseline: Path | None,
    batch: int,
    threads: int,
    rounds: int,
    json: bool,
) -> None:
    """Measure there; exit status 1 where not all went well."""
    from prunedeploy.remote.device import remote_bench

    if len(sources) != 1:
        raise typer.BadParameter("--remote takes one model or bundle")
    with working(f"reading {sources[0]}") as progress:
        found = remote_bench(
            *(sources[0], there.address, there.target, progress),
            rounds=rounds,
            threads=threads,
            ssh_options=there.options,
            timeout=there.timeout,
            baseline=baseline,
            batch=batch,
        )
    if output is not None:
        with atomic_path(output) as file:
            file.write_text(to_json(found))
    show.result(found, remote, json)
    raise typer.Exit(_status(found))


def _status(found: RemoteResult) -> int:
    good = found.complete and found.runs and not any(run.error for run in found.runs)
    return 0 if good else 1


def remote(found: RemoteResult) -> None:
    """What the device is, how each engine did, and what is missing."""
    import numpy as np

    named = [str(found.identity.get(x, "")) for x in ("board", "processor", "l4t", "system")]
    print(f"{found.host} ({found.target}): {', '.join(x for x in named if x) or 'says nothing'}")
    if found.problem:
        print(f"  NOT complete: {found.problem}")
    for text in found.missing:
        print(f"  missing: {text}")
    rows = []
    for run in found.runs:
        figures: tuple[str, ...] = ("-", "-", "-")
        if run.samples_ns:
            p50, p90, p99 = np.percentile(np.array(run.samples_ns) / 1e6, (50, 90, 99))
            figures = (f"{p50:.3f}", f"{p90:.3f}", f"{p99:.3f}")
        gain = found.ratios.get(run.name)
        faster = f"{gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}]" if gain else "-"
        off = show.difference(run.difference) if run.difference is not None else "-"
        rows.append((run.name, run.runtime, str(run.batch), *figures, faster, run.error or off))
    if rows:
        headers = ("engine", "runtime", "batch", "p50 ms", "p90 ms", "p99 ms", "faster [95 %]")
        table((*headers, "difference"), rows, left=frozenset({0, 1, 7}))
    for name in found.engines:
        print(f"{found.output}/{name}: an engine, built there and verified here")
    print(f"measured there: {_conditions(found)}")


def _conditions(found: RemoteResult) -> str:
    """Clocks, temperature, power mode, throttling: as far as the device tells."""
    told = []
    for key, what, scale, unit in (
        ("cpu_khz", "CPU", 1e-3, "MHz"),
        ("celsius", "", 1, "degrees C"),
    ):
        seen = found.seen.get(key)
        if isinstance(seen, list) and [type(x) in (int, float) for x in seen] == [True, True]:
            told.append(f"{what} {seen[0] * scale:.0f} to {seen[1] * scale:.0f} {unit}".strip())
    if mode := found.identity.get("power_mode"):
        told.append(" ".join(str(mode).split()))
    throttled = {True: "it was throttled", False: "not throttled", None: "throttling unknown"}
    return ", ".join([*told, throttled[found.throttled]])
