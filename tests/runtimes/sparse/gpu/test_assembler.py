"""Emitted kernels assemble for every generation, without spills: where a ptxas is at hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gpu_layers import Layer, emitted, lowered
from lowered import Small

from prunedeploy import targets
from prunedeploy.runtimes.sparse.gpu import generated
from prunedeploy.runtimes.sparse.gpu.cubin import instructions
from prunedeploy.runtimes.sparse.gpu.generated import Schedule
from prunedeploy.runtimes.sparse.gpu.ptx import HEADER
from prunedeploy.runtimes.sparse.plan.steps import Plan
from prunedeploy.targets.gpu import GPUS, capability

PTXAS = os.environ.get("PRUNEDEPLOY_PTXAS") or shutil.which("ptxas")
pytestmark = pytest.mark.skipif(
    PTXAS is None,
    reason="no ptxas: name that of nvidia-cuda-nvcc-cu12==12.9.* in PRUNEDEPLOY_PTXAS",
)
# the multiply-adds in the code of a kernel, at least
SHARES = {"generated": 0.65, "split": 0.55, "strided": 0.45}
LAYERS = {
    "generated": (Layer((1, 64, 14, 14), 64, (3, 3), pads=(1, 1, 1, 1), empty=0), Schedule(64, 64)),
    "split": (Layer((1, 128, 7, 7), 64), Schedule(32, 32, 4)),
    "strided": (Layer((2, 16, 15, 13), 24, (3, 3), (2, 2), (1, 1, 1, 1)), Schedule(16, 32)),
}
OTHERS = (
    Layer((1, 16, 9, 9), 16, (3, 3), pads=(1, 1, 1, 1), groups=16, density=1.0),
    Layer((3, 200, 1, 1), 40, activation="Sigmoid"),
    Layer((1, 256, 9, 9), 96, density=1.0, empty=0, activation="HardSwish", residual=True),
)


def assemble(text: str, arch: str, folder: Path) -> str:
    """What ptxas says of ``text``."""
    source = folder / "kernel.ptx"
    source.write_text(HEADER + text)
    command = [str(PTXAS), f"-arch={arch}", "-v", str(source), "-o", str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "is not defined for option 'gpu-name'" in done.stderr:
        pytest.skip(f"this ptxas has dropped {arch}: CUDA 12.9 is the last that knows it")
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("target", ["jetson-nano", "rtx2080ti", "jetson-orin", "h100"])
@pytest.mark.parametrize("name", LAYERS)
def test_generated_kernels_fit_the_registers(name: str, target: str, tmp_path: Path) -> None:
    layer, cut = LAYERS[name]
    machine = targets.by_name(target)
    kernels, _ = emitted(layer.plan(), lambda step, n, _: generated.emit(step, n, cut), machine)
    said = assemble("".join(k.text for k in kernels), f"sm_{capability(machine)}", tmp_path)
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}
    assert max(map(int, re.findall(r"Used (\d+) registers", said))) <= 128
    found = instructions((tmp_path / "kernel.cubin").read_bytes(), capability(machine))
    (kernel,) = (k for k in kernels if k.kind in ("generated", "split"))
    assert kernel.text.count("fma.rn.f32") >= SHARES[name] * found[kernel.name]


@pytest.mark.parametrize("target", ["jetson-nano", "h100"])
@pytest.mark.parametrize("layer", OTHERS, ids=("depthwise", "streamed", "looped"))
def test_the_other_kernels_assemble(layer: Layer, target: str, tmp_path: Path) -> None:
    machine = targets.by_name(target)
    assert target in GPUS
    kernels, _ = emitted(layer.plan(), None, machine)
    said = assemble("".join(k.text for k in kernels), f"sm_{capability(machine)}", tmp_path)
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}


def _transformer() -> Plan:
    """Every kernel that transformers need."""
    net = Small()
    index, mask = net.input("n", 9, dtype=np.int64), net.input("n", 1, 9, dtype=np.bool_)
    x = net.node("Gather", net.normal(50, 40), index)
    scores = net.node("MatMul", x, net.node("Transpose", x, perm=[0, 2, 1]))
    scores = net.node("Add", scores, net.node("Cast", mask, to=1))
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), x)
    y = net.node("LayerNormalization", net.node("Add", x, y), net.normal(40), net.normal(40))
    for op in ("Gelu", "Erf", "Tanh", "Elu", "Softplus", "Mish", "Floor", "Sign"):
        y = net.node("Add", y, net.node(op, y))
    taken = net.node("GatherElements", y, net.input("n", 2, 40, dtype=np.int64), axis=1)
    return lowered(net, 2, y, taken)


@pytest.mark.parametrize("target", ["jetson-nano", "rtx2080ti", "h100"])
def test_the_kernels_of_transformers_assemble(target: str, tmp_path: Path) -> None:
    machine = targets.by_name(target)
    kernels, _ = emitted(_transformer(), None, machine)
    assert {"lookup", "matmul", "softmax", "norm", "copy", "take"} <= {k.kind for k in kernels}
    said = assemble("".join(k.text for k in kernels), f"sm_{capability(machine)}", tmp_path)
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}
