"""The outputs of the network before the passes, which the shrunk model is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, CrossCheck
from prunedeploy.graph import model as models
from prunedeploy.reference import second_oracle, verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.fitting import fitted, refuse_incomparable
from prunedeploy.reference.source_model import check_source
from prunedeploy.reference.verify import Tolerance


@dataclass(frozen=True)
class Expected:
    """Random inputs with the model's outputs for them, and how far others may be from these.

    ``runs`` are more than one where a number among the inputs decides on a branch.
    """

    runs: tuple[tuple[dict[str, Array], dict[str, Array]], ...]
    tolerance: Tolerance
    cross_check: CrossCheck

    @property
    def feeds(self) -> dict[str, Array]:
        """The inputs of the first run."""
        return self.runs[0][0]

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
        UserError: the outputs are random, or one holds no finite number: nothing could be compared.
    """
    turns = verify.turns(fitted(program))
    feeds = [random_feeds(program, shape, seed=turn) for turn in range(turns)]
    source = check_source(program, feeds[0])
    runs = tuple((each, run(program, each)) for each in feeds)
    for _, outputs in runs:
        refuse_incomparable(outputs, fitted(program))
    check = second_oracle.check_all(program, runs, "the model as it is")
    return Expected(runs, source.tolerance, check)


def random_feeds(
    program: ir.Model, shape: Sequence[int] | None, batch: int = 2, seed: int = 0
) -> dict[str, Array]:
    """Random inputs of ``program``; ``shape`` is that of the first one where it is open."""
    inputs = fitted(program)
    known: dict[str, int] = {}
    if shape is not None and inputs:
        inputs = tuple(replace(each, sample=replace(each.sample, sizes=())) for each in inputs)
        wanted = tuple(inputs[0].shape[:1]) + tuple(shape[1:])
        named = zip(inputs[0].shape[1:], shape[1:], strict=False)
        known = {dim: size for dim, size in named if isinstance(dim, str) and dim != "?"}
        inputs = (replace(inputs[0], shape=wanted), *inputs[1:])
    return verify.random_feeds(inputs, batch, seed, known=known)


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
        raise UserError(
            f"{error}; it was given {shapes}: state other sizes with --shape"
        ) from error
