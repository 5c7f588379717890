"""Random networks of every opset through ``shrink``: ONNX Runtime before against after."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from generators import grow

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.reference import second_oracle, verify

OPSETS = range(7, 26)
DRAWS = 20  # networks that are drawn at most until ONNX Runtime knows one


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    ``same``; ``rounding``: further apart than the tolerance of float32, and the same in float64;
    ``refused`` by ``shrink``, in one line; ``differs``. ``difference`` is relative to the range of
    the output, of the very numbers that ONNX Runtime gave.
    """

    status: str
    difference: float = 0.0
    before: int = 0
    after: int = 0
    reason: str = ""


def outcome(opset: int, seed: int, folder: Path) -> Outcome:
    """Grow a network that ONNX Runtime can run, shrink it, and run both."""
    choose = random.Random(f"{opset} {seed}")
    for _ in range(DRAWS):
        model = grow(choose, opset=opset, dtype=np.float32)
        feeds = verify.random_feeds(models.specs(model)[0], seed=seed)
        before = second_oracle.outputs(model, feeds)
        if isinstance(before, dict):
            return _shrunk(model, feeds, before, folder)
    raise AssertionError(f"ONNX Runtime knows none of {DRAWS} networks of opset {opset}")


def _shrunk(
    model: ir.Model, feeds: dict[str, np.ndarray], before: dict[str, np.ndarray], folder: Path
) -> Outcome:
    models.save(model, folder / "model.onnx")
    try:
        result = prunedeploy.shrink(folder / "model.onnx", folder / "small.onnx", align=1)
    except UserError as error:
        return Outcome("refused", reason=str(error))
    sizes = result.before.parameters, result.after.parameters
    after = second_oracle.outputs(folder / "small.onnx", feeds)
    if isinstance(after, second_oracle.NotAvailable):
        return Outcome("differs", np.inf, *sizes, after.reason)
    apart = verify.compare(before, after)
    if apart.passed:
        return Outcome("same", apart.max_rel, *sizes)
    exact = verify.exactly(apart, model, models.load(folder / "small.onnx"), feeds)
    status = "rounding" if exact.passed else "differs"
    return Outcome(status, apart.max_rel, *sizes, f"{apart.where}; {exact}")
