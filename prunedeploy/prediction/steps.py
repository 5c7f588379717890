"""The steps of a sparse engine, or of the one that would be built, as work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunedeploy.prediction.record import Work
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.targets import Target

INDEX = {"rows": 2, "jit": 10, "vector": 2}  # bytes that go with the weight of a non-zero
KERNEL_OF = {
    "MatMul": "product",
    "Softmax": "function",
    "Norm": "reduce",
    "Reduce": "reduce",
    "Pool": "pool",
    "Copy": "move",
    "Recurrence": "vector",
    "Lookup": "move",
    "Take": "move",
    "Top": "reduce",
    "Resize": "move",
    "Fill": "move",
}


def of_model(model: Path, target: Target, batch: int, threads: int) -> tuple[Work, ...]:
    """The steps that a build would make, scheduled by the cost model; nothing is compiled.

    Raises:
        UserError: the sparse runtime cannot compute the model, or not in this batch.
    """
    from prunedeploy.runtimes.sparse.build import project_of

    options = BuildOptions(batches=(batch,) * (batch > 1), threads=threads, tune="none")
    project, cut = project_of(model, target, None, options)
    layers = [asdict(layer) for layer in project.layers[project.batches[0]]]
    return of_layers(layers, cut, threads or cut)


def of_layers(layers: Iterable[Mapping[str, Any]], cut: int, threads: int) -> tuple[Work, ...]:
    """The steps of an engine that was built for ``cut`` threads and runs on ``threads``."""
    return tuple(_work(layer, cut / threads) for layer in layers)


def _work(layer: Mapping[str, Any], share: float) -> Work:
    computed_as = kernel(str(layer["kind"]), str(layer.get("kernel", "")))
    nonzeros, weights = int(layer["nonzeros"]), int(layer["weights"])
    dense = computed_as == "vector" and layer.get("dense", False)  # rows are read without indices
    each = 4 if layer.get("stored", "float32") == "float32" else 2
    stored = each * weights if dense else (each + INDEX.get(computed_as, 0)) * nonzeros
    flops = float(layer["flops"])
    return Work(
        name=str(layer["name"]),
        kernel=computed_as,
        flops=flops * weights / max(nonzeros, 1) if dense else flops,
        weights=stored,
        moved=int(layer["bytes"]) - 4 * nonzeros,
        cycles=float(layer.get("cycles", 0.0)) * share,
    )


def kernel(kind: str, name: str) -> str:
    """The row of the table of efficiencies, from the kind of a step and its kernel's name.

    Engines that were built before layers named their kernels count as "vector".
    """
    return name or ("vector" if kind == "Conv" else KERNEL_OF.get(kind, "elementwise"))
