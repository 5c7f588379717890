"""The outputs of the network before the passes, which the shrunk model is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, CrossCheck
from prunedeploy.graph import model as models
from prunedeploy.reference import second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.source_model import check_source
from prunedeploy.reference.verify import Tolerance


@dataclass(frozen=True)
class Expected:
    """Random inputs by name, the model's outputs for them, and how far others may be from these."""

    feeds: dict[str, Array]
    outputs: dict[str, Array]
    tolerance: Tolerance
    cross_check: CrossCheck

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input."""
        return {name: array.shape for name, array in self.feeds.items()}


def expected_of(program: ir.Model, shape: Sequence[int] | None) -> Expected:
    """Run the model as it is, and ask a second oracle about the outputs.

    Args:
        program: ready for the passes.
        shape: of one batch of the first input, where the model leaves it open.

    Raises:
        UserError: the outputs are random, or one holds no finite number whatever the sign of the
            inputs: nothing could be compared.
    """
    feeds = random_feeds(program, shape)
    source = check_source(program, feeds)
    outputs = run(program, feeds)
    if not _comparable(outputs):
        stated = {spec.name for spec in source.inputs if spec.range is not None}
        feeds = {k: array if k in stated else np.abs(array) for k, array in feeds.items()}
        outputs = run(program, feeds)
    if not _comparable(outputs):
        raise UserError("the model's outputs are not finite on random inputs: nothing to verify")
    check = second_oracle.check(program, feeds, outputs, "the model as it is")
    return Expected(feeds, outputs, source.tolerance, check)


def random_feeds(
    program: ir.Model, shape: Sequence[int] | None, batch: int = 2
) -> dict[str, Array]:
    """Random inputs of ``program``; ``shape`` is that of the first one where it is open."""
    inputs, _ = models.specs(program)
    known: dict[str, int] = {}
    if shape is not None and inputs:
        wanted = tuple(inputs[0].shape[:1]) + tuple(shape[1:])
        named = zip(inputs[0].shape[1:], shape[1:], strict=False)
        known = {dim: size for dim, size in named if isinstance(dim, str) and dim != "?"}
        inputs = (replace(inputs[0], shape=wanted), *inputs[1:])
    return verify.random_feeds(inputs, batch, known=known)


def run(program: ir.Model, feeds: dict[str, Array]) -> dict[str, Array]:
    """The reference's outputs of ``program``.

    Raises:
        UserError: the program cannot run on ``feeds``; the message has their shapes.
    """
    evaluator = Evaluator(program)
    try:
        return evaluator.run(feeds)
    except UserError as error:
        inputs, _ = models.specs(program)
        if all(isinstance(dim, int) for spec in inputs for dim in spec.shape[1:]):
            raise
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise UserError(f"{error}; it was given {shapes}: see --input-shape") from error


def _comparable(outputs: Mapping[str, Array]) -> bool:
    floats = [array for array in outputs.values() if array.dtype.kind == "f" and array.size]
    return all(np.isfinite(array).any() for array in floats)
