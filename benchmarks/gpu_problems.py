"""SparseRT's own problems, predicted: 17 layers at 90 and 95 % zeros, for each GPU.

    python benchmarks/gpu_problems.py --targets jetson-nano rtx2080ti

The layers are those of its repository (``autotune_float_batch.sh``). Nothing is measured: a time is
the highest floor of the launch that the schedule would choose, and stands beside the floor of the
dense product in float32, which is its multiply-adds at the peak, its bytes, and a launch as well.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from prunedeploy import targets
from prunedeploy.runtimes.sparse.gpu.cost import DRAM, floors
from prunedeploy.runtimes.sparse.gpu.schedule import priced
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import planar
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import GPUS

POINTWISE = (  # rows, input channels, side of the plane, how often
    *((64, 32, 112, 1), (128, 64, 56, 1), (128, 128, 56, 1), (256, 128, 28, 1), (256, 256, 28, 1)),
    *((512, 256, 14, 1), (512, 512, 14, 5), (1024, 512, 7, 1), (1024, 1024, 7, 1)),
)
WINDOWS = ((64, 64, 56, 1), (128, 128, 28, 1), (256, 256, 14, 1), (512, 512, 7, 1))


def layer(rows: int, depth: int, side: int, taps: int, zeros: float) -> Conv:
    """A convolution with weights at random places."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((rows, depth, taps, taps)).astype(np.float32)
    weight[random.random(weight.shape) < zeros] = 0
    x, y = (planar(index, (1, c, side, side), 1) for index, c in enumerate((depth, rows)))
    border = taps // 2
    pads = (border, border, border, border)
    return Conv("layer", x, y, weight, np.zeros(rows, np.float32), pads=pads)


def dense(step: Conv, target: Target) -> float:
    """Seconds that the layer takes at least as a dense one in float32."""
    pixels = step.y.shape[2] * step.y.shape[3]
    computed = 2 * step.weight.size * pixels / target.peak("float32")
    moved = 4 * (step.weight.size + step.x.size + step.y.size)
    return max(computed, moved / (DRAM * target.bytes_per_second)) + GPUS[target.name].launch


def main() -> None:
    """Print a row for each layer and sparsity, and the geometric means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=["jetson-nano", "rtx2080ti", "h100"])
    given = parser.parse_args()
    problems = [(*shape, 1) for shape in POINTWISE] + [(*shape, 3) for shape in WINDOWS]
    print("layer, zeros: predicted sparse us / dense floor us / ratio, limit; for each target")
    ratios: dict[tuple[str, float], list[float]] = {}
    for zeros in (0.9, 0.95):
        for rows, depth, side, often, taps in problems:
            step = layer(rows, depth, side, taps, zeros)
            cells = []
            for name in given.targets:
                target = targets.by_name(name)
                launch = priced(step, GPUS[name], target)
                highest = floors(launch.cost, launch.blocks, GPUS[name], target)
                whole = dense(step, target)
                ratios.setdefault((name, zeros), []).extend([whole / highest.seconds] * often)
                cells.append(
                    f"{1e6 * highest.seconds:.1f} / {1e6 * whole:.1f} / "
                    f"{whole / highest.seconds:.2f} {highest.limit}"
                )
            label = f"{rows}x{depth}x{taps}x{taps} at {side}x{side}, {zeros:.0%}"
            print(f"{label}: {'; '.join(cells)}", flush=True)
    for (name, zeros), values in ratios.items():
        mean = math.exp(sum(map(math.log, values)) / len(values))
        print(f"{name} at {zeros:.0%}: geometric mean of {len(values)} problems {mean:.2f}x")


if __name__ == "__main__":
    main()
