"""The request for a build, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.runtimes.api import BuildOptions, Runtime, Tuning

MAX_THREADS = 256  # runtimes start every thread they are asked for, whatever the machine has

Progress = Callable[[str], None]  # called with one line of text for each step of the work


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build.

    Attributes:
        source: the ONNX file of the model, with the sizes that were stated for its inputs.
        origin: the file that the user named.
        target: the machine that the engine is for.
        runtime: the runtime that builds it.
        output: the engine's folder. The files are built in another folder and moved there.
        dense: the ONNX file of the dense baseline, or None.
        inputs: the model's inputs.
        outputs: the model's outputs.
        within: the largest allowed difference from the model computed in float64, relative to the
            range of the output; None for the tolerance of ``prunedeploy.reference.verify``.
    """

    source: Path
    origin: Path
    target: targets.Target
    runtime: Runtime
    output: Path
    dense: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    within: float | None = None


def build_options(
    batch: int | Sequence[int], threads: int, tune: Tuning, progress: Progress
) -> BuildOptions:
    """The options that runtimes take, from the arguments of ``build``.

    Raises:
        UserError: no such tuning, or a number of threads out of range.
    """
    if tune not in get_args(Tuning):
        raise UserError(f"no such tuning: {tune!r}; choose from {', '.join(get_args(Tuning))}")
    check_threads(threads)
    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    return BuildOptions(batches, threads, tune, progress)


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no session can have.

    Raises:
        UserError: it is negative, or above both ``MAX_THREADS`` and the number of cores.
    """
    largest = max(MAX_THREADS, targets.cores())
    if not 0 <= threads <= largest:
        raise UserError(
            f"cannot compute with {threads} threads: give 1 to {largest}, or 0 for the default"
        )
