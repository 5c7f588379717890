"""Measures on this machine which parts pay for their cut, and whether the whole is faster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunedeploy.core.files import sha256
from prunedeploy.core.records import TensorSpec
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.api import OpenOptions, Session
from prunedeploy.runtimes.hybrid.session import HybridSession
from prunedeploy.runtimes.ort.cpu import OrtSession
from prunedeploy.runtimes.sparse.session import Library, SparseSession
from prunedeploy.runtimes.timing import SETTLING, interleave

PART_SECONDS = 0.5  # of measuring for one part and one batch size
WHOLE_SECONDS = 1.5
MAX_ROUNDS = 100


@dataclass(frozen=True)
class Specs:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def time_part(
    model: Path, library: Path, specs: Specs, batches: Sequence[int], threads: int
) -> tuple[float, float]:
    """Seconds of a part in the sparse runtime and in ONNX Runtime, over one run of each batch."""
    options = OpenOptions(threads, shared=True)
    with ExitStack() as stack:
        loaded = Library(library, sha256(library))
        sparse = SparseSession(loaded, threads, specs.inputs, specs.outputs, lambda _: [])
        sessions: list[Session] = [stack.enter_context(sparse)]
        stock = OrtSession(model, specs.inputs, specs.outputs, options)
        sessions.append(stack.enter_context(stock))
        ours, theirs = _times(sessions, specs, batches, PART_SECONDS)
    return ours, theirs


def time_whole(
    stock: Path,
    hybrids: Sequence[Path],
    library: Path,
    specs: Specs,
    batches: Sequence[int],
    threads: int,
) -> tuple[float, ...]:
    """Seconds in ONNX Runtime alone, then of each hybrid model, over one run of each batch."""
    options = OpenOptions(threads, shared=True)
    with ExitStack() as stack:
        sessions: list[Session] = [OrtSession(stock, specs.inputs, specs.outputs, options)]
        for path in hybrids:
            sessions.append(
                HybridSession(path, library, specs.inputs, specs.outputs, options, tuple(batches))
            )
        for session in sessions:
            stack.enter_context(session)
        return _times(sessions, specs, batches, WHOLE_SECONDS)


def _times(
    sessions: Sequence[Session], specs: Specs, batches: Sequence[int], seconds: float
) -> tuple[float, ...]:
    total = np.zeros(len(sessions))
    for batch in batches:
        feeds = random_feeds(specs.inputs, batch)
        samples = interleave(sessions, feeds, MAX_ROUNDS, SETTLING, seconds=seconds)
        total += [float(np.median(each)) / 1e9 for each in samples]
    return tuple(total.tolist())
