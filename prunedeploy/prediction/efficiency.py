"""The shares of a machine's limits that each class of kernel reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunedeploy.targets import Target


@dataclass(frozen=True)
class Efficiency:
    """The efficiency of one class of kernels.

    ``compute`` is the share of the peak, or of the cost model's word where it has one; ``near``
    what the kernel moves, in shares of the bandwidth from memory: above 1 where caches serve it.
    """

    compute: float
    near: float


@dataclass(frozen=True)
class Table:
    """Efficiencies of one runtime.

    ``far`` is the share of the bandwidth for what no cache holds. Beside its work each layer takes
    ``overhead`` seconds, and ``sync`` for each thread behind the first; a run takes ``start``.
    """

    kernels: Mapping[str, Efficiency]
    far: float
    overhead: float
    sync: float = 0.0
    start: float = 0.0
    source: str = ""


# The next two come from ``benchmarks/predict.py --fit``, by least squares over the layers of seven
# networks that are not those of docs/predict.md: one and two threads of an AMD EPYC with AVX-512.
FITTED = "fitted on an AMD EPYC with AVX-512: benchmarks/predict.py"

ORT = Table(
    {
        "conv": Efficiency(0.951, 0.27),
        "depthwise": Efficiency(0.453, 1.57),
        "elementwise": Efficiency(0.045, 1.57),
        "function": Efficiency(1.6, 0.58),
        "grouped": Efficiency(0.488, 0.27),  # not measured: between its neighbours
        "linear": Efficiency(0.883, 8.0),
        "move": Efficiency(1.6, 1.78),
        "pointwise": Efficiency(0.951, 0.58),
        "pool": Efficiency(0.022, 8.0),
        "product": Efficiency(0.761, 8.0),
        "reduce": Efficiency(1.6, 1.22),
        "vector": Efficiency(0.076, 0.65),
        "view": Efficiency(0.566, 8.0),
    },
    far=0.75,
    overhead=2.02e-06,
    sync=4.67e-06,
    source=FITTED,
)
SPARSE = Table(
    {
        "block": Efficiency(1.025, 0.27),
        "depthwise": Efficiency(0.609, 1.22),
        "elementwise": Efficiency(1.6, 2.59),
        "function": Efficiency(1.6, 0.95),
        "mixed": Efficiency(1.104, 0.31),  # of an earlier fit: none of the networks has blocks
        "move": Efficiency(1.6, 1.08),
        "pool": Efficiency(0.102, 0.95),
        "product": Efficiency(1.6, 0.27),
        "reduce": Efficiency(0.2, 8.0),
        "rows": Efficiency(0.951, 1.08),
        # of whole networks, ResNets and an encoder, not fitted layer by layer
        "jit": Efficiency(0.77, 1.08),
        "vector": Efficiency(0.138, 1.22),
        # "winograd" is of an earlier fit: "winograd2d" was faster in all layers
        "winograd": Efficiency(0.951, 0.24),
        "winograd2d": Efficiency(1.025, 0.19),
    },
    far=0.45,
    overhead=7.1e-07,
    sync=3.53e-06,
    source=FITTED,
)

# No GPU was measured. Dense kernels are taken to reach half of the peak, which libraries come near
# to on large layers, windows of one channel what they move; a kernel's launch is some microseconds.
GPU = Table(
    {
        **dict.fromkeys(("move", "view"), Efficiency(1.0, 0.7)),
        **dict.fromkeys(("conv", "pointwise", "linear", "vector"), Efficiency(0.5, 0.7)),
        "elementwise": Efficiency(0.5, 0.7),
        "product": Efficiency(0.4, 0.7),
        **dict.fromkeys(("function", "grouped", "pool", "reduce"), Efficiency(0.2, 0.7)),
        "depthwise": Efficiency(0.1, 0.7),
    },
    far=0.7,
    overhead=6e-6,
    start=2e-5,
    source="assumed, no GPU was measured",
)

# How many times faster or slower than predicted a run may be. On the processor that the figures are
# from, more than nine of ten runs of docs/predict.md lie in the band. Elsewhere it is a guess.
MEASURED, SIMILAR_CPU, OTHER_CPU, ANY_GPU = 1.25, 1.5, 2.0, 2.5


def band(target: Target, runtime: str) -> float:
    """The factor for ``target``; the narrow one where the figures come from such a machine."""
    if runtime not in ("ort", "sparse"):
        return ANY_GPU
    if target.arch != "x86_64":
        return OTHER_CPU
    return MEASURED if "avx512" in target.isa else SIMILAR_CPU
