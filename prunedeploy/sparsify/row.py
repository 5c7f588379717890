"""The records of a row: what a training gave, what it cost, how fast the network is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunedeploy.core.records import Array, Ratio
from prunedeploy.sparsify.recipe import Recipe

DENSE = "dense"  # the runtime of the dense baseline's latency


@dataclass(frozen=True)
class Outcome:
    """What a training gave: a function of the recipe, the data and the version.

    ``accuracy`` is the share of the ``tested`` test examples that are right, ``right`` which, as
    hexadecimal bits of ``numpy.packbits``. ``selection_accuracy`` is on the held-out examples, None
    without any. ``detection`` is what the method measured to find its time, if it did.
    """

    accuracy: float
    selection_accuracy: float | None
    tested: int
    right: str
    weight_sparsity: float
    unit_sparsity: float
    steps: int
    state_sha256: str
    notes: tuple[str, ...] = ()
    detection: tuple[float, ...] = ()

    @property
    def bits(self) -> Array:
        """Which test examples are right, bool [tested]."""
        packed = np.frombuffer(bytes.fromhex(self.right), np.uint8)
        return np.unpackbits(packed, count=self.tested).astype(bool)


@dataclass(frozen=True)
class Cost:
    """What a training cost: seconds, bytes, and where codecarbon could tell, energy and CO2."""

    seconds: float
    peak_memory_bytes: int
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latency:
    """The median time of a run of ``batch`` inputs, and the speed relative to the dense network.

    ``kind`` says whether it was measured or predicted. The runtime "dense" is ONNX Runtime on the
    network with its zeros; where that was measured, ``speed`` is relative to it.
    """

    runtime: str
    batch: int
    threads: int
    milliseconds: float
    kind: Literal["measured", "predicted"]
    speed: Ratio | None = None
    memory_bytes: int = 0


@dataclass(frozen=True)
class Deployed:
    """The network on its target: what is left of it after shrinking, and how fast it is there.

    ``notes`` are the runtimes that could not have an engine of it, and why.
    """

    target: str
    parameters: int
    nonzero: int
    macs: int
    latencies: tuple[Latency, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A training that is done, beside its weights."""

    key: str
    outcome: Outcome
    cost: Cost


@dataclass(frozen=True)
class Row:
    """A recipe's result. ``key`` is the hash of all that it depends on but machines' speeds."""

    key: str
    recipe: Recipe
    data_sha256: str
    version: str
    outcome: Outcome
    cost: Cost
    deployed: Deployed | None = None

    def latency(self, runtime: str, batch: int) -> Latency | None:
        """The one of this runtime and batch."""
        latencies = self.deployed.latencies if self.deployed else ()
        return next((x for x in latencies if (x.runtime, x.batch) == (runtime, batch)), None)
