"""Times each step of a compiled engine with the engine's own clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Engine, Profile, StepTime
from prunedeploy.runtimes.api import Session


class _Profiled(Protocol):
    """A session that can tell; ``layers`` describes the steps of a batch size in order."""

    def profile(self, feeds: Mapping[str, Array], rounds: int) -> dict[int, list[list[float]]]: ...

    def layers(self, batch: int) -> list[dict[str, Any]]: ...

    def pieces(self, batch: int) -> tuple[int, ...]: ...


def check_profiling(engines: Sequence[Engine], sessions: Sequence[Session]) -> None:
    """Refuse before anything is measured.

    Raises:
        UserError: none of the engines can tell how long its steps take.
    """
    if not any(hasattr(session, "profile") for session in sessions):
        names = ", ".join(f"{x.path} is of {x.manifest.runtime}" for x in engines)
        raise UserError(f"--profile needs an engine of the sparse runtime: {names}")


def profiles_of(
    names: Sequence[str],
    sessions: Sequence[Session],
    feeds: Mapping[str, Array],
    batch: int,
    threads: int,
    rounds: int,
) -> tuple[Profile, ...]:
    """The profile of every engine that supports it, by the engines' names."""
    return tuple(
        Profile(
            name=name,
            batch=batch,
            threads=threads,
            rounds=rounds,
            steps=_steps(cast(_Profiled, session), feeds, batch, rounds),
        )
        for name, session in zip(names, sessions, strict=True)
        if hasattr(session, "profile")
    )


def _steps(
    session: _Profiled, feeds: Mapping[str, Array], batch: int, rounds: int
) -> tuple[StepTime, ...]:
    """The layers of every size that the batch is cut into, once for each piece."""
    steps = []
    for size, samples in session.profile(feeds, rounds).items():
        often = session.pieces(batch).count(size)
        layers = session.layers(size)
        try:
            for layer, seconds in zip(layers, np.median(samples, 0), strict=True):
                more = {key: often * layer[key] for key in ("flops", "bytes")}
                steps.append(StepTime(**{**layer, **more}, seconds=often * float(seconds)))
        except (LookupError, TypeError, ValueError):
            raise UserError("the engine's layers are not its steps: build it again") from None
    return tuple(steps)
