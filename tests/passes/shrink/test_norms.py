"""Exact shrink of axes that are normalised: the statistics stay those of the old width."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import Shrunk, shrink

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError
from prunedeploy.passes.shrink import lowering
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

DEAD = [0, 3, 4, 8]


def operators(found: Shrunk) -> list[str]:
    return [node.op_type for node in found.model.graph]


def refused(found: Shrunk) -> list[str]:
    return [note.reason for note in found.result.notes if note.status == "refused"]


def block(
    norm: str = "LayerNormalization",
    *,
    width: int = 9,
    scale: object = DEAD,
    bias: bool = True,
    unread: object = (),
    axis: int = -1,
    **options: object,
) -> ir.Model:
    """Linear, norm, linear; the first without rows ``DEAD``, the scale zero at ``scale``."""
    net = Net(**{"opset": 23 if norm == "RMSNormalization" else 20, **options})
    x = net.node("MatMul", "input", net.weight(net.random.standard_normal((7, width))))
    net.weights["w0"][:, DEAD] = 0
    x = net.node("Add", x, net.weight(net.random.standard_normal(width), "shift"))
    net.weights["shift"][DEAD] = 0
    shape = [5, 7, width][axis:]
    vectors = [net.random.standard_normal(shape) + 2 for _ in range(1 + bias)]
    vectors[0][..., list(scale)] = 0
    for vector in vectors[1:]:
        vector[..., list(scale)] = 0.5
    y = net.node(norm, x, *map(net.weight, vectors), axis=axis, epsilon=1e-2)
    weight = net.random.standard_normal((width, 4))
    weight[list(unread)] = 0
    return net.model(net.node("MatMul", y, net.weight(weight, "down.weight")))


@pytest.mark.parametrize("batch", [1, 3, "batch"])
@pytest.mark.parametrize("axis", [-1, -2])
def test_dead_dimensions_leave_a_layer_norm(axis: int, batch: int | str) -> None:
    found = shrink(block(axis=axis, batch=batch))
    assert found.widths["down.weight"] == 5
    assert "LayerNormalization" not in operators(found)


def test_the_statistics_are_computed_without_cancellation() -> None:
    """In float32, with a mean a thousand times the spread."""
    model = block(scale=(), unread=DEAD, dtype=np.float32)
    model.graph.initializers["shift"].const_value = ir.tensor(
        np.where(np.isin(np.arange(9), DEAD), 0, 1000).astype(np.float32)
    )
    shrunk = shrink_loosely(model)
    assert "LayerNormalization" not in [node.op_type for node in shrunk.graph]


def shrink_loosely(model: ir.Model) -> ir.Model:
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    passes.run(model, (passes.ShrinkChannels(),), feeds)
    return model


@pytest.mark.parametrize("bias", [True, False])
def test_columns_that_nobody_reads(bias: bool) -> None:
    """The scale is not zero, but nobody reads the result there."""
    found = shrink(block(scale=(), unread=DEAD, bias=bias))
    assert found.widths["down.weight"] == 5


def test_a_result_that_is_read_stays() -> None:
    """Zero comes in, minus the mean goes out."""
    found = shrink(block(scale=[0, 3], unread=[4]))
    assert found.widths["down.weight"] == 6


def test_what_only_the_statistics_read_stays_and_the_norm_is_named() -> None:
    """Dimension 1 is read by nobody and is not zero: it changes mean and variance."""
    found = shrink(block(scale=[*DEAD, 1], unread=[*DEAD, 1]))
    assert found.widths["down.weight"] == 5
    net = Net()
    x = net.conv("input", (5, 6), dead=[2], dead_bias=0.7, name="a")
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    scale = np.array([1.0, 1, 0, 1, 1, 1])
    y = net.node("LayerNormalization", x, net.weight(scale))
    found = shrink(net.model(net.node("MatMul", y, net.weight(net.random.random((6, 2))))))
    assert not found.result.changed
    assert len(refused(found)) == 1
    assert "LayerNormalization" in refused(found)[0]


@pytest.mark.parametrize("opset", [17, 18])
def test_axes_of_means_in_old_and_new_opsets(opset: int) -> None:
    found = shrink(block(opset=opset))
    mean = next(node for node in found.model.graph if node.op_type == "ReduceMean")
    assert len(mean.inputs) == (1 if opset == 17 else 2)


def test_several_rounds_cut_from_one_norm() -> None:
    """Heads go first, single dimensions of heads in a later round; the width is the first one."""
    net = Net(size=8)
    dead = [0, 1, 2, 3, 5, 9]  # the first of three heads of 4, and the second of each other
    x = net.node("MatMul", "input", net.weight(net.random.standard_normal((8, 12))))
    net.weights["w0"][:, dead] = 0
    parts = net.node("Reshape", x, net.weight(np.array([0, 40, 3, 4])))
    scale = net.random.standard_normal((3, 4))
    scale.reshape(-1)[dead] = 0
    y = net.node("LayerNormalization", parts, net.weight(scale), axis=-2)
    y = net.node("Reshape", y, net.weight(np.array([0, 40, 12])))
    found = shrink(net.model(net.node("MatMul", y, net.weight(np.ones((12, 2)), "down.weight"))))
    assert found.widths["down.weight"] == 6
    assert "12" in next(note.reason for note in found.result.notes if "count as" in note.reason)


def test_statistics_that_are_outputs_keep_everything() -> None:
    net = Net()
    x = net.conv("input", (5, 7), dead=[1], dead_bias=0.0, name="a")
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    y, mean = net.node("LayerNormalization", x, net.weight(np.zeros(7)), outputs=2)
    y = net.node("MatMul", y, net.weight(np.ones((7, 2))))
    found = shrink(net.model(y, mean))
    assert not found.result.changed
    assert "LayerNormalization" in refused(found)[0]


def test_a_width_that_is_not_known_keeps_the_axis() -> None:
    net = Net(size="side")
    x = net.conv("input", (5, 7), dead=[1], dead_bias=0.0, name="a")
    x = net.node("Transpose", x, perm=[0, 2, 1, 3])
    y = net.node("LayerNormalization", x, net.weight(np.ones(1)), axis=2)
    found = shrink(net.model(net.node("ReduceSum", y, net.weight(np.array([2])))))
    assert not found.result.changed
    assert "unknown width" in refused(found)[0]


def test_half_precision_takes_its_statistics_in_float32() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = block(dtype=np.float16)
    feeds = verify.random_feeds(models.specs(model)[0], batch=3, seed=7)
    before = Evaluator(model).run(feeds)
    passes.run(model, (passes.ShrinkChannels(),), feeds)
    assert "LayerNormalization" not in [node.op_type for node in model.graph]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, feeds)
    assert verify.compare(before, dict(zip(before, [found], strict=True))).passed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [-1, -2])
def test_rms_norm(axis: int, dtype: type) -> None:
    """RMSNormalization leaves zeros zero, so the scale does not matter.

    In float32 it stays one operator; in float64 its epsilon would be rounded.
    """
    model = block("RMSNormalization", scale=(), bias=False, axis=axis, dtype=dtype)
    if dtype == np.float32:
        shrunk = shrink_loosely(model)
        names = [node.op_type for node in shrunk.graph]
        assert "RMSNormalization" in names
        assert shrunk.graph.initializers["down.weight"].const_value.shape[0] == 5
        assert not [node for node in shrunk.graph if node.metadata_props]
        return
    found = shrink(model)
    assert found.widths["down.weight"] == 5
    assert "RMSNormalization" not in operators(found)


def test_rescaled_rms_norm_in_exact_numbers() -> None:
    """e' = e N / N' and scale' = scale sqrt(N / N'), against the definition in float64."""
    random = np.random.default_rng(0)
    x, scale, epsilon = random.standard_normal((6, 5)) * 0.05, random.random(5), 0.003
    full = np.concatenate([x, np.zeros((6, 4))], axis=1)
    expected = x / np.sqrt((full**2).mean(1, keepdims=True) + epsilon) * scale
    less = np.sqrt((x**2).mean(1, keepdims=True) + epsilon * 9 / 5)
    np.testing.assert_allclose(x / less * scale * np.sqrt(9 / 5), expected, rtol=1e-14)


@pytest.mark.parametrize("form", ["reciprocal", "divide", "squares"])
def test_rms_norm_in_primitives(form: str) -> None:
    net = Net()
    x = net.node("MatMul", "input", net.weight(net.random.standard_normal((7, 9))))
    net.weights["w0"][:, DEAD] = 0
    square = net.node("Mul", x, x) if form == "squares" else net.node("Pow", x, net.weight([2.0]))
    mean = net.node("ReduceMean", square, net.weight(np.array([-1])))
    root = net.node("Sqrt", net.node("Add", mean, net.weight(np.array(1e-6))))
    y = net.node("Div", x, root)
    if form == "reciprocal":
        y = net.node("Mul", x, net.node("Reciprocal", root))
    y = net.node("Mul", y, net.weight(net.random.random(9)))
    found = shrink(net.model(net.node("MatMul", y, net.weight(np.ones((9, 2)), "down.weight"))))
    assert found.widths["down.weight"] == 5


def test_whole_groups_leave_a_group_norm() -> None:
    net = Net(opset=21)
    x = net.conv("input", (5, 12), dead=[3, 4, 5, 7], dead_bias=0.0, name="a")
    vectors = [net.random.standard_normal(12) for _ in range(2)]
    y = net.node("GroupNormalization", x, *map(net.weight, vectors), num_groups=4)
    found = shrink(net.model(net.conv(y, (12, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 9
    (reason,) = refused(found)  # the one dead channel of another group
    assert "groups of a norm" in reason


def test_a_group_that_nobody_reads() -> None:
    net = Net(opset=21)
    x = net.conv("input", (5, 12), name="a")
    vectors = [net.random.standard_normal(12) for _ in range(2)]
    y = net.node("GroupNormalization", x, *map(net.weight, vectors), num_groups=3)
    found = shrink(net.model(net.conv(y, (12, 4), unread=[4, 5, 6, 7, 8], kernel=1, name="b")))
    assert found.widths["a.weight"] == 8


def test_lp_norm() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    y = net.node("LpNormalization", x, axis=1)
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert found.widths["a.weight"] == 6
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.5, name="a")
    found = shrink(net.model(net.conv(net.node("LpNormalization", x, axis=1), (8, 4), name="b")))
    assert not found.result.changed
    assert "LpNormalization" in refused(found)[0]


def test_mean_variance_norm_passes_channels_or_names_itself() -> None:
    for axes, left in (([0, 2, 3], 6), ([1, 2, 3], 8)):
        net = Net()
        x = net.conv("input", (5, 8), name="a")
        y = net.node("MeanVarianceNormalization", x, axes=axes)
        found = shrink(net.model(net.conv(y, (8, 4), unread=[2, 5], kernel=1, name="b")))
        assert found.widths["a.weight"] == left


def test_local_response_norm_keeps_its_channels() -> None:
    """A channel cut would make neighbours of others."""
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    y = net.node("LRN", x, size=3)
    found = shrink(net.model(net.conv(y, (8, 4), kernel=1, name="b")))
    assert not found.result.changed
    assert "LRN" in refused(found)[0]


def test_softmax_is_named() -> None:
    net = Net()
    x = net.conv("input", (5, 8), dead=[1, 4], dead_bias=0.0, name="a")
    found = shrink(net.model(net.node("Softmax", x, axis=1)))
    assert "Softmax" in refused(found)[0]


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
def test_a_norm_that_forgets_its_width_is_caught(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "old_width", lambda _: None)
    with pytest.raises(PassError, match="changed the outputs"):
        shrink(block(norm, bias=False))
