"""What a note says of channels that stay although nothing feeds them or nobody reads them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from net import Net
from shrinking import shrink

UNREAD = "no layer reads them"


def refused(net: Net, y: str, unread: object = (), channels: int = 8) -> dict[tuple[str, str], int]:
    """Counts by layer and reason, with a head behind ``y``."""
    head = net.conv(y, (channels, 3), kernel=1, unread=unread, name="head")
    found = shrink(net.model(head))
    return {
        (note.where, note.reason): note.count
        for note in found.result.notes
        if note.status == "refused"
    }


def test_unread_channels_behind_an_opaque_operator_name_it() -> None:
    net = Net()
    x = net.conv("input", (5, 8), name="a")
    y = net.node("LRN", net.node("Relu", x), size=3)
    ((where, why),) = found = refused(net, str(y), [1, 4])
    assert where.startswith("a")
    assert why.startswith(UNREAD)
    assert "LRN" in why
    assert list(found.values()) == [2]


def test_unread_channels_of_a_sum_that_is_read_before() -> None:
    net = Net()
    x = net.conv("input", (5, 8), name="a")
    y = net.node("Add", x, net.conv(x, (8, 8), name="b"))
    ((where, why),) = found = refused(net, str(y), [1, 4])
    assert where.startswith("b")
    assert why.startswith(UNREAD)
    assert "joined" in why
    assert list(found.values()) == [2]


def test_unread_in_one_branch_alone_is_no_refusal() -> None:
    net = Net()
    x = net.conv("input", (5, 8), name="a")
    left = net.conv(net.node("Relu", x), (8, 8), kernel=1, unread=[1, 4], name="b")
    y = net.node("Mul", left, net.conv(x, (8, 8), kernel=1, name="c"))
    assert not refused(net, str(y))


def test_what_can_go_is_no_refusal() -> None:
    net = Net()
    y = net.node("Relu", net.conv("input", (5, 8), dead=[0], name="a"))
    assert not refused(net, str(y), [1, 4])


def counted(net: Net, x: str) -> str:
    return str(
        net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    )


def padded(net: Net, x: str) -> str:
    ones = net.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return str(net.node("Pad", x, ones, net.weight(np.array(0.5))))


@pytest.mark.parametrize(("pad", "operator"), [(counted, "AveragePool"), (padded, "Pad")])
def test_constants_that_meet_padding_say_so(pad: Callable[[Net, str], str], operator: str) -> None:
    net = Net(size="side")  # of a fixed size, what is added at the border is known
    x = net.conv("input", (5, 8), dead=[0, 3], dead_bias=0.7, name="a")
    ((where, why),) = found = refused(net, pad(net, str(x)))
    assert where.startswith("a")
    assert operator in why
    assert "border" in why
    assert list(found.values()) == [2]


def test_tiles_of_one_channel_are_cut_each_for_itself() -> None:
    net = Net()
    x = net.conv("input", (5, 1), name="a")
    y = net.node("Tile", x, net.weight(np.array([1, 8, 1, 1])))
    head = net.conv(str(y), (8, 3), kernel=1, unread=[0, 5, 6], name="head")
    model = shrink(net.model(head)).model
    (tile,) = (node for node in model.graph if node.op_type == "Tile")
    assert tile.inputs[1] is not None
    assert tile.inputs[1].const_value is not None
    assert tile.inputs[1].const_value.numpy().tolist() == [1, 5, 1, 1]
