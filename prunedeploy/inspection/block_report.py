"""The blocks in a model's layers: how many, how full, what they are worth, and a picture of each.

A layer is looked at as the matrix of its weights, output channels by input channels times taps.
In the picture its rows and columns are in the order of its blocks, so that these show as patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array

if TYPE_CHECKING:
    import onnx_ir as ir

    from prunedeploy.passes.blocks.blocks import Block, Mask
    from prunedeploy.runtimes.sparse.plan.steps import Conv

PRICE = 0.7  # of a cell of a block, in scattered non-zeros, where no runtime says it
ACROSS = 4  # layers beside one another in the picture
INSIDE, OUTSIDE, EMPTY = (31, 90, 166), (222, 120, 31), (244, 244, 244)  # red, green, blue


@dataclass(frozen=True)
class LayerBlocks:
    """One layer. Shares are between 0 and 1.

    ``share`` of its non-zeros lies in blocks, ``fill`` of whose cells is not zero. ``cycles`` is
    what the sparse runtime should need, by its cost model for this machine and one thread, and
    ``gain`` how many times faster that is than without blocks; None where it cannot compute the
    model.
    """

    name: str
    rows: int
    columns: int
    nonzeros: int
    blocks: int
    share: float
    fill: float
    gain: float | None
    cycles: float | None = None


@dataclass(frozen=True)
class _LayerPicture:
    """A layer with what the picture needs."""

    report: LayerBlocks
    mask: Mask
    blocks: tuple[Block, ...]


def report(program: ir.Model, picture: Path | None = None) -> tuple[LayerBlocks, ...]:
    """Every layer of a model that has more than one output channel; ``picture`` is a PNG file.

    Raises:
        UserError: a picture is asked for and matplotlib is missing.
    """
    layers = [_look(name, weight, groups, step) for name, weight, groups, step in _layers(program)]
    if picture is not None:
        _draw(layers, picture)
    return tuple(each.report for each in layers)


def _layers(program: ir.Model) -> Iterator[tuple[str, Array, int, Conv | None]]:
    """Name, weight [outputs, inputs / groups, taps], groups, and the step that computes it."""
    from prunedeploy.passes.analysis.liveness import layers_of
    from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower
    from prunedeploy.runtimes.sparse.plan.steps import Conv

    plan = lower(program, 1)
    if not isinstance(plan, Refusal):
        for step in plan.steps:
            if isinstance(step, Conv) and len(step.weight) > 1:
                yield step.name, step.weight, step.groups, step
        return
    for layer in layers_of(program.graph):
        rows = layer.rows()
        if len(rows) > 1:
            yield layer.name, rows, layer.groups, None


def outlook(layers: Sequence[LayerBlocks]) -> str:
    """The predicted gain of blocks over all ``layers``, in words; empty where it is not known."""
    known = [(x.cycles, x.gain) for x in layers if x.cycles is not None and x.gain is not None]
    if not known:
        return ""
    count = sum(gain > 1 for _, gain in known)
    if not count:
        return f"blocks should gain nothing in any of {len(known)} layers"
    total = sum(cycles * gain for cycles, gain in known) / sum(cycles for cycles, _ in known)
    return (
        f"blocks should gain in {count} of {len(known)} layers: all together {total:.2f} times "
        "faster than without (predicted)"
    )


def _look(name: str, weight: Array, groups: int, step: Conv | None) -> _LayerPicture:
    from prunedeploy.passes.blocks import Price, lossless
    from prunedeploy.passes.blocks.blocks import cells, dense_mask

    price, gain, cycles = PRICE, None, None
    if step is not None:
        price, gain, cycles = _predicted(step)
    mask = dense_mask(weight, groups)
    blocks = lossless(weight, Price(price), groups)
    inside = int((mask & cells(blocks, mask.shape)).sum())
    total, size = int(mask.sum()), sum(block.size for block in blocks)
    share, fill = inside / max(total, 1), inside / max(size, 1)
    rows, columns = mask.shape
    shown = LayerBlocks(name, rows, columns, total, len(blocks), share, fill, gain, cycles)
    return _LayerPicture(shown, mask, blocks)


def _predicted(step: Conv) -> tuple[float, float, float]:
    """Price of a cell in a block, how many times faster blocks are, and cycles with them."""
    from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
    from prunedeploy.runtimes.sparse.kernels.table import KERNELS
    from prunedeploy.runtimes.sparse.schedule import candidates as choose
    from prunedeploy.runtimes.sparse.schedule.cost import cycles
    from prunedeploy.runtimes.sparse.toolchain.compile import isa_of
    from prunedeploy.targets import by_name

    isa = isa_of(by_name("host"))
    known = BlockCache()
    schedules = choose.candidates(step, isa, 1, known)
    costs = [(schedule.kernel, cycles(step, schedule, isa, 1, known)) for schedule in schedules]
    without = [cost for kernel, cost in costs if not KERNELS[kernel].finds_blocks]
    best = max(min((cost for _, cost in costs), default=1.0), 1e-9)
    return choose.fill(step, isa, known), min(without, default=best) / best, best


def _ordered(layer: _LayerPicture) -> Array:
    """The matrix as red, green and blue, in the order of its blocks."""
    mask, blocks = layer.mask, sorted(layer.blocks, key=lambda block: -block.size)
    inside: Mask = np.zeros(mask.shape, np.bool_)
    for block in blocks:
        inside[np.ix_(block.rows, block.columns)] = True
    rows = _order([block.rows for block in blocks], mask.shape[0])
    columns = _order([block.columns for block in blocks], mask.shape[1])
    colours = np.full((*mask.shape, 3), EMPTY, np.uint8)
    colours[mask & inside] = INSIDE
    colours[mask & ~inside] = OUTSIDE
    ordered: Array = colours[np.ix_(rows, columns)]
    return ordered


def _order(groups: list[Array], count: int) -> Array:
    """The indices of the groups first, each once, then all others."""
    every = np.concatenate([*groups, np.arange(count)]).astype(np.int64)
    _, first = np.unique(every, return_index=True)
    order: Array = every[np.sort(first)]
    return order


def _draw(layers: list[_LayerPicture], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "a picture of blocks needs matplotlib: pip install 'prunedeploy[plot]'"
        ) from error
    from prunedeploy.core.files import atomic_path

    down = max(-(-len(layers) // ACROSS), 1)
    figure = Figure(figsize=(4 * ACROSS, 2.6 * down), layout="constrained")
    axes = figure.subplots(down, ACROSS, squeeze=False)
    for index, axis in enumerate(axes.reshape(-1)):
        axis.set_axis_off()
        if index < len(layers):
            each = layers[index].report
            axis.imshow(_ordered(layers[index]), aspect="auto", interpolation="antialiased")
            gain = "" if each.gain is None else f", x{each.gain:.2f}"
            title = f"{each.name}\n{each.blocks} blocks, {each.share:.0%} of non-zeros{gain}"
            axis.set_title(title, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
