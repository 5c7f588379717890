"""The kind of a file, whatever its name says."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from prunedeploy.checkpoint import kind, weights
from prunedeploy.core.errors import UserError


def save_onnx(path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph), path)


STATE = {"a.weight": torch.ones(2, 2)}


def save_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))


KINDS = {
    "zip": lambda p: torch.save(STATE, p),
    "legacy": lambda p: torch.save(STATE, p, _use_new_zipfile_serialization=False),
    "pickle": lambda p: p.write_bytes(pickle.dumps(STATE)),
    "npz": save_npz,
    "torchscript": lambda p: torch.jit.script(nn.Linear(2, 2)).save(p),
    "onnx": save_onnx,
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".safetensors", ""])
def test_kind(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    KINDS[name](path)
    assert kind(path) == name
    assert kind(str(path)) == name


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    for value in ({}, {"a": 1}, [1], (1, 2)):
        (tmp_path / "net").write_bytes(pickle.dumps(value, protocol=protocol))
        assert kind(tmp_path / "net") == "pickle"


@pytest.mark.parametrize("length", [0x280, 0x380, 0x1F8B, 0x580])
def test_safetensors_whose_length_looks_like_another_format(length: int, tmp_path: Path) -> None:
    """The first bytes are the length of its header: 80 02 as of a pickle, say."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = length.to_bytes(8, "little") + header.ljust(length) + bytes(4)
    (tmp_path / "net").write_bytes(data)
    assert kind(tmp_path / "net") == "safetensors"
    assert weights(tmp_path / "net")[0].keys() == {"a"}


def test_broken_onnx_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    assert kind(tmp_path / "net.onnx") == "onnx"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"  <html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x89HDF\r\n", "Keras"),
        (b"hello", "is not a checkpoint"),
    ],
)
def test_foreign_files(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(data)
    with pytest.raises(UserError, match=says):
        kind(tmp_path / "net.pt")
