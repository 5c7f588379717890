"""NumPy files in and out of ``prunedeploy run``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunedeploy.core.arrays import read_arrays
from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.files import atomic_path
from prunedeploy.core.records import Array, TensorSpec


@dataclass(frozen=True)
class RunResult:
    """The file that ``prunedeploy run`` wrote, with name, dtype and shape of every output."""

    output: Path
    outputs: tuple[TensorSpec, ...]


def read(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """The arrays in ``path`` by input name: a ``.npy`` for the only input, a ``.npz`` by name.

    Raises:
        UserError: no such file, not a NumPy file, or one array where several are needed.
    """
    content = read_arrays(path)
    if isinstance(content, np.ndarray):
        return {_only(path, inputs): _native(content)}
    return {name: _native(array) for name, array in content.items()}


def _native(array: Array) -> Array:
    """Convert to the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _only(path: Path, inputs: tuple[TensorSpec, ...]) -> str:
    if len(inputs) == 1:
        return inputs[0].name
    names = ", ".join(spec.name for spec in inputs)
    raise UserError(f"{path} holds one array, the engine takes {names}: give a .npz with these")


def check_output(path: Path) -> None:
    """Refuse a file name that ``write`` could not write, before anything is computed."""
    if path.suffix not in (".npy", ".npz"):
        raise OutputError(f"cannot write {path}: name it .npy, or .npz for several outputs")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is not a folder")


def write(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write ``outputs`` to ``path``: the only one as ``.npy``, any number by name as ``.npz``.

    Raises:
        UserError: several outputs for a ``.npy``, or the file cannot be written.
    """
    if path.suffix == ".npy" and len(outputs) != 1:
        raise UserError(f"the engine has outputs {', '.join(outputs)}: name the file .npz")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, next(iter(outputs.values())))
        else:
            np.savez(file, **outputs)  # type: ignore[arg-type]


def describe(path: Path, outputs: Mapping[str, Array]) -> RunResult:
    """The record of what ``write`` wrote."""
    specs = (TensorSpec(name, str(a.dtype), tuple(a.shape)) for name, a in outputs.items())
    return RunResult(path, tuple(specs))


def inputs_of(model: Path, file: Path | None) -> dict[str, Array] | None:
    """The arrays in ``file`` by the names of the model's inputs."""
    from prunedeploy.graph import model as models

    return None if file is None else read(file, models.specs(models.load(model))[0])
