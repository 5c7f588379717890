"""What a server says when it starts, and the result of a load test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunedeploy.cli.tables import count, say, table
from prunedeploy.serving.http.launch import STARTED

if TYPE_CHECKING:
    from prunedeploy.serving.http.loadtest import LoadResult
    from prunedeploy.serving.http.model import ServedModel


@dataclass(frozen=True)
class StartedModel:
    """A model that is served; ``largest`` samples go together, 0 for the reason ``alone``.

    Of several ``sizes`` that is said of the first.
    """

    name: str
    runtime: str
    provider: str
    largest: int
    alone: str
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    """A server that takes requests."""

    url: str
    models: tuple[StartedModel, ...]

    @classmethod
    def of(cls, url: str, models: Sequence[ServedModel]) -> Started:
        """What is printed of ``models``."""
        return cls(
            url,
            tuple(
                StartedModel(
                    *(x.name, x.engine.manifest.runtime, x.provider),
                    *(x.plans[0].largest, x.plans[0].alone),
                    tuple(size.folder for size in x.engine.manifest.sizes),
                )
                for x in models
            ),
        )


def print_started(server: Started) -> None:
    """Print where the server is, and for each model how its requests are computed."""
    say(f"{STARTED}{server.url}")
    for model in server.models:
        together = f"up to {model.largest} samples together"
        if not model.largest:
            together = "every request by itself"
        say(f"  {model.name} ({model.runtime}, {model.provider}): {together}")
        if model.sizes:
            say(f"    sizes {', '.join(model.sizes)}")
        if model.alone:
            say(f"    {model.alone}")
    say(f"  described at {server.url}/docs, figures at {server.url}/metrics")


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
