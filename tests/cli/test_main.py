"""No command runs a file of the current folder that happens to have the name of a library."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import network

# Ours, those of our libraries, those that they look for, and modules of Python's own that the
# interpreter does not load by itself.
TRAPS = (
    *("torch", "numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "onnx_graphsurgeon"),
    *("ziglang", "safetensors", "tensorrt", "tensorrt_rtx", "torchvision", "sympy", "networkx"),
    *("ml_dtypes", "typer", "click", "rich", "PIL", "matplotlib", "scipy", "yaml", "prunedeploy_x"),
    *("json", "typing", "tarfile", "zipfile", "tempfile", "subprocess", "hashlib", "platform"),
    *("ctypes", "random", "pickle", "copy", "dataclasses", "pathlib", "logging", "secrets"),
)
NET = """
import helper_of_the_user
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        assert not hasattr(np, "trap") and not hasattr(torch, "trap")
        self.conv = nn.Conv2d(3, helper_of_the_user.WIDTH, 3)

    def forward(self, x):
        from late_helper_of_the_user import twice

        return twice(self.conv(x))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A current folder full of traps, and of what the user does mean."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(
            f"import builtins\nbuiltins.open({str(tmp_path / 'MARKER')!r}, 'a').write('{name} ')\n"
            "trap = True\n"
        )
    (tmp_path / "net_of_the_user.py").write_text(NET)
    (tmp_path / "helper_of_the_user.py").write_text("WIDTH = 5\n")
    (tmp_path / "late_helper_of_the_user.py").write_text("def twice(x):\n    return x + x\n")
    state = {"conv.weight": torch.rand(5, 3, 3, 3), "conv.bias": torch.rand(5)}
    torch.save(state, tmp_path / "net.pt")
    network(tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 5, 9, 9), np.float32))
    return tmp_path


def run(folder: Path, how: str, *arguments: str, **environment: str) -> str:
    """What a command prints; it ended well, and no trap was run."""
    script = Path(sys.executable).parent / "prunedeploy"
    start = [str(script)] if how == "script" else [sys.executable, "-m", "prunedeploy"]
    if how == "script" and not script.is_file():
        pytest.skip("the command is not installed")
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [*start, *arguments], cwd=folder, capture_output=True, text=True, env=variables, timeout=300
    )
    marker = folder / "MARKER"
    assert not marker.exists(), f"{arguments[0]} ran {marker.read_text()}"
    assert done.returncode == 0, done.stderr
    return done.stdout


ARCH = ("--arch", "net_of_the_user:Net", "--input-shape", "1,3,8,8")


@pytest.mark.slow
def test_every_command(folder: Path) -> None:
    """As a module: Python then has the current folder in front of everything else."""
    run(folder, "module", "--version")
    run(folder, "module", "inspect", "net.pt", "--arch", "net_of_the_user:Net")
    run(folder, "module", "inspect", "model.onnx")
    run(folder, "module", "shrink", "net.pt", *ARCH, "--pt", "o.pt2", "--state-dict", "o.pt")
    run(folder, "module", "shrink", "model.onnx", "--align", "1", "-o", "m.onnx")
    run(folder, "module", "lower", "model.onnx", "--target", "jetson-nano", "-o", "low.onnx")
    run(folder, "module", "targets")
    run(folder, "module", "predict", "model.onnx", "--target", "jetson-nano")
    run(folder, "module", "build", "m.onnx", "--runtime", "ort", "-o", "ort.engine")
    sparse = ("--runtime", "sparse", "--tune", "none", "-o", "sparse.engine")
    run(folder, "module", "build", "m.onnx", *sparse)
    run(folder, "module", "run", "ort.engine", "x.npy", "-o", "y.npy")
    run(folder, "module", "run", "sparse.engine", "x.npy", "-o", "z.npy")
    run(folder, "module", "bench", "ort.engine", "--rounds", "5", "-o", "result.json")
    run(folder, "module", "report", "result.json")
    run(folder, "module", "serve-repo", "ort.engine", "-o", "repository")
    if importlib.util.find_spec("fastapi") is not None:  # serve is started by it
        run(folder, "module", "loadtest", "sparse.engine", "--clients", "2", "--seconds", "1")


@pytest.mark.slow
def test_the_installed_command(folder: Path) -> None:
    """Each kind of command once: reading with the user's own code, building, running."""
    run(folder, "script", "inspect", "net.pt", "--arch", "net_of_the_user:Net")
    run(folder, "script", "shrink", "net.pt", *ARCH, "--align", "1", "-o", "m.onnx")
    run(folder, "script", "build", "m.onnx", "--runtime", "ort", "-o", "ort.engine")
    run(folder, "script", "bench", "ort.engine", "--rounds", "5")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_the_compiler_of_the_package_index(folder: Path) -> None:
    """Started as a module: of the package, not of the folder that it is started in."""
    for how in ("script", "module"):
        said = run(folder, how, "build", "model.onnx", "--target", "jetson-nano", "-o", f"{how}.b")
        assert "compiled with ziglang" in said


def test_the_traps_would_work(folder: Path) -> None:
    code = "import onnxruntime"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=False)
    assert done.returncode == 0
    assert (folder / "MARKER").read_text() == "onnxruntime "
