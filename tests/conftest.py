"""Fixtures for all tests: one thread, the real data's folder, and a small network.

The network has channels of zeros; with it come the same without them, and the record that shrink
writes of the two.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from prunedeploy.core.files import sha256, to_json
from prunedeploy.core.records import (
    Difference,
    ModelStats,
    Note,
    PassReport,
    PassResult,
    ShrinkResult,
)

os.environ.setdefault("OMP_NUM_THREADS", "1")
BEGIN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="start no test after so many minutes")
    parser.addoption("--order", type=int, help="a number that orders the test files")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--order`` puts the files in an order of that number's: others come first each time."""
    order = config.getoption("order")
    if order is None:
        return
    files = sorted({item.path for item in items})
    random.Random(order).shuffle(files)
    items.sort(key=lambda item: files.index(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() - BEGIN > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes of --minutes are over")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real weights and images: $PRUNEDEPLOY_DATA, or shared/data beside us."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRUNEDEPLOY_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PRUNEDEPLOY_DATA to its folder")
    return folder


def write_net(path: Path, channels: int, batch: str = "batch", scale: float = 1.0) -> Path:
    """Conv, ReLU, pool, linear on 3x8x8; of ``channels`` only the first 4 are not zero."""
    random = np.random.default_rng(0)
    w = np.zeros((channels, 3, 3, 3), np.float32)
    v = np.zeros((channels, 10), np.float32)
    w[:4] = random.standard_normal((4, 3, 3, 3))
    v[:4] = scale * random.standard_normal((4, 10))
    graph = onnx.parser.parse_graph(
        f"""net (float[{batch}, 3, 8, 8] input) => (float[{batch}, 10] output) {{
            c = Conv <pads = [1, 1, 1, 1]> (input, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            output = Gemm(f, v)
        }}"""
    )
    for name, array in (("w", w), ("v", v)):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def write_network():
    return write_net


@pytest.fixture
def shrunk(tmp_path: Path) -> ShrinkResult:
    """out.onnx, out.dense.onnx and out.json in ``tmp_path``, as shrink leaves them."""
    model = write_net(tmp_path / "out.onnx", 4)
    dense = write_net(tmp_path / "out.dense.onnx", 16)
    notes = (
        Note("channels-cut", "w", "taken", "channels that are constant", 12),
        *(
            Note("pinned-axis", f"layer{i}|x", "refused", "unknown operator Foo", 3)
            for i in range(5)
        ),
    )
    result = ShrinkResult(
        source=tmp_path / "out.pt",
        model=model,
        dense=dense,
        model_sha256=sha256(model),
        dense_sha256=sha256(dense),
        arch="resnet20",
        found=("state_dict",),
        before=ModelStats(592, 148, 27808, dense.stat().st_size),
        after=ModelStats(148, 148, 6952, model.stat().st_size),
        difference=Difference(1e-7, 2e-7, 1e-5, 8),
        passes=(PassReport("shrink", PassResult(True, notes), 0.1, None),),
        seconds=0.5,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    (tmp_path / "out.json").write_text(to_json(result))
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``tmp_path`` as the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def leftovers():
    """What a build or a write must not leave behind in a folder."""

    def find(folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir() if path.name.startswith(".")]

    return find
