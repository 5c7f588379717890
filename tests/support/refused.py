"""The command run in a folder of its own, where it has to refuse something in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prunedeploy.cli import main


class Folder:
    """A working folder that knows what lies in it, and the command run there."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys

    def listing(self) -> dict[str, bytes | None]:
        """Every path below the folder, with the content of the files."""
        paths = sorted(self.path.rglob("*"))
        return {str(p): p.read_bytes() if p.is_file() else None for p in paths}

    def refused(self, *arguments: str | Path) -> str:
        """The one line that the command ends with; all that was there is there as it was."""
        before = self.listing()
        assert main([*map(str, arguments)]) == 2
        captured = self.capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("prunedeploy: error: ")
        assert self.listing() == before
        return lines[0]


def small_model(path: Path, operator: str = "Relu", domain: str = "") -> Path:
    """Two convolutions with ``operator`` between them."""
    rng = np.random.default_rng(0)
    weights = {
        "first.weight": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "second.weight": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "first.weight"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node(operator, ["c"], ["r"], name="between", domain=domain),
            helper.make_node("Conv", ["r", "second.weight"], ["output"]),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("private", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path
