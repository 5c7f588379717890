"""Reads a checkpoint file of any kind as containers and tensors, with stubs for all else."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunedeploy.checkpoint import current_folder, shards
from prunedeploy.checkpoint.pickle.rebuild import DTYPES, view
from prunedeploy.checkpoint.pickle.stub import Bytes, Storage
from prunedeploy.checkpoint.pickle.torchfile import (
    check_claims,
    read_legacy,
    read_pickle,
    read_zip,
)
from prunedeploy.checkpoint.pickle.unpickle import CodeRefused
from prunedeploy.checkpoint.sniff import Kind, kind
from prunedeploy.core.budget import Budget, OverBudgetError
from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Array

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = {"images", "labels"}  # the arrays of a file of labelled images
DESCRIPTIONS: dict[Kind, str] = {
    "zip": "torch.save, zip format",
    "legacy": "torch.save, legacy format",
    "tar": "torch.save, tar format",
    "pickle": "plain pickle",
    "safetensors": "safetensors",
    "shards": "weights in several files",
    "npz": "NumPy archive",
    "pt2": "torch.export archive",
    "torchscript": "TorchScript archive",
}

# torch._export.serde.schema.ScalarType
PT2_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}


def read(path: Path, of: Kind, trust: bool) -> Any:
    """Read a file as containers, tensors and stubs. Without ``trust`` no code of it is run.

    Raises:
        UserError: the file is damaged, or cannot be read without running code.
        MissingExtra: a safetensors file, and no safetensors.
    """
    with readable(path):
        if trust and of in ("zip", "legacy", "tar", "pickle"):
            return _read_trusted(path, of)
        match of:
            case "zip" | "torchscript":
                return read_zip(path)
            case "legacy":
                with path.open("rb") as file:
                    return read_legacy(file, path.stat().st_size)
            case "pickle":
                with path.open("rb") as file:
                    return read_pickle(file)
            case "safetensors":
                return _read_safetensors(path)
            case "shards":
                return shards.read(path, lambda file: _read_shard(file, trust))
            case "npz":
                return _read_npz(path)
            case "pt2":
                return _read_pt2_weights(path)
            case "tar":
                raise UserError(
                    f"{path} is a tar archive of PyTorch before 0.2, whose loading unpacks files:"
                    " pass --trust if you trust its origin"
                )
            case _:
                raise UserError(f"{path} is not a checkpoint but of kind {of}")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Word whatever a parser makes of arbitrary bytes as one line about ``path``."""
    try:
        yield
    except OverBudgetError as error:
        raise OverBudgetError(f"{path} cannot be read: {error}") from None
    except UserError:
        raise
    except CodeRefused as refused:
        raise UserError(
            f"{path} names {refused}, which has no place beside weights: it may run code when"
            " loaded. Pass --trust if you trust its origin"
        ) from None
    # Damaged input makes the parsers raise anything; there is no narrower common class.
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise UserError(
            f"{path} cannot be read ({reason}): it is damaged or incomplete, fetch it again"
        ) from error


def _read_trusted(path: Path, kind: Kind) -> Any:
    """Classes of the file may lie in the current folder."""
    import torch

    with current_folder.asked():
        if kind != "pickle":
            return torch.load(path, map_location="cpu", weights_only=False)
        with path.open("rb") as file, _storages_on_cpu():
            return pickle.load(file)


@contextmanager
def _storages_on_cpu() -> Iterator[None]:
    """Plain pickles bring storages through ``torch.storage._load_from_bytes``, on their device."""
    import torch

    original = torch.storage._load_from_bytes

    def load(data: bytes) -> Any:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)

    torch.storage._load_from_bytes = load
    try:
        yield
    finally:
        torch.storage._load_from_bytes = original


def _read_shard(path: Path, trust: bool) -> dict[str, Any]:
    tree = read(path, kind(path), trust)
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no tensors by name, as one of several files has to")
    return tree


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise MissingExtra("safetensors", "safetensors") from None
    budget = Budget(path.stat().st_size)
    with safe_open(path, framework="numpy") as header:  # checked in whole, without torch
        budget.check("its header", len(header.keys()), budget.entries, "tensors")
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _read_npz(path: Path) -> dict[str, Array]:
    import numpy as np

    with zipfile.ZipFile(path) as members:
        check_claims(members)
    with np.load(path, allow_pickle=False) as archive:
        if set(archive.files) >= IMAGES:
            raise UserError(f"{path} holds labelled images, not weights: they go to --data")
        arrays = {name: archive[name] for name in archive.files}
    return {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}


def constants(path: Path, of: Kind) -> Any:
    """Tensors that the program in the file has beside its parameters and buffers: attributes of
    modules, masks among them, that the state_dict does not have.

    Raises:
        UserError: the file is damaged.
    """
    with readable(path):
        if of == "torchscript":
            return read_zip(path, "constants")
        if of == "pt2":
            with zipfile.ZipFile(path) as archive:
                check_claims(archive)
                return _pt2_tensors(archive, "_constants_config.json")
    return None


def _read_pt2_weights(path: Path) -> dict[str, Any]:
    """Parameters and buffers alone: the program is left untouched (see ``program.py``)."""
    with zipfile.ZipFile(path) as archive:
        check_claims(archive)
        tensors = _pt2_tensors(archive, "_weights_config.json")
    if tensors is None:
        raise UserError(
            f"{path} is a torch.export archive of another version of PyTorch, whose weights"
            " can only be read by running it: pass --trust if you trust its origin"
        )
    return tensors


def _pt2_tensors(archive: zipfile.ZipFile, config: str) -> dict[str, Any] | None:
    """The tensors that a table of the archive lists, or None where it has no such table."""
    configs = [name for name in archive.namelist() if name.endswith(config)]
    if len(configs) != 1:
        return None
    folder = configs[0].rpartition("/")[0]
    tensors = {}
    for name, entry in json.loads(archive.read(configs[0]))["config"].items():
        if not entry["path_name"].startswith("custom_obj_"):
            tensors[name] = _pt2_tensor(archive.read(f"{folder}/{entry['path_name']}"), entry)
    return tensors


def _pt2_tensor(record: bytes, entry: dict[str, Any]) -> Any:
    if entry["use_pickle"]:
        return read_zip(io.BytesIO(record))
    meta = entry["tensor_meta"]
    dtype = DTYPES[f"torch.{PT2_DTYPES[meta['dtype']]}"]
    size, stride = (tuple(n["as_int"] for n in meta[key]) for key in ("sizes", "strides"))
    storage = Storage(Bytes(bytearray(record)), dtype)
    return view(storage, meta["storage_offset"]["as_int"], size, stride)
