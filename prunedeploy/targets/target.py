"""The record of a target: what is known of a machine that engines are built for."""

from __future__ import annotations

from dataclasses import dataclass

# Flags as the kernel writes them; "neon" goes by "asimd" on AArch64.
ISA_FLAGS = {"avx2": "avx2", "fma": "fma", "avx512": "avx512f", "neon": "asimd"}
LANES = {"avx512": 16, "avx2": 8, "neon": 4}  # float32 numbers in a vector, the widest first
PRECISIONS = ("float64", "float32", "tf32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class Peak:
    """The peak rate of a machine in one precision; a multiply-accumulate is two operations.

    For dense work: data sheets that count 2:4 sparsity in are halved here.
    """

    precision: str
    operations: float


@dataclass(frozen=True)
class Toolchain:
    """The limits of the machine's own software.

    ``opset`` and ``ir_version`` are the newest that its parser reads, ``precisions`` what it can
    compute in, ``python`` and ``glibc`` the versions that the machine has; empty where any will do.
    """

    name: str
    opset: int
    ir_version: int
    precisions: tuple[str, ...]
    python: str = ""
    glibc: str = ""


@dataclass(frozen=True)
class Target:
    """A machine, and what its engines may rely on.

    ``runtimes`` are those it can have, best first, whether or not they are written yet;
    ``board`` is how the device tree names a board that has to be this very one; ``multiple`` is
    what its engines like the number of channels to be a multiple of: the block of ONNX Runtime's
    convolutions, as many float32 numbers as a vector register holds, or the tensor cores' 8 in
    float16. ``cores`` are those of its CPU, 0 where that is not part of the target; ``cpu`` is what
    gcc calls one of them, for ``-mcpu``.

    ``peaks`` and ``bytes_per_second`` are of the whole machine (of its GPU, where it has one),
    ``source`` says where they are from. ``macs_per_second`` is what passes weigh work against
    ``bytes_per_second`` by (see ``passes/simplify/scatter_branches.py``); 0 where not known. On x86
    the two are measured on one core, elsewhere half the peak in float32, in float16 on Jetson Nano.

    ``hz`` is the clock of a core of the CPU, ``cache_bytes`` the last-level cache of what ``peaks``
    are of: predictions are made of them (``prediction/``). 0 where not known.
    """

    name: str
    what: str
    arch: str
    isa: tuple[str, ...] = ()
    compute_capability: str | None = None
    runtimes: tuple[str, ...] = ("ort",)
    aliases: tuple[str, ...] = ()
    board: str = ""
    multiple: int = 1
    macs_per_second: float = 0.0
    bytes_per_second: float = 0.0
    cores: int = 0
    peaks: tuple[Peak, ...] = ()
    source: str = ""
    sparse_tensor_cores: bool = False  # that take 2:4 sparse weights
    toolchain: Toolchain | None = None  # None: as new as what is installed here
    cpu: str = ""
    hz: float = 0.0
    cache_bytes: float = 0.0

    def peak(self, precision: str) -> float:
        """Operations a second in ``precision``; 0 where not known or not possible."""
        return next((x.operations for x in self.peaks if x.precision == precision), 0.0)
