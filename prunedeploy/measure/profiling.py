"""Times each step of an engine with the clock of the engine, or of ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.measurements import Profile, StepTime
from prunedeploy.core.records import Array, Engine
from prunedeploy.runtimes.api import OpenOptions, Session
from prunedeploy.runtimes.registry import by_name

ON_ONNXRUNTIME = ("ort", "hybrid")  # runtimes whose sessions can time their nodes


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
    if not any(map(_profiles, engines, sessions)):
        names = ", ".join(f"{x.path} is of {x.manifest.runtime}" for x in engines)
        raise UserError(f"--profile needs an engine of sparse, hybrid or ort: {names}")


def _profiles(engine: Engine, session: Session) -> bool:
    return hasattr(session, "profile") or engine.manifest.runtime in ON_ONNXRUNTIME


def profiles_of(
    names: Sequence[str],
    engines: Sequence[Engine],
    sessions: Sequence[Session],
    feeds: Mapping[str, Array],
    batch: int,
    threads: int,
    rounds: int,
) -> tuple[Profile, ...]:
    """The profile of every engine that supports it, by the engines' names."""
    profiles = []
    for name, engine, session in zip(names, engines, sessions, strict=True):
        if hasattr(session, "profile"):
            steps = _steps(cast(_Profiled, session), feeds, batch, rounds)
        elif engine.manifest.runtime in ON_ONNXRUNTIME:
            steps = _nodes(engine, feeds, threads, rounds)
        else:
            continue
        profiles.append(Profile(name, batch, threads, rounds, steps))
    return tuple(profiles)


def _nodes(
    engine: Engine, feeds: Mapping[str, Array], threads: int, rounds: int
) -> tuple[StepTime, ...]:
    """The nodes of an engine on ONNX Runtime, by its own clock, in a session of its own."""
    from prunedeploy.runtimes.hybrid.custom_op import OP
    from prunedeploy.runtimes.ort.cpu import OrtSession

    runs = rounds + 1  # the first is not of the steady state
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        options = OpenOptions(threads, shared=True, trace=Path(folder) / "trace")
        with by_name(engine.manifest.runtime).open(engine, options) as session:
            for _ in range(runs):
                session.run(feeds)
            times = cast(OrtSession, session).node_times()
    steps = []
    for each in times:
        often = len(each.seconds) // runs  # in a run: more than once within a loop
        if often:
            seconds = often * float(np.median(each.seconds[often:]))
            choice = "a sparse part" if each.operator == OP else each.operator
            steps.append(StepTime(each.name, each.operator, choice, seconds, 0, 0, 0, 0))
    return tuple(steps)


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
