"""The runtime that builds and computes nothing: for tests of everything around a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prunedeploy.core.records import Array, Engine, TensorSpec
from prunedeploy.runtimes import api
from prunedeploy.targets import Target


class NullSession(api.Closing):
    """Zeros of the right shape."""

    provider = "null"

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._closed = False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Zeros; a dynamic size has the length it has in the inputs, 1 where they lack it."""
        if self._closed:
            raise api.closed_error()
        arrays = api.check_feeds(self.inputs, feeds)
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

    def close(self) -> None:
        """There is nothing to let go of."""
        self._closed = True


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

    def build(
        self, model: Path, target: Target, directory: Path, options: api.BuildOptions
    ) -> api.Payload:
        """Write nothing."""
        return api.Payload(())

    def open(self, engine: Engine, options: api.OpenOptions) -> api.Session:
        """A session that returns zeros."""
        return NullSession(engine.manifest.inputs, engine.manifest.outputs)
