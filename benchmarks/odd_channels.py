"""The cost of odd channels in ONNX Runtime: layers of 64 to 192 channels, one thread, in Markdown.

    python benchmarks/odd_channels.py [--rounds 60]

A 1x1 convolution from 64 channels to so many, a layer of that width (1x1, 3x3, or depthwise 3x3),
and a 1x1 convolution back to 64: microseconds of the three. The factors of
``prunedeploy/shrinking/variant_cost.py`` come from this table.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prunedeploy.graph import model as models
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.api import OpenOptions
from prunedeploy.runtimes.ort.cpu import OrtSession
from prunedeploy.runtimes.timing import interleave

OUTER = 64
LESS = (0, 1, 2, 3, 4, 6, 8, 12, 15, 16, 24, 32)  # channels fewer than the widest
KINDS = {"1x1": (1, False), "3x3": (3, False), "depthwise 3x3": (3, True)}


def network(path: Path, width: int, size: int, kernel: int, depthwise: bool) -> Path:
    """The three layers."""
    random = np.random.default_rng(0)
    weights = {
        "first": (width, OUTER, 1, 1),
        "middle": (width, 1 if depthwise else width, kernel, kernel),
        "last": (OUTER, width, 1, 1),
    }
    nodes, value = [], "x"
    for index, name in enumerate(weights):
        pad = kernel // 2 if name == "middle" else 0
        group = width if name == "middle" and depthwise else 1
        nodes.append(
            helper.make_node("Conv", [value, name], [f"c{index}"], pads=[pad] * 4, group=group)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value = f"r{index}"
    shape = [1, OUTER, size, size]
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", value)]
    tensors = [
        numpy_helper.from_array(random.standard_normal(of).astype(np.float32), name)
        for name, of in weights.items()
    ]
    graph = helper.make_graph(nodes, "layers", info[:1], info[1:], tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def main() -> None:
    """Measure every width of every kind in turn, print a row each."""
    parser = argparse.ArgumentParser(description="what channel counts cost in ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print(f"| layer | map | widest | {' | '.join(f'-{less}' for less in LESS[1:])} |")
    print(f"|---|---|{'---:|' * len(LESS)}")
    for kind, (kernel, depthwise) in KINDS.items():
        for size, widest in ((28, 96), (14, 192)):
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                sessions = []
                for less in LESS:
                    path = Path(folder) / f"{less}.onnx"
                    network(path, widest - less, size, kernel, depthwise)
                    specs = models.specs(models.load(path))
                    session = OrtSession(path, *specs, OpenOptions(threads=1, shared=True))
                    sessions.append(stack.enter_context(session))
                feeds = random_feeds(sessions[0].inputs, 1)
                samples = interleave(sessions, feeds, options.rounds, 5)
            cells = [f"{np.median(times) / 1e3:.0f}" for times in samples]
            print(f"| {kind} | {size}x{size} | {widest}: {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
