"""Memory and time: a model of 2.3 GB with its weights in a file beside it, and ResNet-50.

    python benchmarks/large.py [--work FOLDER] [--blocks 17]

The large model is a stack of blocks of a transformer without attention, 2048 to 8192 and back, 30 %
of its neurons dead; ``prunedeploy shrink`` runs on it in a process of its own, whose largest
resident size is printed (files mapped into memory included). ResNet-50, 224 x 224, has 30 % of its
channels dead, in the regimes of ``tests/support/regimes.py``; what is timed are the passes alone,
without export and without the verification between them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import regimes

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.models import by_name
from prunedeploy.shrinking.export import to_model

WIDTH, INNER, TOKENS = 2048, 8192, 4
DEAD = 0.3


class Weights:
    """Initializers that lie in a file, written one by one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.tensors: list[TensorProto] = []

    def add(self, name: str, array: NDArray[np.float32]) -> str:
        """Append ``array`` to the file; its name."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        location = {"location": Path(self.file.name).name, "offset": self.file.tell()}
        for key, value in {**location, "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        self.file.write(array.data)
        return name


def block(index: int, x: str, weights: Weights, random: np.random.Generator) -> list[NodeProto]:
    """x + down(gelu(up(norm(x)))), its dead neurons constant; the last node's result is new x."""
    up = random.standard_normal((WIDTH, INNER), np.float32) / np.float32(WIDTH**0.5)
    down = random.standard_normal((INNER, WIDTH), np.float32) / np.float32(INNER**0.5)
    shift = random.standard_normal(INNER, np.float32) * np.float32(0.1)
    up[:, random.random(INNER) < DEAD] = 0
    scale = weights.add(f"{index}.scale", np.ones(WIDTH, np.float32))
    steps = [
        ("LayerNormalization", [x, scale]),
        ("MatMul", [f"{index}.0", weights.add(f"{index}.up.weight", up)]),
        ("Add", [f"{index}.1", weights.add(f"{index}.up.bias", shift)]),
        ("Gelu", [f"{index}.2"]),
        ("MatMul", [f"{index}.3", weights.add(f"{index}.down.weight", down)]),
        ("Add", [f"{index}.4", x]),
    ]
    return [
        helper.make_node(op, inputs, [f"{index}.{i}"], f"{index}.{op}.{i}")
        for i, (op, inputs) in enumerate(steps)
    ]


def write_large(path: Path, blocks: int) -> int:
    """Write the model with its weights beside it; their bytes."""
    random, nodes, x = np.random.default_rng(0), [], "input"
    with path.with_name(f"{path.name}.data").open("wb") as file:
        weights = Weights(file)
        for index in range(blocks):
            nodes += block(index, x, weights, random)
            x = nodes[-1].output[0]
        size = file.tell()
    shape = ["batch", TOKENS, WIDTH]
    given, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", x)
    )
    graph = helper.make_graph(nodes, "large", [given], [result], weights.tensors)
    imports = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return size


def large(work: Path, blocks: int) -> None:
    """Shrink in a child process, and print what it took."""
    source, result = work / "large.onnx", work / "large.shrunk.onnx"
    size = write_large(source, blocks)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "prunedeploy", "shrink", str(source), "-o", str(result)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"shrink ended with status {os.waitstatus_to_exitcode(status)}")
    left = sum(file.stat().st_size for file in models.data_files(result))
    print(
        f"large.onnx: {size / 1e9:.2f} GB of weights, {left / 1e9:.2f} GB left; "
        f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB of memory at most, {seconds:.0f} s"
    )


def resnet50(regime: str) -> None:
    """Time the passes on a fresh export, without the verification that runs between them."""
    network = by_name("resnet50").factory().eval()
    regimes.apply(network, "resnet50", regime, DEAD, seed=1, side=224)
    model = to_model(network, (1, 3, 224, 224))
    begin, busy = time.perf_counter(), time.process_time()
    for each in passes.DEFAULT:
        each(model)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    print(f"ResNet-50, {regime}: passes {busy:.2f} s of processor time, {seconds:.2f} s in all")


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for the large files; a temporary one")
    parser.add_argument("--blocks", type=int, default=17, help="of the large model, 134 MB each")
    args = parser.parse_args()
    for regime in regimes.REGIMES:
        resnet50(regime)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        large(Path(folder), args.blocks)


if __name__ == "__main__":
    main()
