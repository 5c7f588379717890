"""Prints what ``inspect`` measured, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunedeploy.cli.show.next_steps import print_next_step
from prunedeploy.cli.tables import count, say, share, table

if TYPE_CHECKING:
    from prunedeploy.graph.layers import Layer
    from prunedeploy.inspection.block_report import LayerBlocks
    from prunedeploy.inspection.inspect import Inspection


def print_inspection(inspection: Inspection) -> None:
    """Print layers, totals and outlook. BatchNorm scales are listed where one of them is zero."""
    from prunedeploy.graph.layers import is_normalisation

    arch = f", {inspection.arch}" if inspection.arch else ""
    say(f"{inspection.source}: {inspection.kind}{arch}")
    for line in inspection.found:
        say(f"  {line}")
    layers = [x for x in inspection.layers if not is_normalisation(x) or x.pattern.dead_outputs]
    headers = ("layer", "op", "shape", "density", "dead out", "dead in", "2:4")
    blocks = ("in blocks", "largest") if any(x.pattern.blocks for x in layers) else ()
    columns = len(headers) + len(blocks)  # few networks have blocks
    say()
    rows = [_layer_row(layer)[:columns] for layer in layers]
    table((*headers, *blocks), rows, left=frozenset({0, 1, 2}))
    say()
    _totals(inspection)
    say()
    table(
        ("for", "what the zeros are worth (from counts, not measured)"),
        ((x.engine, x.gain) for x in inspection.outlook),
        left=frozenset({0, 1}),
    )
    if inspection.blocks:
        say()
        _blocks(inspection.blocks)
    if inspection.hints:
        say()
        say(
            f"constant on these {inspection.hints[0].samples:,} samples, "
            "though not proved for others:"
        )
        for hint in inspection.hints:
            say(f"  {len(hint.channels)} of {hint.of} channels that {hint.reader} reads")
    print_next_step(inspection.next_step)


def _blocks(layers: Sequence[LayerBlocks]) -> None:
    from prunedeploy.inspection.block_report import outlook

    headers = ("layer", "matrix", "blocks", "of non-zeros", "fill")
    rows = (
        (
            each.name,
            f"{each.rows}x{each.columns}",
            str(each.blocks),
            f"{each.share:.1%}",
            f"{each.fill:.1%}" if each.blocks else "",
            "" if each.gain is None else f"{each.gain:.2f}x",
        )
        for each in layers
    )
    table((*headers, "faster with blocks (predicted)"), rows, left=frozenset({0, 1}))
    if text := outlook(layers):
        say()
        say(text)


def _layer_row(layer: Layer) -> tuple[str, ...]:
    p = layer.pattern
    return (
        layer.name,
        layer.op,
        "x".join(map(str, layer.shape)) + (f"/{layer.groups}" if layer.groups > 1 else ""),
        share(p.density),
        f"{p.dead_outputs}/{p.outputs}",
        f"{p.dead_inputs}/{p.inputs}",
        share(p.two_four),
        share(p.block_share) if p.blocks else "-",
        "x".join(map(str, p.largest_block)) if p.blocks else "-",
    )


def _totals(inspection: Inspection) -> None:
    t = inspection.totals
    rows = [
        ("parameters", count(t.parameters)),
        ("weights of the layers", count(t.weights)),
        ("non-zero weights", f"{count(t.nonzero)} ({share(t.density)})"),
        ("dead output channels", f"{count(t.dead_outputs)} of {count(t.outputs)}"),
        ("dead input channels", f"{count(t.dead_inputs)} of {count(t.inputs)}"),
        ("zero BatchNorm scales", count(t.dead_scales)),
    ]
    for each in inspection.sizes:
        rows.append((f"MACs, one sample, {each.size}", count(each.macs or 0)))
        rows.append((f"MACs of non-zero weights, {each.size}", count(each.nonzero_macs or 0)))
    if t.macs is not None and not inspection.sizes:
        rows.append(("MACs, one sample", count(t.macs)))
        rows.append(("MACs of non-zero weights", count(t.nonzero_macs)))
    if t.tiny:
        bound = f"smaller than {inspection.zero_below:.3g}, counted as zero"
        rows.append(("denormal weights", f"{count(t.tiny)} ({bound})"))
    if t.nonfinite:
        rows.append(("NaN or infinite weights", count(t.nonfinite)))
    table(("total", ""), rows, left=frozenset({0, 1}))
