"""Engines for the GPUs of Jetson boards, which are built here and run there."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from pathlib import Path

import pytest
from lowered import Small

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.engines import building
from prunedeploy.graph import model as models

AARCH64 = 183


def small(folder: Path) -> Path:
    net = Small()
    path = folder / "net.onnx"
    models.save(net.model(net.node("Relu", net.conv(net.input("n", 3, 8, 8), 3, 5))), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("board", "isa"), [("jetson-nano", "sm_53"), ("jetson-orin", "sm_87")])
def test_an_engine_for_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str, isa: str
) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang, which compiles for other machines")
    monkeypatch.setenv("PRUNEDEPLOY_PTXAS", "none")
    engine = tmp_path / "engine"
    building.build(small(tmp_path), board, "sparse-gpu", engine)
    library = (engine / "model.so").read_bytes()
    assert struct.unpack_from("<H", library, 18) == (AARCH64,)
    wanted = {tuple(map(int, each.split(b"."))) for each in re.findall(rb"GLIBC_([\d.]+)", library)}
    assert wanted
    assert max(wanted) <= (2, 27)  # Ubuntu 18.04's
    needed = set(re.findall(rb"lib[a-z_]+\.so\.\d+", library))
    assert needed <= {b"libc.so.6", b"libdl.so.2", b"libpthread.so.0", b"libcuda.so.1"}
    assert (engine / "model.ptx").read_text().startswith(".version 6.4\n.target sm_53\n")
    manifest = json.loads((engine / "manifest.json").read_text())
    assert (manifest["runtime"], manifest["isa"]) == ("sparse-gpu", isa)
    with pytest.raises(UserError, match="aarch64"):
        prunedeploy.open(engine)


def test_a_board_without_figures_of_its_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raspberry-pi-5 cannot have sparse-gpu"):
        building.build(small(tmp_path), "raspberry-pi-5", "sparse-gpu", tmp_path / "engine")
