"""All kernels for convolutions and linear layers, one record each.

Whoever has to know something of a kernel reads it here: the tuner, the emitters, predictions, tests
and benchmarks. The order is that of candidates which cost the same by the model.
"""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen import depthwise, narrow, tiled
from prunedeploy.runtimes.sparse.codegen import winograd_2d as winograd_2d_code
from prunedeploy.runtimes.sparse.kernels import block, mixed, rows, winograd_1d, winograd_2d
from prunedeploy.runtimes.sparse.kernels.jit import packing as jit_packing
from prunedeploy.runtimes.sparse.kernels.jit import schedule as jit
from prunedeploy.runtimes.sparse.kernels.kernel import (
    Kernel,
    SpecialKernel,
    with_rows,
    without_blocks,
)
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Schedule

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            name="jit",
            candidates=jit.candidates,
            cycles=jit.cycles,
            emit=tiled.emit,
            packings=("plain", "none", "shared_border"),
            pack=without_blocks(jit_packing.pack_jit),
            settings=jit_packing.settings,
            spilled_rows=jit_packing.spilled_rows,
            suits_isa=lambda isa: isa.jit,
            max_rows=jit_packing.MAX_ROWS,
            max_terms=jit.MAX_TERMS[0],
            offsets_16_bits=False,
            generated=True,
            skips_zeros=True,
        ),
        Kernel(
            name="mixed",
            candidates=mixed.candidates,
            cycles=mixed.cycles,
            emit=tiled.emit,
            packings=("plain", "none", "im2col", "shared_border"),
            pack=mixed.pack_mixed,
            settings=with_rows,
            max_terms=mixed.MAX_TERMS,
            finds_blocks=True,
        ),
        Kernel(
            name="winograd",
            candidates=winograd_1d.candidates,
            cycles=winograd_1d.cycles,
            emit=tiled.emit,
            packings=("plain",),
            pack=without_blocks(winograd_1d.pack_winograd),
            settings=with_rows,
            transforms=winograd_1d.transforms,
            max_terms=winograd_1d.MAX_TERMS,
            winograd=True,
            products=winograd_1d.share_of_products,
        ),
        Kernel(
            name="rows",
            candidates=rows.candidates,
            cycles=rows.cycles,
            emit=tiled.emit,
            packings=("plain", "none", "copies", "im2col", "shared_border", "interleaved"),
            pack=without_blocks(rows.pack_rows),
            fallback=rows.last_resorts,
            max_rows=1,
            skips_zeros=True,
        ),
        Kernel(
            name="block",
            candidates=block.candidates,
            cycles=block.cycles,
            emit=tiled.emit,
            packings=("plain", "none", "im2col"),
            pack=without_blocks(block.pack_block),
            settings=with_rows,
            max_terms=block.MAX_TERMS,
        ),
        Kernel(
            name="winograd2d",
            candidates=winograd_2d.candidates,
            cycles=winograd_2d.cycles,
            emit=winograd_2d_code.emit,
            packings=("plain",),
            geometry=winograd_2d.geometry,
            describe=winograd_2d.describe,
            offsets_16_bits=False,
            winograd=True,
            products=winograd_2d.share_of_products,
        ),
    )
}

SPECIAL = (
    SpecialKernel("narrow", narrow.suits, narrow.emit),
    SpecialKernel("depthwise", depthwise.suits, depthwise.emit),
)


def special(step: Conv) -> SpecialKernel | None:
    """The kernel without a choice of schedules that computes ``step``, if there is one."""
    return next((kernel for kernel in SPECIAL if kernel.suits(step)), None)


def geometry(step: Conv, schedule: Schedule) -> Geometry:
    """The tile of ``step`` in a schedule, whatever its kernel."""
    return KERNELS[schedule.kernel].geometry(step, schedule)
