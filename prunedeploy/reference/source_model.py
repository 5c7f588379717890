"""The model that something is made from, checked the same way by every command.

``build``, ``lower``, ``shrink`` and device bundles all begin with it: the model is read and put
right (``prunedeploy.graph.preparation``), refused where its outputs are random, and known by its
inputs, its outputs and by how much a runtime may differ from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.reference.fitting import fitted
from prunedeploy.reference.randomness import refuse_random
from prunedeploy.reference.verify import Tolerance, tolerances_of


@dataclass(frozen=True)
class SourceModel:
    """A model whose outputs can be compared.

    ``notes`` say what was put right while it was read; ``tolerance`` is what a runtime may differ
    by, relative to the range of an output, by the types that the model computes in.
    """

    program: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...]
    tolerance: Tolerance


def load_source(path: Path, progress: Callable[[str], None]) -> SourceModel:
    """The ONNX model at ``path``; ``progress`` is called with what was put right in it.

    Raises:
        UserError: it is missing or not valid, or its outputs are random.
    """
    prepared = preparation.from_file(path)
    for note in prepared.notes:
        progress(f"{path}: {note}")
    return check_source(prepared.model, notes=prepared.notes)


def check_source(
    program: ir.Model,
    feeds: Mapping[str, Array] | None = None,
    notes: tuple[str, ...] = (),
) -> SourceModel:
    """The same for a model that was read; ``feeds`` are inputs to run it on, None for random ones.

    Raises:
        UserError: its outputs are random.
    """
    refuse_random(program, feeds)
    _, outputs = models.specs(program)
    return SourceModel(program, fitted(program), outputs, notes, tolerances_of(program))
