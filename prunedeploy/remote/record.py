"""Records of the runs of a bundle on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunedeploy.core.measurements import Forecast
from prunedeploy.core.records import Difference, Ratio


@dataclass(frozen=True)
class DeviceRun:
    """One engine on the device; it has samples only with a difference that was verified here.

    ``of`` says whether it is the model or its dense baseline. ``samples_ns`` are of the whole run
    of a batch, transfers to a GPU included. ``error`` is why it has no speed.
    """

    name: str
    runtime: str
    of: str
    precision: str
    batch: int
    threads: int
    version: str
    samples_ns: tuple[int, ...]
    difference: Difference | None
    build_seconds: float
    error: str


@dataclass(frozen=True)
class RemoteResult:
    """A run of a bundle on a device. ``complete`` is False where it was given up: see ``problem``.

    ``identity``, ``before``, ``seen``, ``after`` and ``tegrastats`` are what the device tells of
    itself: board, clocks, temperatures, power mode. ``throttled`` is None where it does not say.
    ``ratios`` are how many times faster each run of the model is than the fastest run of its
    dense baseline, by name; none where that was not measured. ``output`` is where the engines are.
    ``predicted`` is what the bundle said beforehand.
    """

    host: str
    target: str
    bundle_sha256: str
    complete: bool
    problem: str
    identity: dict[str, object]
    before: dict[str, object]
    seen: dict[str, object]
    after: dict[str, object]
    tegrastats: str
    throttled: bool | None
    missing: tuple[str, ...]
    runs: tuple[DeviceRun, ...]
    ratios: dict[str, Ratio]
    engines: tuple[str, ...]
    output: Path | None
    kind: Literal["measured"] = "measured"
    model_sha256: str = ""
    predicted: tuple[Forecast, ...] = ()
