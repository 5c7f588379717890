"""The interface of runtimes, which build an engine's payload from a model and open it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Engine, TensorSpec
from prunedeploy.targets import Target

Tuning = Literal["none", "quick", "full"]


def silent(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class OpenOptions:
    """How a session is to run.

    ``threads`` 0 leaves the number to the runtime. ``shared`` says that other sessions of this
    process run in turn with this one: its threads must not keep spinning once a run has ended.
    ``trace`` begins the name of a file in which ONNX Runtime notes the time of every node.
    """

    threads: int = 0
    shared: bool = False
    trace: Path | None = None


@dataclass(frozen=True)
class BuildOptions:
    """The conditions that an engine is built for, where the runtime builds ahead of time.

    ``batches`` are the batch sizes, empty for the model's own or 1; ``threads`` how many it will
    mostly run with, 0 for all cores; ``tune`` how long to measure the schedules of each layer.
    ``progress`` is called with a line of text for each step. ``accuracy_level`` asks for schedules
    that round less, where the runtime has such: 0 for the fastest, 2 for the least rounding.
    ``blocks``: whether blocks of rows that share columns may be computed as such.
    """

    batches: tuple[int, ...] = ()
    threads: int = 0
    tune: Tuning = "quick"
    progress: Callable[[str], None] = silent
    accuracy_level: int = 0
    blocks: bool = True


@dataclass(frozen=True)
class Payload:
    """The result of a build: the names of its files, and what the manifest records with them.

    ``batches`` are the batch sizes an engine was built for, empty where it takes any; ``isa`` and
    ``arch`` what its code needs, empty where it holds none; ``precision`` what it computes in,
    empty for that of the model.
    """

    files: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)
    batches: tuple[int, ...] = ()
    threads: int = 0
    arch: str = ""
    isa: str = ""
    precision: str = ""


class Session(Protocol):
    """An opened engine: ready to run, until it is closed or nobody refers to it any more.

    It is its own context manager: ``with session:`` closes it at the end of the block.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str  # what really computes, read back from the runtime, never what was asked for

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output for one batch of inputs.

        Raises:
            UserError: a name, dtype or shape that the engine does not take; the session is closed.
        """
        ...

    def close(self) -> None:
        """Let go of memory and threads, whoever still holds this object; more than once is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Closing:
    """Makes a session its own context manager."""

    def close(self) -> None:
        """See ``Session.close``."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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

    def build(self, model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
        """Write the payload for ``model`` (an ONNX file) into ``directory``.

        Raises:
            UserError: the runtime cannot compute this model, or not with these options.
        """
        ...

    def open(self, engine: Engine, options: OpenOptions) -> Session:
        """A session on ``engine``.

        Raises:
            UserError: the engine does not run here, or is damaged.
        """
        ...


def listed_hash(engine: Engine, name: str) -> str:
    """The SHA-256 that an engine's manifest has of its file ``name``.

    Raises:
        UserError: it has none: nothing says what the file should be.
    """
    if name not in engine.manifest.files:
        raise UserError(f"{engine.path} is not an engine: its manifest has no hash of {name}")
    return engine.manifest.files[name]


def listed_bytes(engine: Engine, name: str) -> bytes:
    """The bytes of an engine's file ``name``, which are those that its manifest has the hash of.

    Raises:
        UserError: they are others, or the manifest has no hash of them.
    """
    path, expected = engine.path / name, listed_hash(engine, name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; build it again") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError(f"{path} is not what was built: its hash differs; build it again")
    return data


def forked_error() -> UserError:
    """The error that running the session of a parent process raises: its threads are not here."""
    return UserError(
        "the session was opened before this process was forked: open the engine in here"
    )


def closed_error() -> UserError:
    """The error that running a closed session raises."""
    return UserError("the session is closed: open the engine again")


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays as runtimes take them, once they are known to be what ``inputs`` describes.

    Returns:
        An array for every input, in C order, aligned and in the machine's byte order: the one that
        was given where it is so already.

    Raises:
        UserError: no mapping, a missing or unknown name, another dtype or shape, an empty
            dimension, or a masked array with elements that are not there.
    """
    names = [spec.name for spec in inputs]
    if not isinstance(feeds, Mapping):
        raise UserError(f"inputs go by name: give {{{names[0] if names else ''!r}: array, ...}}")
    if unknown := [name for name in feeds if name not in names]:
        raise UserError(f"no input is called {unknown[0]!r}: the engine takes {', '.join(names)}")
    arrays: dict[str, Array] = {}
    for spec in inputs:
        if spec.name not in feeds:
            raise UserError(f"input {spec.name!r} is missing: the engine takes {', '.join(names)}")
        array = native(feeds[spec.name], f"input {spec.name!r}")
        if array.dtype.name != spec.dtype:
            raise UserError(
                f"input {spec.name!r} takes {spec.dtype}, found {array.dtype}: "
                f"convert it with .astype('{spec.dtype}')"
            )
        if not fits(array.shape, spec):
            wanted = " x ".join(map(str, spec.shape)) or "a scalar"
            shape = " x ".join(map(str, array.shape)) or "a scalar"
            raise UserError(f"input {spec.name!r} takes {wanted}, found {shape}")
        arrays[spec.name] = np.require(array, requirements=("C", "A"))
    _check_same(inputs, arrays)
    return arrays


def native(value: object, what: str) -> Array:
    """``value`` as a plain array in the machine's byte order: of no subclass, all elements there.

    Args:
        value: an array, a list of numbers, or anything else that NumPy makes an array of.
        what: what messages call it.

    Raises:
        UserError: elements of it are masked, or NumPy makes no array of it.
    """
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise UserError(f"{what} is a masked array with elements masked: give it .filled(...)")
        value = value.data
    try:
        array: Array = np.asarray(value)
    except Exception as error:  # whatever the object's own conversion raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} is no array: {reason}") from None
    if array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def _check_same(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> None:
    """Dynamic sizes of one name, the batch of several inputs, are one size."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            if isinstance(dim, str) and dim != "?" and sizes.setdefault(dim, size) != size:
                raise UserError(
                    f"{dim} is {size} in input {spec.name!r} and {sizes[dim]} in another: "
                    "give all inputs the same"
                )


def fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether an array of ``shape`` is one that ``spec`` describes."""
    return len(shape) == len(spec.shape) and all(
        size == dim if isinstance(dim, int) else size > 0
        for size, dim in zip(shape, spec.shape, strict=True)
    )


@lru_cache(maxsize=256)
def split(batch: int, batches: tuple[int, ...]) -> tuple[int, ...] | None:
    """``batch`` as a sum of ``batches``, the largest as often as it fits; None: it is no such sum.

    Without ``batches``, for engines that take any, it is one piece.
    """
    if not batches:
        return (batch,)
    pieces: list[int] = []
    for size in sorted(batches, reverse=True):
        pieces += [size] * ((batch - sum(pieces)) // size)
    return tuple(pieces) if sum(pieces) == batch else _fewest(batch, batches)


def _fewest(batch: int, batches: Sequence[int]) -> tuple[int, ...] | None:
    """The shortest sum, found by trying all: 6 is 3 + 3 of (5, 3), where 5 leaves 1."""
    best: list[tuple[int, ...] | None] = [(), *[None] * batch]
    for total in range(1, batch + 1):
        candidates = (best[total - size] for size in batches if size <= total)
        rest = min((each for each in candidates if each is not None), key=len, default=None)
        if rest is not None:
            size = next(s for s in batches if s <= total and best[total - s] == rest)
            best[total] = tuple(sorted((*rest, size), reverse=True))
    return best[batch]
