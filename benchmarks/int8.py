"""Quantised networks with scattered zeros: the sparse engine on bytes, and what users have today.

    python benchmarks/int8.py [--networks mobilenet_v1:0.9 ...] [--threads 1] [--batch 1]

Each network of ``cpu_models.py`` is quantised by ONNX Runtime's own quantiser (QDQ, uint8
activations, int8 weights with a scale a channel) from random calibration inputs. Then the sparse
engine and ONNX Runtime run the quantised model, and both the model in float32, in turn on the same
input. The table has the median of each, how many times faster than ONNX Runtime's int8 the others
are, and in how many values the two quantised outputs differ.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cpu_models
import numpy as np

import prunedeploy
from prunedeploy.core.records import Array
from prunedeploy.core.statistics import ratio
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.timing import interleave

WARMUP = 3
CALIBRATION = 4  # random inputs
NETWORKS = ("resnet50:0.9", "resnet50:0.8", "mobilenet_v1:0.9", "resnet50:0.0")
COLUMNS = ("ONNX Runtime int8", "ours int8", "ours float32", "ONNX Runtime float32")


class Inputs:
    """Random inputs, one after the other, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        random = np.random.default_rng(0)
        arrays = (
            random.standard_normal((1, *shape)).astype(np.float32) for _ in range(CALIBRATION)
        )
        self._left: Iterator[dict[str, Array]] = ({name: array} for array in arrays)

    def get_next(self) -> dict[str, Array] | None:
        """The next one; None behind the last."""
        return next(self._left, None)


def quantise(source: Path, output: Path, shape: tuple[int, ...]) -> None:
    """Write the quantised model."""
    import onnx
    from onnxruntime import quantization as q

    name = onnx.load(source, load_external_data=False).graph.input[0].name
    q.quantize_static(
        source,
        output,
        Inputs(name, shape),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )


def measure(model: str, sparsity: float, batch: int, threads: int, rounds: int) -> str:
    """A network's line of the table."""
    network = cpu_models.NETWORKS[model]
    wide = cpu_models.dynamic(model, sparsity)
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name, ExitStack() as stack:
        folder = Path(name)
        small = folder / "int8.onnx"
        quantise(wide, small, network.shape)
        engines = [
            prunedeploy.build(
                path, runtime=runtime, output=folder / f"{number}", batch=batch, threads=threads
            )
            for number, (path, runtime) in enumerate(
                ((small, "ort"), (small, "sparse"), (wide, "sparse"), (wide, "ort"))
            )
        ]
        sessions = [stack.enter_context(prunedeploy.open(e.path, threads=threads)) for e in engines]
        feeds = random_feeds(sessions[0].inputs, batch)
        samples = interleave(sessions, feeds, rounds, WARMUP)
        outputs = [next(iter(session.run(feeds).values())) for session in sessions[:2]]
    different = int((outputs[0] != outputs[1]).sum())
    cells = [
        network.title,
        f"{sparsity:.0%}",
        f"{np.median(samples[0]) / 1e6:.2f}",
        *(f"{np.median(s) / 1e6:.2f} ({ratio(samples[0], s).value:.2f})" for s in samples[1:]),
        f"{different} of {outputs[0].size}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="name:sparsity")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    heads = " | ".join(f"{column}, ms" for column in COLUMNS)
    print(
        f"| network | zeros | {heads} | different |",
        "|---|---:|---:|---:|---:|---:|---:|",
        sep="\n",
    )
    for each in options.networks:
        model, _, sparsity = each.partition(":")
        line = measure(model, float(sparsity), options.batch, options.threads, options.rounds)
        print(line, flush=True)


if __name__ == "__main__":
    main()
