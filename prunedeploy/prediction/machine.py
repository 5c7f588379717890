"""The limits of a target in the units of a roofline: operations, bytes and cycles."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.toolchain.compile import isa_of
from prunedeploy.targets import PRECISIONS, Target, cores

GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-cuda")
CPU_RUNTIMES = ("ort", "sparse")
MAX_STREAMS = 2  # cores that together read twice what one does from memory; more were not measured

# Vectors that a core multiplies in a cycle, where others of its instruction set differ
# (Arm's Software Optimization Guides: 128-bit FMLA of Cortex-A57 one, of A76 and A78 two a cycle).
PIPES_OF_CORE = {"cortex-a57": 1.0}


@dataclass(frozen=True)
class Machine:
    """Limits of ``threads`` cores together, or of a GPU, in one precision.

    ``peak`` is in operations a second, ``bandwidth`` in bytes a second from memory, ``cache`` in
    bytes. ``cycle`` is how long one of the cost model's cycles takes, in seconds: 0 for GPUs.
    """

    threads: int
    peak: float
    bandwidth: float
    cache: float
    cycle: float = 0.0


def machine(target: Target, runtime: str, precision: str, threads: int) -> Machine:
    """The part of ``target`` that ``runtime`` computes on.

    Raises:
        UserError: the target has no figures for it.
    """
    if precision not in PRECISIONS:
        raise UserError(f"there is no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if runtime in GPU_RUNTIMES:
        return _gpu(target, precision)
    if precision != "float32":
        raise UserError(f"{runtime} on a CPU is predicted in float32 only, not in {precision}")
    return _cpu(target, threads)


def _gpu(target: Target, precision: str) -> Machine:
    limits = target.toolchain
    if limits is not None and precision not in limits.precisions:
        raise UserError(f"{target.name} does not compute in {precision}: {limits.name} does not")
    if not target.peak(precision) or not target.bytes_per_second:
        raise UserError(
            f"nothing to predict {target.name} from: "
            f"its target states no peak in {precision} or no bandwidth"
        )
    return Machine(1, target.peak(precision), target.bytes_per_second, target.cache_bytes)


def _cpu(target: Target, threads: int) -> Machine:
    if not target.hz or not target.bytes_per_second:
        raise UserError(
            f"nothing to predict the CPU of {target.name} from: "
            "its target states no hz or bytes-per-second"
        )
    count = threads or target.cores or cores()
    isa = ISAS[isa_of(target)]
    pipes = PIPES_OF_CORE.get(target.cpu, isa.fma_pipes)
    peak = 2 * isa.lanes * pipes * target.hz * count
    # targets of x86 have figures of one core (targets/target.py)
    streams = min(count, MAX_STREAMS) if target.arch == "x86_64" else 1
    return Machine(
        count, peak, target.bytes_per_second * streams, target.cache_bytes, 1 / (target.hz * pipes)
    )
