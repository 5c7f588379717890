"""Cut or flip any file anywhere: one line for the user, or it loads; nothing else, and no hang."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import load
from prunedeploy.core.errors import UserError

ARCH = "small_net_of_the_tests:Net"


def save_safetensors(net: nn.Module, path: Path) -> None:
    pytest.importorskip("safetensors.torch").save_file(net.state_dict(), path)


def save_exported(net: nn.Module, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(net, (torch.rand(2, 3, 9, 9),)), file)


def save_npz(net: nn.Module, path: Path) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in net.state_dict().items()})


FORMATS: dict[str, Callable[[nn.Module, Path], object]] = {
    "zip": lambda net, path: torch.save({"state_dict": net.state_dict(), "epoch": 3}, path),
    "legacy": lambda net, path: torch.save(
        {"state_dict": net.state_dict()}, path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda net, path: path.write_bytes(pickle.dumps({"model": net.state_dict()})),
    "numpy": lambda net, path: path.write_bytes(
        pickle.dumps({name: tensor.numpy() for name, tensor in net.state_dict().items()})
    ),
    "sparse": lambda net, path: torch.save(
        {n: t.to_sparse() if t.dim() == 4 else t for n, t in net.state_dict().items()}, path
    ),
    "module": lambda net, path: torch.save(net, path, _use_new_zipfile_serialization=False),
    "npz": save_npz,
    "safetensors": save_safetensors,
    "pt2": save_exported,
    "torchscript": lambda net, path: torch.jit.trace(net, torch.rand(2, 3, 9, 9)).save(path),
}
EVERY = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture
def saved(form: str, net: nn.Module, tmp_path: Path) -> Path:
    FORMATS[form](net, tmp_path / "net.pt")
    load(tmp_path / "net.pt", arch=ARCH)
    return tmp_path / "net.pt"


def attempt(path: Path, data: bytes | bytearray) -> bool:
    """Whether it loads. A hang ends the process with a traceback instead of the whole run."""
    path.write_bytes(data)
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        load(path, arch=ARCH)
    except UserError as error:
        message = str(error)
        assert path.name in message
        assert "\n" not in message
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


def positions(data: bytes, count: int) -> list[int]:
    """Both ends densely, where the headers are, and the middle at random."""
    random.seed(0)
    ends = [*range(min(len(data), 160)), *range(max(len(data) - 160, 0), len(data))]
    return sorted(
        {
            *random.sample(ends, min(count // 2, len(ends))),
            *random.choices(range(len(data)), k=count // 2),
        }
    )


@EVERY
def test_cut_anywhere(form: str, saved: Path) -> None:
    data = saved.read_bytes()
    loaded = [at for at in positions(data, 120) if attempt(saved, data[:at])]
    assert all(at > len(data) - 64 for at in loaded)  # only what nobody reads may be missing


@EVERY
def test_flip_anywhere(form: str, saved: Path) -> None:
    data = saved.read_bytes()
    for at in positions(data, 160):
        flipped = bytearray(data)
        flipped[at] ^= 1 << random.randrange(8)
        attempt(saved, flipped)


@pytest.mark.parametrize("form", ["zip", "pt2", "torchscript"])
def test_a_flip_in_the_weights_is_seen(form: str, saved: Path, net: nn.Module) -> None:
    data = bytearray(saved.read_bytes())
    at = data.index(net.conv2.weight.detach().numpy().tobytes())
    data[at + 40] ^= 16
    assert not attempt(saved, data)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "module", "torchscript"])
def test_bytes_exchanged_for_opcodes(form: str, saved: Path) -> None:
    data = saved.read_bytes()
    begin = data.index(b"\x80")
    random.seed(1)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(random.randrange(1, 4)):
            changed[begin + random.randrange(600)] = random.choice(
                b"().0]}lstaRbc\x81\x85Qhqru\x8a\x95\x96"
            )
        attempt(saved, changed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"PK\x03\x04",
        b"PK\x05\x06" + b"\0" * 18,
        b"\x80\x02.",
        b"\x80\x04N.",
        b"\x80\x04}.",
        b"\x80\x04]\x94.",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>",
        b"\x1f\x8b\x08\x00",
        b"\x89HDF\r\n",
        json.dumps({"a": 1}).encode(),
        b"\x02\0\0\0\0\0\0\0{}",
        b"\xff" * 100,
        b"\x08" * 100,
    ],
)
def test_what_is_no_checkpoint(data: bytes, tmp_path: Path) -> None:
    assert not attempt(tmp_path / "net.pt", data)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.pt", tmp_path / "absent" / "net.pt"):
        with pytest.raises(UserError, match=path.name):
            load(path)
    with contextlib.suppress(UserError):
        load("nul\0byte")
