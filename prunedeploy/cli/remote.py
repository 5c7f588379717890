"""``build --remote`` and ``bench --remote``: the work on a machine that SSH reaches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from prunedeploy.cli.progress import working
from prunedeploy.cli.show import emit

if TYPE_CHECKING:
    from prunedeploy.remote.record import RemoteResult


@dataclass(frozen=True)
class RemoteMachine:
    """A machine that SSH reaches: its address, its target, options for ssh, and seconds for all."""

    address: str
    target: str | None
    ssh_options: tuple[str, ...]
    timeout: float


def build_there(
    machine: RemoteMachine,
    source: Path,
    output: Path | None,
    baseline: Path | None,
    batch: tuple[int, ...],
    threads: int,
    inputs: Path | None,
    json: bool,
) -> None:
    """Build there, bring the engines here; exit status 1 where not all went well."""
    from prunedeploy.cli.arrays import inputs_of
    from prunedeploy.cli.show.machines import print_remote
    from prunedeploy.engines.bundle_record import is_bundle
    from prunedeploy.remote.device import remote_build

    with working(f"reading {source}") as progress:
        result = remote_build(
            *(source, machine.address, machine.target, output, progress),
            ssh_options=machine.ssh_options,
            timeout=machine.timeout,
            baseline=baseline,
            batch=batch,
            threads=threads,
            inputs=None if is_bundle(source) else inputs_of(source, inputs),
        )
    emit(result, print_remote, json)
    raise typer.Exit(_status(result))


def bench_there(
    machine: RemoteMachine,
    sources: list[Path],
    output: Path | None,
    baseline: Path | None,
    batch: int,
    threads: int,
    rounds: int,
    json: bool,
) -> None:
    """Measure there; exit status 1 where not all went well."""
    from prunedeploy.cli.show.machines import print_remote
    from prunedeploy.core.files import atomic_path, to_json
    from prunedeploy.remote.device import remote_bench

    if len(sources) != 1:
        raise typer.BadParameter("--remote takes one model or bundle")
    with working(f"reading {sources[0]}") as progress:
        result = remote_bench(
            *(sources[0], machine.address, machine.target, progress),
            rounds=rounds,
            threads=threads,
            ssh_options=machine.ssh_options,
            timeout=machine.timeout,
            baseline=baseline,
            batch=batch,
        )
    if output is not None:
        with atomic_path(output) as file:
            file.write_text(to_json(result))
    emit(result, print_remote, json)
    raise typer.Exit(_status(result))


def _status(result: RemoteResult) -> int:
    good = result.complete and result.runs and not any(run.error for run in result.runs)
    return 0 if good else 1
