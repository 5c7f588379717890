"""Device bundles that lack a part: what is said, and when none is written."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path

import pytest
from net import Net
from typer.testing import CliRunner

from prunedeploy.bundle.write import write_bundle
from prunedeploy.cli.commands import app
from prunedeploy.core.errors import CompilerError, UserError
from prunedeploy.engines import bundle_record as record
from prunedeploy.graph import model as models


def save(path: Path, operator: str) -> Path:
    """A convolution and an operator behind it."""
    import numpy as np

    net = Net(3, 8, dtype=np.float32, opset=13)
    models.save(net.model(net.node(operator, net.conv("input", (3, 4)))), path)
    return path


def compiler(folder: Path, body: str) -> Path:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\ncase $1 in --version) echo gcc 9.8.7; exit;; esac\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_compiler_that_does_not_work_is_not_passed_over(tmp_path, monkeypatch):
    """An engine that the bundle should have is no note at the end of it."""
    broken = compiler(tmp_path, "echo \"error: unknown CPU: 'cortex'\" >&2; exit 1")
    monkeypatch.setenv("PRUNEDEPLOY_CC", str(broken))
    model = save(tmp_path / "net.onnx", "Relu")
    with pytest.raises(CompilerError, match=r"no sparse engine for jetson-nano: .*unknown CPU"):
        write_bundle(model, "jetson", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cc", "net.onnx"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["build", "net.onnx", "--target", "jetson"])
    assert isinstance(done.exception, CompilerError)


def test_a_model_that_the_sparse_runtime_cannot_compute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "net.onnx", "Det")
    done = CliRunner().invoke(app, ["build", "net.onnx", "--target", "jetson"])
    assert done.exit_code == 1, done.output
    assert "NOT complete: there is no sparse engine" in done.output
    assert "no sparse engine: it cannot compute" in done.output
    found = record.check(tmp_path / "net.jetson-nano.bundle").bundle
    assert found.missing == ("sparse engine",)


@pytest.mark.parametrize("at", [12, 40, 200])
def test_an_archive_whose_compression_is_broken(tmp_path: Path, at: int) -> None:
    """zlib has errors of its own, which reach whoever asks whether this is a bundle."""
    data = bytearray(gzip.compress(bytes(range(256)) * 40, mtime=0))
    data[at : at + 8] = b"\xff" * 8
    path = tmp_path / "net.bundle.tar.gz"
    path.write_bytes(data)
    assert not record.is_bundle(path)
    with pytest.raises(UserError, match="is not a device bundle"):
        record.read(path)
