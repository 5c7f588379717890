"""Linear layers on vectors of features, which wait for their weights: in four bytes or in two.

    python benchmarks/vectors.py [--rounds 30] [--threads 1]

For each layer ONNX Runtime, the sparse engine, and the sparse engine of the model whose weights
``prunedeploy lower --weights float16`` has rounded, in turn on the same input. The table has the
median of each, how many times faster than ONNX Runtime the engines are, the bytes of weights that
the second one fetches a second, and by how much rounding changes the output.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import prunedeploy
from prunedeploy.core.statistics import ratio
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.timing import interleave

WARMUP = 3
# inputs, outputs, share of the weights that are not zero, vectors: the first layer of VGG-16's
# head, ResNet-50's head, a feed-forward layer of BERT-base
LAYERS = (
    *((25088, 4096, density, batch) for density in (1.0, 0.1) for batch in (1, 4, 8)),
    *((2048, 1000, density, 1) for density in (1.0, 0.1)),
    *((768, 3072, density, 1) for density in (1.0, 0.1)),
)
HEAD = "| layer | non-zero | vectors | ONNX Runtime, ms | float32 | float16 | GB/s | rounding |"


def write(path: Path, inputs: int, outputs: int, density: float, batch: int) -> None:
    """The layer as a model."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
    weight[rng.random(weight.shape) >= density] = 0
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "head.weight", "head.bias"], ["y"], transB=1)],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [
            numpy_helper.from_array(weight, "head.weight"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), "head.bias"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def measure(layer: tuple[int, int, float, int], threads: int, rounds: int) -> str:
    """The layer's line of the table."""
    inputs, outputs, density, batch = layer
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name, ExitStack() as stack:
        folder = Path(name)
        write(folder / "layer.onnx", *layer)
        lowered = prunedeploy.lower(folder / "layer.onnx", folder / "half.onnx", weights="float16")
        engines = [
            prunedeploy.build(
                folder / f"{of}.onnx", runtime=runtime, output=folder / f"{of}.{runtime}"
            )
            for of, runtime in (("layer", "ort"), ("layer", "sparse"), ("half", "sparse"))
        ]
        sessions = [stack.enter_context(prunedeploy.open(e.path, threads=threads)) for e in engines]
        feeds = random_feeds(sessions[0].inputs, batch)
        samples = interleave(sessions, feeds, rounds, WARMUP)
    each = 2 if density == 1 else 4  # bytes of a weight, and of its column
    seconds = float(np.median(samples[2])) / 1e9
    cells = [
        f"{inputs} to {outputs}",
        f"{density:.0%}",
        str(batch),
        f"{np.median(samples[0]) / 1e6:.2f}",
        *(f"{np.median(s) / 1e6:.2f} ({ratio(samples[0], s).value:.2f})" for s in samples[1:]),
        f"{each * density * inputs * outputs / seconds / 1e9:.1f}",
        f"{lowered.difference.max_rel:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(HEAD, "|---|---:|---:|---:|---:|---:|---:|---:|", sep="\n")
    for layer in LAYERS:
        print(measure(layer, options.threads, options.rounds), flush=True)


if __name__ == "__main__":
    main()
