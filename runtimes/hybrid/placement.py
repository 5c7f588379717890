"""The record of a hybrid engine: which nodes are in which runtime, and why."""

from __future__ import annotations

from dataclasses import dataclass

PLACEMENT = "placement.json"
OP_LIBRARY = "prunedeploy_ort.so"


@dataclass(frozen=True)
class PartRecord:
    """One part that the sparse runtime computes.

    ``macs`` are multiply-accumulates of one run at the first batch size, ``nonzero`` those that are
    left. ``seconds`` and ``stock_seconds`` are what it took alone in the sparse runtime and in ONNX
    Runtime when it was built; 0 where nothing was measured.
    """

    node: str  # of the session's model
    nodes: tuple[str, ...]
    macs: int
    nonzero: int
    seconds: float
    stock_seconds: float


@dataclass(frozen=True)
class StockNode:
    """One node that ONNX Runtime computes; ``code`` and ``reason`` say why."""

    name: str
    operator: str
    code: str
    reason: str
    macs: int


@dataclass(frozen=True)
class Placement:
    """Every node of the model, in the runtime that computes it.

    ``macs`` are of convolutions, matrix products and recurrent layers whose sizes are known;
    ``share`` is the part of them that the sparse runtime computes. The times are of the race that
    decided: seconds of a run of the hybrid engine and of ONNX Runtime alone; 0 where nothing was
    measured.
    """

    parts: tuple[PartRecord, ...]
    stock: tuple[StockNode, ...]
    macs: int
    share: float
    seconds: float = 0.0
    stock_seconds: float = 0.0
