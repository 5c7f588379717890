"""The instruction sets that the sparse runtime has kernels for: one record for each.

Whatever depends on the instruction set is a field here: compiler flags, vector width, registers,
cache sizes that schedules are made for, and which kernels exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.targets import LANES


@dataclass(frozen=True)
class Isa:
    """One instruction set; the defaults are what any processor has.

    Args:
        name: as targets, manifests and engines name it.
        lanes: float32 numbers in a vector register.
        registers: vector registers.
        accumulators: vector registers that a kernel may hold accumulators in; the others are for
            operands.
        matmul_tile: (rows at most, vectors) of an output tile of a product of two computed tensors.
        fma_pipes: vector multiply-adds that a core starts in a cycle.
        flags: of gcc and clang.
        zig_flags: of ziglang, which takes single flags for changes to a processor only.
        zig_core: the processor that ziglang compiles for where the target does not name one.
        needs: names of ``targets.ISA_FLAGS`` that the processor must have.
        x86: whether x86-64 processors may have it.
        jit: whether ``kernels.jit`` generates code for it.
        masked_loads: whether loads with a mask cost as much as plain ones.
        on_bytes: whether layers of quantised networks are computed on bytes. Without instructions
            that multiply bytes float32 is faster, though not to the last bit as in ONNX Runtime.
        l1_panel_bytes: how much of the first-level cache a panel of the input may fill.
    """

    name: str
    lanes: int
    registers: int = 16
    accumulators: int = 12
    matmul_tile: tuple[int, int] = (4, 2)
    fma_pipes: float = 1.0
    flags: tuple[str, ...] = ()
    zig_flags: tuple[str, ...] = ()
    zig_core: str = ""
    needs: tuple[str, ...] = ()
    x86: bool = False
    jit: bool = False
    masked_loads: bool = False
    on_bytes: bool = False
    l1_panel_bytes: int = 28 * 1024  # of 32 KiB, the smallest of the processors that have these

    @property
    def accumulators_x8(self) -> int:
        """Accumulators that registers hold, in units of 8 pixels."""
        return self.accumulators * self.lanes // 8 if self.lanes >= 8 else self.accumulators // 2


AVX2_FLAGS = ("-mavx2", "-mfma")

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa(
            "avx512",
            lanes=LANES["avx512"],
            registers=32,
            accumulators=28,
            matmul_tile=(14, 2),
            fma_pipes=1.0,
            flags=(
                *AVX2_FLAGS,
                *("-mavx512f", "-mavx512cd", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
                "-mprefer-vector-width=512",
            ),
            zig_flags=("-mprefer-vector-width=512",),
            zig_core="skylake_avx512",
            needs=("avx2", "fma", "avx512"),
            x86=True,
            jit=True,
            masked_loads=True,
            on_bytes=True,
        ),
        Isa(
            "avx2",
            lanes=LANES["avx2"],
            registers=16,
            accumulators=12,
            matmul_tile=(6, 2),
            fma_pipes=2.0,
            flags=AVX2_FLAGS,
            zig_flags=AVX2_FLAGS,
            needs=("avx2", "fma"),
            x86=True,
        ),
        Isa(
            "neon",
            lanes=LANES["neon"],
            registers=32,
            accumulators=24,
            matmul_tile=(6, 4),
            fma_pipes=2.0,
            needs=("neon",),
        ),
        # vectors of four floats, of which the compiler makes what the processor has
        Isa("generic", lanes=4, x86=True),
        # the same with every vector a single float: the kernels as plain C, for tests
        Isa("scalar", lanes=1, flags=("-DPD_SCALAR",)),
    )
}
