"""What a server says when it starts, and the result of a load test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunedeploy.cli.tables import count, say, table
from prunedeploy.serving.http.launch import STARTED

if TYPE_CHECKING:
    from prunedeploy.serving.http.loadtest import LoadResult
    from prunedeploy.serving.http.model import ServedModel


def print_started(url: str, models: Sequence[ServedModel]) -> None:
    """Print where the server is, and for each model how its requests are computed."""
    say(f"{STARTED}{url}")
    for model in models:
        together = f"up to {model.plan.largest} samples together"
        if not model.plan.largest:
            together = "every request by itself"
        say(f"  {model.name} ({model.engine.manifest.runtime}, {model.provider}): {together}")
        if model.plan.alone:
            say(f"    {model.plan.alone}")
    print(f"  described at {url}/docs, figures at {url}/metrics", flush=True)


def print_load(result: LoadResult) -> None:
    """Print throughput and latency for each number of clients, and what went wrong."""
    say(f"{result.model}: requests of {count(result.batch)}, {result.form}")
    headers = ("clients", "requests/s", "p50 ms", "p90 ms", "p99 ms", "max ms")
    rows = [
        (
            str(level.clients),
            f"{level.requests_per_second:.1f}",
            *(f"{x:.1f}" for x in (level.p50_ms, level.p90_ms, level.p99_ms, level.max_ms)),
            *map(count, (level.right, level.refused, level.wrong, level.lost)),
        )
        for level in result.levels
    ]
    table((*headers, "right", "refused", "wrong", "lost"), rows, left=frozenset())
    for level in result.levels:
        if level.problem:
            say(f"  with {level.clients} clients: {level.problem}")
    how = "every answer was right" if result.passed else "NOT every answer was right"
    say(f"{how}, compared with {result.reference}")
