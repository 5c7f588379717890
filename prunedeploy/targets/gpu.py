"""The figures of GPUs that sparse kernels are scheduled and predicted by, one record a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.targets.target import Target


@dataclass(frozen=True)
class Gpu:
    """A GPU as the cost model of sparse kernels sees it.

    Args:
        sms: streaming multiprocessors.
        fma: warps of 32 float32 multiply-adds that an SM computes in a cycle.
        l1: bytes that an SM loads from its L1 cache in a cycle.
        launch: seconds from the end of a kernel to the begin of the next one in a stream.
        code: bytes of an instruction.
        fetch: bytes of code that an SM fetches in a cycle beyond its smallest instruction cache.
            Nobody has published it; ``docs/gpu.md`` says how to measure it.
        source: of ``sms``, ``fma`` and ``l1``; the others are assumed.
    """

    sms: int
    fma: float
    l1: float
    launch: float
    source: str
    code: float = 16.0
    fetch: float = 16.0

    def hz(self, target: Target) -> float:
        """Cycles a second, as the peak that ``target`` states implies them."""
        return target.peak("float32") / (2 * 32 * self.fma * self.sms)


MAXWELL = "NVIDIA Tegra X1 whitepaper (2015)"
TURING = "NVIDIA Turing architecture whitepaper WP-09183"
AMPERE = "NVIDIA A100 whitepaper (2020); Ampere GA102 whitepaper"
ADA = "NVIDIA Ada GPU architecture whitepaper"
HOPPER = "NVIDIA H100 whitepaper (2022)"

GPUS = {
    "jetson-nano": Gpu(1, 4, 128, 4.0e-6, MAXWELL, code=10.7),
    "jetson-orin": Gpu(16, 4, 128, 2.5e-6, AMPERE),
    "rtx2080ti": Gpu(68, 2, 64, 1.6e-6, TURING),
    "t4": Gpu(40, 2, 64, 1.6e-6, TURING),
    "a100": Gpu(108, 2, 128, 1.6e-6, AMPERE),
    "a10": Gpu(72, 4, 128, 1.6e-6, AMPERE),
    "l4": Gpu(58, 4, 128, 1.6e-6, ADA),
    "h100": Gpu(132, 4, 128, 1.5e-6, HOPPER),
    "h200": Gpu(132, 4, 128, 1.5e-6, HOPPER),
}


def is_for_gpu(target: Target) -> bool:
    """Whether sparse engines of ``target`` run on its GPU: where it states no CPU of its own."""
    return target.compute_capability is not None and not target.isa


def capability(target: Target) -> int:
    """The compute capability of ``target`` as one number: 75 for 7.5."""
    return round(10 * float(target.compute_capability or 0))
