"""What a target's row says of the machine, in the units of a roofline."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.toolchain.compile import isa_of
from prunedeploy.targets import PRECISIONS, Target, cores

GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-cuda")
CPU_RUNTIMES = ("ort", "sparse")
MOST_STREAMS = 2  # cores that together read twice what one does from memory; more were not measured

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


def machine(row: Target, runtime: str, precision: str, threads: int) -> Machine:
    """The part of ``row`` that ``runtime`` computes on.

    Raises:
        UserError: the row has no figures for it.
    """
    if precision not in PRECISIONS:
        raise UserError(f"there is no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if runtime in GPU_RUNTIMES:
        return _gpu(row, precision)
    if precision != "float32":
        raise UserError(f"{runtime} on a CPU is predicted in float32 only, not in {precision}")
    return _cpu(row, threads)


def _gpu(row: Target, precision: str) -> Machine:
    limits = row.toolchain
    if limits is not None and precision not in limits.precisions:
        raise UserError(f"{row.name} does not compute in {precision}: {limits.name} does not")
    if not row.peak(precision) or not row.bytes_per_second:
        raise UserError(
            f"nothing to predict {row.name} from: no peak in {precision} or no bandwidth in its row"
        )
    return Machine(1, row.peak(precision), row.bytes_per_second, row.cache_bytes)


def _cpu(row: Target, threads: int) -> Machine:
    if not row.hz or not row.bytes_per_second:
        raise UserError(
            f"nothing to predict the CPU of {row.name} from: no hz or bytes-per-second in its row"
        )
    count = threads or row.cores or cores()
    isa = ISAS[isa_of(row)]
    pipes = PIPES_OF_CORE.get(row.cpu, isa.fma_pipes)
    peak = 2 * isa.lanes * pipes * row.hz * count
    # rows of x86 are of one core (targets/row.py)
    streams = min(count, MOST_STREAMS) if row.arch == "x86_64" else 1
    return Machine(
        count, peak, row.bytes_per_second * streams, row.cache_bytes, 1 / (row.hz * pipes)
    )
