"""The records of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunedeploy.core.measurements import Forecast

# the first three of a roofline, the others of a GPU's launches
Limit = Literal[
    "compute", "memory", "overhead", "fma", "issue", "L1", "code", "DRAM", "latency", "launch"
]


@dataclass(frozen=True)
class Work:
    """The work of one layer for a whole batch.

    ``kernel`` is a row of its runtime's table (``efficiency.py``). ``flops`` are those that are
    computed: zeros included where the runtime does not leave them out. ``weights`` and ``moved``
    are bytes, of constants and of all else read and written once. ``cycles`` is what the cost model
    of the sparse runtime says that the busiest thread needs, 0 where it has no say.
    """

    name: str
    kernel: str
    flops: float
    weights: int
    moved: int
    cycles: float = 0.0


@dataclass(frozen=True)
class LayerTime:
    """The predicted time of a layer, and what its limit is."""

    name: str
    kernel: str
    flops: float
    bytes: int
    seconds: float
    limit: Limit


@dataclass(frozen=True)
class Prediction:
    """A forecast, layer by layer.

    ``basis`` says where peaks and efficiencies are from, ``notes`` what the forecast leaves out or
    takes a guess at; ``size`` is that of the inputs, where several were asked for.
    """

    model: str
    model_sha256: str
    target: str
    forecast: Forecast
    layers: tuple[LayerTime, ...]
    basis: str
    notes: tuple[str, ...] = ()
    kind: Literal["predicted"] = "predicted"
    size: str = ""
