"""Dead channels kept for the sake of a multiple, and no more than that takes."""

from __future__ import annotations

import pytest
from net import Net
from shrinking import residual, shrink, tail

from prunedeploy.core.records import InputRange
from prunedeploy.graph import input_range


def chain(dead: list[int], width: int = 24, bias: float | None = 0.4) -> tuple[Net, str]:
    net = Net()
    x = net.conv("input", (5, width), dead=dead, dead_bias=bias, name="a")
    return net, net.node("Relu", x)


@pytest.mark.parametrize(
    ("dead", "align", "left"),
    [(11, 1, 13), (11, 2, 14), (11, 4, 16), (11, 8, 16), (8, 8, 16), (7, 8, 24), (0, 8, 24)],
)
def test_rounding_up(dead: int, align: int, left: int) -> None:
    net, x = chain(list(range(dead)))
    shrunk = shrink(tail(net, x, 24), align=align)
    assert shrunk.widths["a.weight"] == left
    kept = [note.count for note in shrunk.result.notes if "multiples of" in note.reason]
    assert sum(kept) == left - (24 - dead)
    assert not any(note.status == "refused" for note in shrunk.result.notes)


def test_a_multiple_out_of_reach_keeps_none() -> None:
    net, x = chain([1, 4, 6], width=12)
    assert shrink(tail(net, x, 12), align=16).widths["a.weight"] == 9


def test_residual_sums_round_together() -> None:
    """The stem and the outer convolution share channels; the inner one rounds for itself."""
    net, x = residual([1, 2, 5], [1, 2, 5, 7], bias=0.3)
    shrunk = shrink(tail(net, x, 8), align=3)
    assert shrunk.widths["stem.weight"] == shrunk.widths["outer.weight"] == 6
    assert shrunk.widths["inner.weight"] == 6  # two of six are dead, four would round up to six


def test_groups_are_cut_each_for_itself() -> None:
    """None of them gets channels back, which would make them convolutions of different widths."""
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 16), name="a"))
    dead = [0, 1, 4, 5, 8, 9, 12, 13]
    x = net.node("Relu", net.conv(x, (16, 16), group=4, dead=dead, name="b"))
    shrunk = shrink(tail(net, x, 16), align=6)
    assert shrunk.widths["b.weight"] == 8


def test_what_a_kept_channel_reads_stays_as_it_is() -> None:
    """A channel that never fires within the range has weights: cut what it reads and it may."""
    net = Net()
    x = net.node("Relu", net.conv("input", (5, 6), name="a"))
    x = net.conv(x, (6, 6), kernel=1, pad=0, bias=0.01, name="b")
    w, b = net.weights["b.weight"], net.weights["b.bias"]
    w[:, :3] = 0
    w[:3, :3] = 9.0  # three dead rows alone read the first three channels
    b[:3] = -9e4
    model = tail(net, net.node("Relu", x), 6)
    input_range.attach(model, {"input": InputRange((-1.0,), (1.0,))})
    shrunk = shrink(model, align=4)
    assert shrunk.widths["b.weight"] == 4
    assert shrunk.widths["a.weight"] == 6


@pytest.mark.parametrize("align", [1, 4])
def test_constants_in_one_channel_instead_of_a_map(align: int) -> None:
    net, x = chain([1, 4, 6, 7, 9], width=12, bias=0.4)
    by_map = shrink(tail(net, x, 12), align=align)
    assert any(node.op_type == "Gather" for node in by_map.model.graph)
    net, x = chain([1, 4, 6, 7, 9], width=12, bias=0.4)
    by_channel = shrink(tail(net, x, 12), borders="channel", align=align)
    assert not any(node.op_type == "Gather" for node in by_channel.model.graph)
    assert by_map.widths["a.weight"] == (7 if align == 1 else 8)
    assert by_channel.widths["a.weight"] == 8


def test_grouped_readers_keep_a_channel_in_each_group() -> None:
    net, x = chain([0, 1, 12, 13], width=24)
    x = net.node("Relu", net.conv(x, (24, 8), group=2, name="b"))
    shrunk = shrink(tail(net, x, 8), borders="channel")
    assert shrunk.widths["a.weight"] == 22
