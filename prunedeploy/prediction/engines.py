"""Forecasts of engines on this machine, to stand beside what is measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.measurements import Forecast
from prunedeploy.core.records import Dim, Engine
from prunedeploy.prediction.predict import of_layers, predict
from prunedeploy.runtimes.api import split


def forecast_of(engine: Engine, batch: int, threads: int) -> Forecast | None:
    """Predict a run of ``engine`` on this machine; None where there are no figures."""
    try:
        if engine.manifest.runtime == "ort":
            from prunedeploy.runtimes.ort.cpu import PAYLOAD

            file = engine.path / PAYLOAD
            known = {x.name: tuple(map(_stated, x.shape)) for x in engine.manifest.inputs}
            return predict(
                *(file, "host", "ort"), batch=batch, threads=threads, shapes=known
            ).forecast
        if engine.manifest.runtime == "sparse":
            return _of_sparse(engine, batch, threads)
    except (UserError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        # an aside, for which no measurement is refused; layers are out of the engine's files
        return None
    return None


def _stated(size: Dim) -> int | None:
    return size if isinstance(size, int) else None


def _of_sparse(engine: Engine, batch: int, threads: int) -> Forecast | None:
    """Predict from the layers of the engine, for each part that the batch is computed in."""
    from prunedeploy.runtimes.sparse.engine import read_layers

    if engine.manifest.isa.startswith("sm_"):
        return None  # of a GPU, whose figures nobody has measured
    host, cut = targets.by_name("host"), engine.manifest.threads
    pieces = Counter(split(batch, engine.manifest.batches) or ())
    total: Forecast | None = None
    for size, often in pieces.items():
        layers = read_layers(engine, size)
        if not any("cycles" in layer for layer in layers):
            return None  # built before layers had them
        one = of_layers(host, "sparse", layers, cut, size, threads)
        seconds = often * one.seconds + (total.seconds if total is not None else 0.0)
        factor = one.high / one.seconds
        total = replace(
            one, batch=batch, seconds=seconds, low=seconds / factor, high=seconds * factor
        )
    return total
