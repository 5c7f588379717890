"""benchmarks/gpu.py: what it compares, and that it says so where there is nothing to measure on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prunedeploy.core.records import Difference
from prunedeploy.core.statistics import ratio

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "no CUDA GPU here" in done.stderr


@pytest.mark.slow
def test_both_networks_compute_the_same(gpu: ModuleType, tmp_path: Path) -> None:
    dense, shrunk = gpu.networks("resnet20", 0.5, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        one, other = (module(x) for module in (dense, shrunk))
    one, other = (y[0] if isinstance(y, tuple | list) else y for y in (one, other))
    assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))
    sizes = [sum(p.numel() for p in (*m.parameters(), *m.buffers())) for m in (dense, shrunk)]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_they_compute_in_float16_too(gpu: ModuleType, tmp_path: Path) -> None:
    for module in gpu.networks("resnet20", 0.5, tmp_path):
        with torch.no_grad():
            y = module.half()(torch.randn(2, 3, 32, 32).half())
        y = y[0] if isinstance(y, tuple | list) else y
        assert y.dtype == torch.float16
        assert torch.isfinite(y).all()


def test_a_row_of_the_table(gpu: ModuleType) -> None:
    row = gpu.Row(64, "float16", 8.0, 4.0, ratio([8] * 9, [4] * 9), Difference(1, 2e-3, 1e-2, 64))
    (*_, line) = gpu.render([row])
    assert line == "| 64 | float16 | 8.000 | 4.000 | 2.00 (2.00 to 2.00) | 2.0e-03 |"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_on_a_gpu(gpu: ModuleType, tmp_path: Path, precision: str) -> None:
    dense, shrunk = gpu.networks("resnet20", 0.5, tmp_path)
    modules = {"dense": dense, "shrunk": shrunk}
    row = gpu.measure(modules, (2, 3, 32, 32), precision, 5)
    assert row.difference.passed
    assert min(row.dense, row.shrunk) > 0
