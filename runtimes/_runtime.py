"""What a runtime is: it builds an engine's payload from a model, and opens it again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from prunedeploy.errors import UserError
from prunedeploy.targets import Target
from prunedeploy.types import Array, Engine, TensorSpec


@dataclass(frozen=True)
class OpenOptions:
    """How a session is to run.

    ``threads`` 0 leaves the number to the runtime. ``shared`` says that other sessions of this
    process run in turn with this one: its threads must not keep spinning once a run has ended.
    """

    threads: int = 0
    shared: bool = False


class Session(Protocol):
    """An opened engine."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str  # what really computes, read back from the runtime, never what was asked for

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output for one batch of inputs.

        Raises:
            UserError: a name, dtype or shape that the engine does not take.
        """
        ...


class Runtime(Protocol):
    """Builds and opens engines of one kind."""

    name: str
    # False: what it returns means nothing, so it is neither compared nor ever timed
    computes: bool

    def refuse(self, target: Target) -> str | None:
        """Why no engine for ``target`` can be built here, or None when one can."""
        ...

    def versions(self) -> dict[str, str]:
        """The libraries that take part, and their versions."""
        ...

    def build(self, model: Path, target: Target, directory: Path) -> tuple[str, ...]:
        """Write the payload for ``model`` (an ONNX file) into ``directory``; return file names."""
        ...

    def open(self, engine: Engine, options: OpenOptions) -> AbstractContextManager[Session]:
        """A session on ``engine``; its resources are released on leaving the context."""
        ...


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> None:
    """Refuse what ``inputs`` does not describe, before a runtime words it in its own way.

    Raises:
        UserError: a missing or unknown name, another dtype or shape, or an empty dimension.
    """
    names = [spec.name for spec in inputs]
    if unknown := [name for name in feeds if name not in names]:
        raise UserError(f"no input is called {unknown[0]!r}: the engine takes {', '.join(names)}")
    for spec in inputs:
        if spec.name not in feeds:
            raise UserError(f"input {spec.name!r} is missing: the engine takes {', '.join(names)}")
        array = np.asarray(feeds[spec.name])
        if array.dtype.name != spec.dtype:
            raise UserError(
                f"input {spec.name!r} takes {spec.dtype}, found {array.dtype}: "
                f"convert it with .astype('{spec.dtype}')"
            )
        if not _fits(array.shape, spec):
            wanted = " x ".join(map(str, spec.shape)) or "a scalar"
            found = " x ".join(map(str, array.shape)) or "a scalar"
            raise UserError(f"input {spec.name!r} takes {wanted}, found {found}")
    _check_same(inputs, feeds)


def _check_same(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> None:
    """Dynamic sizes of one name, the batch of several inputs, are one size."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for dim, size in zip(spec.shape, np.shape(feeds[spec.name]), strict=True):
            if isinstance(dim, str) and dim != "?" and sizes.setdefault(dim, size) != size:
                raise UserError(
                    f"{dim} is {size} in input {spec.name!r} and {sizes[dim]} in another: "
                    "give all inputs the same"
                )


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        found == dim if isinstance(dim, int) else found > 0
        for found, dim in zip(shape, spec.shape, strict=True)
    )
