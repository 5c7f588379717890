"""The runtime that builds and computes nothing: for tests of everything around a runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from prunedeploy.runtimes._runtime import (
    BuildOptions,
    OpenOptions,
    Payload,
    Session,
    check_feeds,
)
from prunedeploy.targets import Target
from prunedeploy.types import Array, Engine, TensorSpec


class NullSession:
    """Zeros of the right shape."""

    provider = "null"

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Zeros; a dynamic size has the length it has in the inputs, 1 where they lack it."""
        arrays = check_feeds(self.inputs, feeds)
        sizes = {
            dim: size
            for spec in self.inputs
            for dim, size in zip(spec.shape, arrays[spec.name].shape, strict=True)
        }
        return {
            spec.name: np.zeros(
                [dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape],
                spec.dtype,
            )
            for spec in self.outputs
        }


class Null:
    """An engine of it is its manifest."""

    # ruff: noqa: ARG002 - it needs nothing of what the protocol hands it

    name = "null"
    computes = False

    def refuse(self, target: Target) -> str | None:
        """It builds for any target."""
        return None

    def versions(self) -> dict[str, str]:
        """No library takes part."""
        return {}

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Write nothing."""
        return Payload(())

    @contextmanager
    def open(self, engine: Engine, options: OpenOptions) -> Iterator[Session]:
        """A session that returns zeros."""
        yield NullSession(engine.manifest.inputs, engine.manifest.outputs)
