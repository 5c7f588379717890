"""Dense against shrunken on a CUDA GPU, PyTorch with CUDA graphs, in Markdown.

    python benchmarks/gpu.py [--network resnet50] [--dead 0.5] [--batch 1,64]
        [--precision float32,float16] [--rounds 200]

So many of each block's inner channels are zero in the network with random weights that is measured;
both have BatchNorm folded. Each is captured in a CUDA graph and replayed, the two in turn in every
round, timed by the GPU's own clock; what differs is not timed. float32 is float32: no TF32.
Without a CUDA GPU it says so and ends with status 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import prunedeploy
from prunedeploy import passes
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Difference, Ratio
from prunedeploy.core.statistics import ratio
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.models import by_name
from prunedeploy.reference.verify import compare, tolerance_of
from prunedeploy.to_torch.network import Network

WARMUP = 20
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Row:
    """Milliseconds of each network by their medians, and how many times faster the second is."""

    batch: int
    precision: str
    dense: float
    shrunk: float
    ratio: Ratio
    difference: Difference


def networks(name: str, dead: float, folder: Path) -> tuple[nn.Module, nn.Module]:
    """The network with dead channels, and what shrink makes of it, as modules on the CPU."""
    torch.manual_seed(0)
    module = by_name(name).factory().eval()
    for key in dict(module.named_modules()):
        if key.startswith("layer") and key.endswith((".conv1", ".conv2")):
            _kill(module, key, dead)
    checkpoint = folder / f"{name}.pt"
    torch.save(module.state_dict(), checkpoint)
    done = prunedeploy.shrink(checkpoint, folder / "shrunk.onnx", arch=name)
    return _module(done.dense), _module(done.model)


def _kill(module: nn.Module, key: str, dead: float) -> None:
    """Zero the first channels of a convolution that a BatchNorm and another one follow."""
    layers = dict(module.named_modules())
    norm = layers.get(key.replace("conv", "bn"))
    following = f"{key[:-1]}{int(key[-1]) + 1}"
    if following not in layers or not isinstance(norm, nn.BatchNorm2d):
        return
    count = round(dead * norm.num_features)
    for parameter in (layers[key].weight, norm.weight, norm.bias):
        parameter.data[:count] = 0


def _module(path: Path) -> nn.Module:
    program = models.load(path)
    shapes.infer_shapes(program)
    for step in passes.before_cuts():
        if step.name in ("fold-constants", "fold-batchnorm", "remove-identity"):
            step(program)
    return Network(program, ()).eval()


def measure(
    modules: Mapping[str, nn.Module], shape: tuple[int, ...], precision: str, rounds: int
) -> Row:
    """One row, on the GPU.

    Raises:
        UserError: the two do not compute the same.
    """
    dtype = DTYPES[precision]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    captured = {name: _capture(module.to("cuda", dtype), x) for name, module in modules.items()}
    outputs = {name: y.float().cpu().numpy() for name, (_, y) in captured.items()}
    dense, shrunk = outputs.values()
    difference = compare({"y": dense}, {"y": shrunk}, tolerance_of(precision))
    if not difference.passed:
        raise UserError(
            f"{precision}: the shrunken network is off by {difference.max_rel:.2g} of the range, "
            f"{difference.tolerance:.0e} is allowed: not timed"
        )
    samples = _interleave([replay for replay, _ in captured.values()], rounds)
    medians = [float(np.median(each)) / 1e6 for each in samples]
    return Row(shape[0], precision, *medians, ratio(*samples), difference)


def _capture(module: nn.Module, x: Tensor) -> tuple[Callable[[], None], Tensor]:
    """A function that replays the network on ``x``, and its result once it has run."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels before anything is captured
            module(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = module(x)
    graph.replay()
    torch.cuda.synchronize()
    first = next(iter(result.values())) if isinstance(result, dict) else result
    return graph.replay, first[0] if isinstance(first, (tuple, list)) else first


def _interleave(replays: list[Callable[[], None]], rounds: int) -> list[list[int]]:
    """Nanoseconds of each by the GPU's clock, in a random order in every round."""
    order = np.random.default_rng(0)
    samples: list[list[int]] = [[] for _ in replays]
    for number in range(WARMUP + rounds):
        for index in order.permutation(len(replays)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replays[index]()
            end.record()
            end.synchronize()
            if number >= WARMUP:
                samples[index].append(round(1e6 * start.elapsed_time(end)))
    return samples


def render(rows: list[Row]) -> Iterator[str]:
    """The table."""
    yield "| batch | precision | dense, ms | shrunk, ms | times faster [95 %] | difference |"
    yield "|---:|---|---:|---:|---:|---:|"
    for row in rows:
        ratio = row.ratio
        yield (
            f"| {row.batch} | {row.precision} | {row.dense:.3f} | {row.shrunk:.3f} | "
            f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) | "
            f"{row.difference.max_rel:.1e} |"
        )


def main(given: list[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="dense against shrunken on a GPU")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--dead", type=float, default=0.5)
    parser.add_argument("--batch", default="1,64")
    parser.add_argument("--precision", default="float32,float16")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args(given)
    if not torch.cuda.is_available():
        print(
            "gpu.py: no CUDA GPU here, or a torch without CUDA: run it where one is",
            file=sys.stderr,
        )
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    shape = by_name(options.network).input_shape
    rows = []
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        dense, shrunk = networks(options.network, options.dead, Path(folder))
        for precision in options.precision.split(","):
            for batch in map(int, options.batch.split(",")):
                modules = {"dense": dense, "shrunk": shrunk}
                rows.append(measure(modules, (batch, *shape), precision, options.rounds))
    print(
        f"{options.network}, {options.dead:.0%} of inner channels dead, "
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__} with CUDA graphs\n"
    )
    print("\n".join(render(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
