"""Channels that hold the same map for every input go, and their readers add what it comes to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from net import Net
from shrinking import Shrunk, shrink

from prunedeploy.passes import PassError
from prunedeploy.passes.analysis.borders import Border
from prunedeploy.passes.analysis.constants import find_constants
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.layers import Weights
from prunedeploy.passes.shrink import edit

DEAD = [1, 4, 6, 7]
Between = Callable[[Net, str], str]


def dead_rows(net: Net, dead: list[int] = DEAD, ins: int = 5) -> str:
    """Eight channels; those that are dead hold different constants."""
    x = net.conv("input", (ins, 8), dead=dead, name="a")
    net.weights["a.bias"][dead] = np.linspace(-0.5, 0.9, len(dead))
    return x


def average(net: Net, x: str, **options: object) -> str:
    given = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, **options}
    return str(net.node("AveragePool", x, **given))


def shuffle(net: Net, x: str, mode: str = "CRD") -> str:
    return str(net.node("DepthToSpace", x, blocksize=2, mode=mode))


def pad(net: Net, x: str, number: float = 1.0, mode: str = "constant") -> str:
    pads = net.weight(np.array([0, 0, 1, 0, 0, 0, 2, 1]))
    return str(net.node("Pad", x, pads, net.weight(np.array(number)), mode=mode))


def norm(net: Net, x: str) -> str:
    vectors = [net.weight(net.random.uniform(0.5, 1.5, 8)) for _ in range(4)]
    return str(net.node("BatchNormalization", x, *vectors))


def added(net: Net, x: str, shape: tuple[int, ...] = (8, 1, 1)) -> str:
    return str(net.node("Add", x, net.weight(net.random.standard_normal(shape))))


def notes(found: Shrunk) -> list[str]:
    return [note.reason for note in found.result.notes]


BETWEEN: dict[str, Between] = {
    "average": average,
    "uneven window": lambda net, x: average(net, x, kernel_shape=[2, 3], strides=[2, 1]),
    "pad with 1": pad,
    "pad with 0, then Sigmoid": lambda net, x: net.node("Sigmoid", pad(net, x, 0.0)),
    "average, Sigmoid": lambda net, x: net.node("Sigmoid", average(net, x)),
    "average, norm, maximum": lambda net, x: net.node(
        "MaxPool", norm(net, average(net, x)), kernel_shape=[2, 2], pads=[1, 0, 0, 1]
    ),
    "average, clip": lambda net, x: net.node("Clip", average(net, x), net.weight(np.array(-0.1))),
    "pad, addition": lambda net, x: added(net, pad(net, x)),
    "sum of two": lambda net, x: net.node("Add", average(net, x), net.node("Relu", x)),
    "twice itself": lambda net, x: net.node("Mul", (y := average(net, x)), y),
    "depthwise": lambda net, x: net.conv(net.node("Sigmoid", x), (8, 8), group=8, name="dw"),
    "pad, pad by reflection": lambda net, x: pad(net, pad(net, x), mode="reflect"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_maps_go(name: str) -> None:
    net = Net()
    x = BETWEEN[name](net, dead_rows(net))
    found = shrink(net.model(net.conv(x, (8, 3), name="b")))
    assert found.widths["a.weight"] == 4
    assert any("known maps" in reason for reason in notes(found))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("unary", ["", "Sigmoid"])
def test_pixel_shuffle(mode: str, unary: str) -> None:
    net = Net()
    dead = [4, 5, 6, 7] if mode == "CRD" else [1, 3, 5, 7]
    x = shuffle(net, dead_rows(net, dead), mode)
    x = str(net.node(unary, x)) if unary else x
    found = shrink(net.model(net.conv(x, (2, 3), name="b")))
    assert found.widths["a.weight"] == 4
    tables = [v for k, v in found.model.graph.initializers.items() if "b.weight.borders.b" in k]
    assert all(np.prod(v.shape) <= 3 * 4 * 4 for v in tables)  # first, even, odd, last


def test_space_to_depth() -> None:
    net = Net(size=6)
    x = net.node("SpaceToDepth", average(net, dead_rows(net)), blocksize=2)
    found = shrink(net.model(net.conv(x, (32, 3), name="b")))
    assert found.widths["a.weight"] == 4


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 1},
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pad": 2},
        {"group": 2},
        {"group": 4},
    ],
    ids=str,
)
def test_readers(options: dict[str, object]) -> None:
    net = Net(size=9)
    y = average(net, dead_rows(net))
    found = shrink(net.model(net.conv(y, (8, 4), name="b", **options)))
    assert found.widths["a.weight"] == 4


def test_reader_that_pads_to_the_same_size() -> None:
    net = Net(size=9)
    w = net.weight(net.random.standard_normal((4, 8, 2, 3)))
    y = net.node("Conv", average(net, dead_rows(net)), w, auto_pad="SAME_UPPER", strides=[2, 1])
    assert shrink(net.model(y)).widths["a.weight"] == 4


def test_transposed_reader() -> None:
    net = Net(size=4)
    w = net.weight(net.random.standard_normal((8, 3, 3, 3)))
    y = average(net, dead_rows(net))
    y = net.node("ConvTranspose", y, w, strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0])
    assert shrink(net.model(y)).widths["a.weight"] == 4


def test_constants_beside_maps_go_into_the_bias() -> None:
    net = Net()
    x = net.conv("input", (5, 4), dead=[0], dead_bias=0.7, name="c")
    y = net.node("Concat", average(net, dead_rows(net)), x, axis=1)
    found = shrink(net.model(net.conv(y, (12, 3), kernel=1, name="b")))
    assert (found.widths["a.weight"], found.widths["c.weight"]) == (4, 3)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "ReduceMean"])
def test_mean_of_a_map_is_a_constant(operator: str) -> None:
    net = Net()
    axes = [net.weight(np.array([2, 3]))] if operator == "ReduceMean" else []
    y = net.node("Flatten", net.node(operator, average(net, dead_rows(net)), *axes))
    found = shrink(net.model(net.linear(y, (8, 3))))
    assert found.widths["a.weight"] == 4
    assert not any("map" in reason for reason in notes(found))


def test_rows_that_read_constants_alone_become_maps_in_turn() -> None:
    net = Net()
    x = net.node("Sigmoid", dead_rows(net))
    y = net.conv(x, (8, 6), unread=[0, 2], name="b")
    net.weights["b.weight"][2:5, [0, 2, 3, 5]] = 0  # these read dead channels alone
    z = net.conv(net.node("Relu", y), (6, 3), name="c")
    assert shrink(net.model(z)).widths["b.weight"] == 3


REFUSED: dict[str, Between] = {
    "the last window overhangs": lambda net, x: average(net, x, strides=[2, 2], ceil_mode=1),
    "a jump": lambda net, x: net.node("Sign", average(net, x)),
    "an addend that differs with the batch": lambda net, x: added(
        net, average(net, x), (3, 8, 1, 1)
    ),
    "a sum with what varies": lambda net, x: net.node(
        "Add", average(net, x), net.conv("input", (5, 8), name="d")
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_stays(name: str) -> None:
    net = Net(size=6, batch=3)
    x = REFUSED[name](net, dead_rows(net))
    assert shrink(net.model(net.conv(x, (8, 3), name="b"))).widths["a.weight"] == 8


def test_maps_of_unknown_size_stay() -> None:
    net = Net(size="side")
    y = average(net, dead_rows(net))
    found = shrink(net.model(net.conv(y, (8, 3), name="b")))
    assert found.widths["a.weight"] == 8
    assert any(note.status == "refused" for note in found.result.notes)


def test_a_planted_bug_that_forgets_maps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*arguments: object) -> Border:
        found = right(*arguments)
        return Border(0 * found.table, found.repeats)

    right = edit.map_border
    monkeypatch.setattr(edit, "map_border", empty)
    net = Net()
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(net.model(net.conv(average(net, dead_rows(net)), (8, 3), name="b")))


def test_a_planted_bug_that_mixes_rows_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def reversed_rows(*arguments: object) -> Border:
        found = right(*arguments)
        return Border(found.table, (found.repeats[0] * 0, *found.repeats[1:]))

    right = edit.map_border
    monkeypatch.setattr(edit, "map_border", reversed_rows)
    net = Net()
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(net.model(net.conv(average(net, dead_rows(net)), (8, 3), name="b")))


@pytest.mark.parametrize("maps", [True, False])
def test_without_maps_nothing_follows_from_sizes(maps: bool) -> None:
    net = Net()
    y = net.node("GlobalAveragePool", average(net, dead_rows(net)))
    model = net.model(y)
    facts = find_constants(model.graph, Weights(Zero()), Zero(), maps=maps)
    known = facts.of(model.graph.outputs[0], 1)
    assert (known is not None) == maps
    assert known is None or np.flatnonzero(~np.isnan(known)).tolist() == DEAD
