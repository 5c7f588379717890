"""Regrouped layers as several smaller ones: exact, in both forms, and only where it pays."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from block_weights import blocks_at, filled
from hypothesis import given, settings
from hypothesis import strategies as st
from net import Net
from shrinking import tail

from prunedeploy import passes, targets
from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, RecordTwoFour, RepackBlocks
from prunedeploy.passes.blocks import Block, repack_blocks, rewrite
from prunedeploy.passes.precision.record_two_four import two_four
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

MACHINES = {  # macs and bytes a second; what it makes of nodes
    "channels": (1.0, 1e9),
    "columns": (1e-3, 1e9),
    "never": (1e15, 1.0),
}


def apply(model: ir.Model) -> tuple[PassResult, Counter[str]]:
    inputs = models.specs(model)[0]
    feeds = [verify.random_feeds(inputs, batch, seed=7) for batch in (1, 3)]
    before = [Evaluator(model).run(f) for f in feeds]
    (report,) = passes.run(model, (RepackBlocks(),), feeds[1])
    for fed, expected in zip(feeds, before, strict=True):
        difference = verify.compare(expected, Evaluator(model).run(fed), tolerance=1e-12)
        assert difference.passed, difference
    return report.result, Counter(node.op_type for node in model.graph)


@pytest.fixture(autouse=True)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which multiplying is dear and moving is cheap, unless a test says otherwise."""
    macs, moved = MACHINES[getattr(request, "param", "channels")]
    row = targets.Target("host", "", "", macs_per_second=macs, bytes_per_second=moved)
    monkeypatch.setattr(repack_blocks, "by_name", lambda name: row)


def _set(net: Net, name: str, sizes: list[tuple[int, int]], seed: int, channels: bool) -> None:
    """The weight ``name`` with random blocks, of whole channels or of any columns."""
    weight = net.weights[f"{name}.weight"]
    taps = int(np.prod(weight.shape[2:])) if channels else 1
    blocks = blocks_at(weight.shape[0], weight[0].size // taps, sizes, seed)
    mask = filled((weight.shape[0], weight[0].size // taps), blocks, seed)
    weight[...] = np.repeat(mask, taps, axis=1).reshape(weight.shape) * weight


def chain(
    sizes: list[tuple[int, int]], seed: int, channels: bool = True, opset: int = 20, **how: object
) -> ir.Model:
    """A regrouped convolution between two others, with ReLU and a pool behind."""
    net = Net(size=8, seed=seed, opset=opset)
    x = net.node("Relu", net.conv("input", (5, 12), name="stem"))
    x = net.conv(x, (12, 20), name="blocks", **how)
    _set(net, "blocks", sizes, seed, channels)
    x = net.node("MaxPool", net.node("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    return tail(net, x, 20)


def test_channels_are_gathered_and_the_order_goes_into_the_reader() -> None:
    model = chain([(8, 4), (12, 6)], 1)
    result, operators = apply(model)
    (note,) = result.notes
    assert (note.where, note.status, note.count) == ("blocks", "taken", 2)
    assert "folded" in note.reason
    assert operators["Gather"] == 2  # of what each block reads, none behind
    assert operators["Concat"] == 1
    values = model.graph.initializers.values()
    weights = {tuple(v.const_value.shape) for v in values if v.const_value}
    assert {(8, 4, 3, 3), (12, 6, 3, 3)} <= weights


@pytest.mark.parametrize("machine", ["columns"], indirect=True)
def test_columns_are_copied_where_blocks_are_no_channels() -> None:
    model = chain([(8, 30), (9, 40)], 2, channels=False, strides=[2, 2], dilations=[1, 2])
    result, operators = apply(model)
    assert result.notes[0].status == "taken"
    assert "columns" in result.notes[0].reason
    assert operators["Slice"] == 9
    assert operators["Pad"] == 1


@pytest.mark.parametrize("machine", ["columns"], indirect=True)
@pytest.mark.parametrize("opset", [9, 10, 11])
def test_columns_are_copied_where_the_opset_has_pads_as_an_input(opset: int) -> None:
    result, operators = apply(chain([(8, 30), (9, 40)], 2, channels=False, opset=opset))
    assert ("columns" in result.notes[0].reason) == (opset >= 11)
    assert operators["Pad"] == (opset >= 11)


def _wants(multiple: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(repack_blocks.by_name("host"), multiple=multiple)
    monkeypatch.setattr(repack_blocks, "by_name", lambda name: row)


@pytest.mark.parametrize(
    ("machine", "sizes"),
    [
        ("channels", [(8, 3), (12, 7)]),
        ("channels", [(8, 3), (12, 10)]),
        ("columns", [(8, 30), (12, 41)]),
    ],
    indirect=["machine"],
)
@pytest.mark.parametrize("multiple", [4, 8])
def test_convolutions_read_a_multiple_of_channels(
    multiple: int, sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wants(multiple, monkeypatch)
    channels = sizes[0][1] < 12
    monkeypatch.setattr(repack_blocks, "_can_unroll", lambda layer: not channels)
    result, _ = apply(model := chain(sizes, 2, channels))
    assert ("columns" in result.notes[0].reason) is not channels
    weights = [v for k, v in model.graph.initializers.items() if k.startswith("blocks.part.weight")]
    widths = {int(weight.const_value.shape[1]) for weight in weights}  # type: ignore[union-attr, arg-type]
    # all 12 channels are read as they are once padding reaches them
    expected = {
        min(-(-width // multiple) * multiple, 12 if channels else 108) for _, width in sizes
    }
    assert widths == expected


@pytest.mark.parametrize(
    ("machine", "sizes"),
    [("channels", [(8, 5), (9, 6)]), ("columns", [(8, 30), (9, 41)])],
    indirect=["machine"],
)
def test_a_planted_bug_whose_padding_has_weights_is_found(
    sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wants(4, monkeypatch)
    monkeypatch.setattr(
        rewrite,
        "_with_zeros",
        lambda weight, axis, count: np.take(weight, range(count), axis, mode="clip"),
    )
    monkeypatch.setattr(repack_blocks, "_can_unroll", lambda layer: sizes[0][1] >= 12)
    with pytest.raises(PassError):
        apply(chain(sizes, 2, sizes[0][1] < 12))


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["columns"], indirect=True)
def test_every_real_block_list_is_repacked(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 33, wherever a block is narrower than its layer, and ONNX Runtime within 1e-6."""
    _wants(16, monkeypatch)
    lists = json.loads(gzip.decompress((real_data / "structure_lth_blocks.json.gz").read_bytes()))
    taken = 0
    for name, pairs in lists.items():
        blocks = [Block(np.array(sorted(r)), np.array(sorted(c))) for r, c in pairs if r and c]
        kernel = 1 if "downsample" in name else 3
        rows = 1 + max(int(block.rows.max()) for block in blocks)
        channels = -(-(1 + max(int(block.columns.max()) for block in blocks)) // kernel**2)
        net = Net(channels=channels, size=4, dtype=np.float32, batch=2)
        x = net.conv("input", (channels, rows), kernel=kernel, name="blocks")
        shape = (rows, channels, kernel, kernel)
        net.weights["blocks.weight"][...] = filled(shape, blocks, 7)
        model = net.model(net.node("Relu", x))
        narrow = any(b.columns.size < channels * kernel**2 for b in blocks) or len(blocks) > 1
        feeds = verify.random_feeds(models.specs(model)[0], 2, seed=7)
        exact = Evaluator(model, float64=True).run(feeds)
        result = RepackBlocks()(model)
        assert result.changed is narrow, name
        taken += result.changed
        again = Evaluator(model, float64=True).run(feeds)
        assert verify.compare(exact, again, tolerance=1e-12).passed, name
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
        found = dict(zip(exact, session.run(None, feeds), strict=True))
        assert verify.compare(exact, found, tolerance=1e-6).passed, name
    assert taken == 19  # the other lists are one block, of the whole layer


def test_taps_that_vanish_are_cut() -> None:
    net = Net(size=8)
    x = net.node("Relu", net.conv("input", (5, 12), name="stem"))
    x = net.conv(x, (12, 16), name="blocks")
    weight = net.weights["blocks.weight"]
    weight[:8, 6:] = weight[8:, :6] = 0
    weight[:8, :, 0] = weight[:8, :, :, 2] = 0  # the first row and the last column
    model = tail(net, net.node("Relu", x), 16)
    apply(model)
    shapes = [v.const_value.shape for v in model.graph.initializers.values() if v.const_value]
    assert (8, 6, 2, 2) in shapes
    assert (8, 6, 3, 3) in shapes


def test_a_residual_sum_takes_the_order_to_all_that_it_adds() -> None:
    net = Net(size=8)
    x = net.node("Relu", net.conv("input", (5, 16), name="stem"))
    y = net.node("Relu", net.conv(x, (16, 12), name="inner"))
    z = net.conv(y, (12, 16), name="blocks")
    _set(net, "blocks", [(6, 4), (10, 5)], 4, channels=True)
    model = tail(net, net.node("Relu", net.node("Add", z, x)), 16)
    result, operators = apply(model)
    assert "folded" in result.notes[0].reason
    assert operators["Gather"] == 2


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 12)), max_size=2), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_random_orders_go_through_residual_sums(sizes: list[tuple[int, int]], seed: int) -> None:
    """Two repacked layers that are added up, and one behind them."""
    net = Net(size=8, seed=seed)
    x = net.node("Relu", net.conv("input", (5, 16), name="stem"))
    y = net.node("Relu", net.conv(x, (16, 12), name="inner"))
    total = net.node("Add", net.conv(y, (12, 16), name="blocks"), net.conv(x, (16, 16), name="way"))
    last = net.conv(net.node("Relu", total), (16, 16), name="last")
    for number, name in enumerate(("blocks", "way", "last")):
        _set(net, name, sizes, seed + number, channels=True)
    apply(tail(net, net.node("Relu", net.node("Add", last, total)), 16))


def test_an_output_of_the_network_gets_its_order_back() -> None:
    net = Net(size=8)
    x = net.conv(net.node("Relu", net.conv("input", (5, 12), name="stem")), (12, 16), name="blocks")
    _set(net, "blocks", [(8, 4), (8, 6)], 5, channels=True)
    result, operators = apply(net.model(x))
    assert "Gather restores" in result.notes[0].reason
    assert operators["Gather"] == 3


@pytest.mark.parametrize("transposed", [0, 1])
def test_matrices(transposed: int) -> None:
    net = Net(channels=5, size=4)
    flat = net.node("Flatten", "input")
    weight = filled((16, 80), blocks_at(16, 80, [(6, 20), (7, 30)], 3), 3)
    stored = net.weight(weight if transposed else weight.T, "blocks.weight")
    x = net.node("Gemm", flat, stored, net.weight(np.arange(16.0)), transB=transposed, alpha=0.5)
    x = net.node("Relu", x)
    other = filled((12, 16), blocks_at(12, 16, [(6, 4), (6, 5)], 4), 4)
    x = net.node("Relu", net.node("MatMul", x, net.weight(other.T, "product.weight")))
    result, _ = apply(net.model(net.linear(x, (12, 3))))
    assert [note.status for note in result.notes] == ["taken", "taken"]


@pytest.mark.parametrize("machine", ["never"], indirect=True)
def test_where_it_does_not_pay_nothing_is_done() -> None:
    result, operators = apply(chain([(8, 4), (12, 6)], 1))
    assert not result.changed
    assert "slower if repacked" in result.notes[0].reason
    assert operators["Concat"] == 0


def test_what_has_no_blocks_passes_without_a_note() -> None:
    net = Net(size=8)
    x = net.node("Relu", net.conv("input", (5, 12), name="stem"))
    grouped = net.node("Relu", net.conv(x, (12, 12), group=3, name="grouped"))
    net.weights["grouped.weight"][::2] = 0
    assert apply(tail(net, grouped, 12))[0].notes == ()


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), max_size=3),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([{}, {"strides": [2, 2]}, {"pad": 0}, {"bias": None}, {"kernel": 1}]),
)
@settings(max_examples=20, deadline=None)
def test_random_blocks(
    sizes: list[tuple[int, int]], seed: int, channels: bool, how: dict[str, object]
) -> None:
    """Overlapping columns, single rows and columns, empty rows and layers."""
    most = 12 if channels or how.get("kernel") == 1 else 108
    apply(chain([(rows, min(width, most)) for rows, width in sizes], seed, channels, **how))


@pytest.mark.parametrize("broken", ["order", "taps", "border"])
def test_a_planted_bug_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "order":  # the permutation the wrong way round
        whole = rewrite.reorder
        monkeypatch.setattr(
            rewrite,
            "reorder",
            lambda g, v, a, order, *rest: whole(g, v, a, np.argsort(order), *rest),
        )
    elif broken == "taps":  # rows of one block with the bias of others
        whole_layer = rewrite._layer
        monkeypatch.setattr(
            rewrite,
            "_layer",
            lambda w, part, *rest: whole_layer(
                w, type(part)(np.roll(part.rows, 1), part.columns), *rest
            ),
        )
    else:  # the kernel is cut, the border stays
        cut = rewrite.window
        monkeypatch.setattr(
            rewrite,
            "window",
            lambda layer, part: (slice(0, 2), slice(0, 3), cut(layer, part)[2]),  # type: ignore[index]
        )
    with pytest.raises(PassError):
        apply(chain([(7, 4), (11, 6)], 1))


def test_two_of_four_are_on_record() -> None:
    net = Net(size=8)
    x = net.node("Relu", net.conv("input", (5, 12), name="stem"))
    x = net.conv(x, (12, 16), name="sparse")
    net.weights["sparse.weight"][:, ::2] = 0
    model = tail(net, net.node("Relu", x), 16)
    feeds = verify.random_feeds(models.specs(model)[0], 2, seed=7)
    (report,) = passes.run(model, (RecordTwoFour(),), feeds)
    assert report.result.changed
    assert two_four(model) == ("sparse",)
    weight = model.graph.initializers["sparse.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(np.ones(weight.const_value.shape))
    assert RecordTwoFour()(model).changed
    assert two_four(model) == ()
