"""The record of a kernel: what others need to know of it (``table.KERNELS`` has them all)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.isa import Isa
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.packing import PackedWeights
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Packing, Schedule, geometry

if TYPE_CHECKING:
    from prunedeploy.runtimes.sparse.codegen._context import Code, Context


@dataclass(frozen=True)
class Scope:
    """All that candidates and their costs depend on, beside the layer."""

    isa: Isa
    threads: int
    blocks: BlockCache = field(default_factory=BlockCache)


@dataclass(frozen=True)
class Kernel:
    """One kernel for convolutions and linear layers.

    Args:
        name: as schedules, reports and ``layers.json`` name it.
        candidates: the schedules worth a thought for a layer; none where it is not for the layer.
        cycles: what the cost model says that the busiest thread needs.
        emit: the C of a layer with a schedule of this kernel.
        pack: the layer's weights as the kernel reads them; None where ``emit`` stores them itself.
        packings: of the input that it can read.
        settings: macros of its template, from the layer, its schedule, whether accumulators are
            spilled, and the macros that all templates have.
        fallback: schedules for layers that no kernel has a usual one for.
        geometry: the tile of a schedule.
        describe: a schedule as reports name it.
        transforms: float32 matrices for the input transform, [phases x points x points].
        spilled_rows: rows of accumulators that are in memory even where there is a single panel.
        suits_isa: whether it exists for an instruction set.
        max_rows: output rows that it can compute at once.
        max_terms: of a row's sum in a panel, on average; 0 where a schedule has no such limit.
        offsets_16_bits: whether a panel must be in reach of such offsets.
        generated: whether it is machine code of our own, which takes long to write and much room.
        finds_blocks: whether it looks for blocks of rows that share columns.
        winograd: whether it computes Winograd's F(m, r), m the tile rows of the schedule.
        skips_zeros: whether it multiplies non-zero weights alone.
        products: the share of the direct sum's products that is left.
    """

    name: str
    candidates: Callable[[Conv, Scope], Iterator[Schedule]]
    cycles: Callable[[Conv, Schedule, Scope], float]
    emit: Callable[[Conv, Context, Schedule, Kernel], Code]
    packings: tuple[Packing, ...]
    pack: Callable[[Conv, Schedule, Geometry, BlockCache], PackedWeights] | None = None
    settings: Callable[[Conv, Schedule, bool, dict[str, int]], dict[str, int]] = lambda *given: (
        given[-1]
    )
    fallback: Callable[[Conv, Scope], Iterator[Schedule]] = lambda *_: iter(())
    geometry: Callable[[Conv, Schedule], Geometry] = geometry
    describe: Callable[[Schedule], str] = str
    transforms: Callable[[Schedule, Geometry], Array] | None = None
    spilled_rows: Callable[[Conv, Schedule], int] = lambda *_: 0
    suits_isa: Callable[[Isa], bool] = lambda _: True
    max_rows: int = 2**16
    max_terms: int = 0
    offsets_16_bits: bool = True
    generated: bool = False
    finds_blocks: bool = False
    winograd: bool = False
    skips_zeros: bool = False
    products: Callable[[Conv, Schedule], float] = lambda *_: 1.0

    @property
    def header(self) -> str:
        """Its template in ``c/``."""
        return f"{self.name}.h"


def without_blocks(
    pack: Callable[[Conv, Schedule, Geometry], PackedWeights],
) -> Callable[[Conv, Schedule, Geometry, BlockCache], PackedWeights]:
    """``pack`` of a kernel that does not look for blocks."""
    return lambda step, schedule, layout, _blocks: pack(step, schedule, layout)


def with_rows(
    _step: Conv, schedule: Schedule, _spilled: bool, common: dict[str, int]
) -> dict[str, int]:
    """The macros of templates that compute several output rows at once."""
    return {"ROWS": schedule.rows, **common}


@dataclass(frozen=True)
class SpecialKernel:
    """A kernel without a choice of schedules, for layers that it ``suits``."""

    name: str
    suits: Callable[[Conv], bool]
    emit: Callable[[Conv, Context], Code]
