"""Versions of operators that are refused, and operators that the forms say little of."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowered import single
from net import Net

from prunedeploy.core.budget import Budget
from prunedeploy.core.errors import UserError
from prunedeploy.reference.evaluate import Evaluator, evaluate_node
from prunedeploy.reference.registry import BUILDERS, KERNELS, NEWEST, NOT_EVALUATED

X = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) - 9
TWO = np.array([1, 1, 2, 2], np.float32)


def run(op: str, opset: int, *inputs: Any, domain: str = "", outputs: int = 1, **how: Any) -> Any:
    """The first result of one node on arrays."""
    values = [None if x is None else ir.Value(name=f"x{i}") for i, x in enumerate(inputs)]
    node = ir.node(op, values, how, domain=domain, num_outputs=outputs, name="it")
    return evaluate_node(node, {domain: opset, "": opset}, list(inputs), Budget(0))[0]


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "how", "why"),
    [
        ("Frobnicate", 13, [X], {}, "unknown"),
        ("Relu", 5, [X], {}, "opset 5 is unknown"),
        ("Gelu", 19, [X], {}, "opset 19 is unknown"),
        ("Upsample", 10, [X, TWO], {}, "withdrawn"),
        ("Scatter", 11, [X, X.astype(np.int64), X], {}, "withdrawn"),
        ("Relu", 99, [X], {}, f"opset 99 is newer than what is known here, {NEWEST}"),
        ("ImageDecoder", 20, [X.astype(np.uint8)], {}, "formats that ONNX does not define"),
        ("Cast", 13, [X], {"to": int(ir.DataType.STRING)}, "as text"),
        ("Resize", 13, [X, None, TWO / TWO * np.float32(1.01)], {}, "change no length"),
        ("SplitToSequence", 11, [X, np.array(2)], {"axis": 3, "keepdims": 0}, "keepdims"),
        ("Split", 13, [X], {"axis": 3}, "equal parts"),
    ],
)
def test_what_is_not_known_is_refused_by_name_and_opset(
    op: str, opset: int, inputs: list[Any], how: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=rf"operator {op} \(node it\).*{why}"):
        run(op, opset, *inputs, outputs=3 if op == "Split" else 1, **how)


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_the_mask_of_a_dropout_is_of_bools_or_not_at_all(opset: int) -> None:
    """Versions before 10 give a mask of the input's type and do not say which numbers."""
    net = Net(channels=3, dtype=np.float32, opset=opset)
    y, mask = net.node("Dropout", "input", outputs=2)
    feeds = {"input": np.ones((1, 3, 7, 7), np.float32)}
    (found,) = Evaluator(net.model(y)).run(feeds).values()
    assert np.array_equal(found, feeds["input"])
    with pytest.raises(UserError, match="Dropout"):
        Evaluator(net.model(y, mask)).run(feeds)


def test_every_operator_of_onnx_is_known_or_refused_with_a_reason() -> None:
    schemas = [s for s in onnx.defs.get_all_schemas() if s.domain == ""]
    known = KERNELS.keys() | BUILDERS.keys() | NOT_EVALUATED.keys()
    assert {schema.name for schema in schemas} <= known
    assert onnx.defs.onnx_opset_version() <= NEWEST


def test_every_version_has_a_row_of_its_own() -> None:
    """A version that came later is not taken for the one before it."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.name in NOT_EVALUATED:
            continue
        rows: Any = KERNELS.get(schema.name) or BUILDERS[schema.name]
        newest_before_7 = max((v for v in _versions(schema.name) if v <= 7), default=0)
        if schema.since_version >= newest_before_7:
            assert schema.since_version in rows, (schema.name, schema.since_version)


def _versions(name: str) -> set[int]:
    history = onnx.defs.get_all_schemas_with_history()
    return {s.since_version for s in history if s.name == name and not s.domain}


@pytest.mark.parametrize("opset", [7, 13])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 5, 3, 2), (1, 5, 2, 1, 3)])
def test_lrn_adds_up_the_channels_around(shape: tuple[int, ...], size: int, opset: int) -> None:
    """ONNX Runtime takes four axes and odd sizes alone; this is the definition's formula."""
    x = np.random.default_rng(size).standard_normal(shape)
    alpha, beta, bias = (float(np.float32(v)) for v in (0.3, 0.6, 1.2))
    expected = np.empty_like(x)
    for c in range(shape[1]):
        first, last = max(0, c - (size - 1) // 2), min(shape[1] - 1, c + -(-(size - 1) // 2))
        squares = (x[:, first : last + 1] ** 2).sum(1)
        expected[:, c] = x[:, c] / (bias + alpha / size * squares) ** beta
    found = run("LRN", opset, x, size=size, alpha=0.3, beta=0.6, bias=1.2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("to", "kept"), [(np.float32, True), (np.float16, False)])
def test_float64_keeps_what_a_cast_would_round(to: type, kept: bool) -> None:
    """A cast of float32 to float32 loses nothing, so float64 need not either; float16 rounds."""
    net = Net(channels=3, dtype=np.float32)
    kind = int(ir.DataType.from_numpy(np.dtype(to)))
    third = net.node("Div", "input", net.weight(np.array(3.0)))
    y = net.node("Cast", net.node("Cast", third, to=kind), to=int(ir.DataType.FLOAT))
    feeds = {"input": np.ones((1, 3, 7, 7), np.float32)}
    (found,) = Evaluator(net.model(str(y)), float64=True).run(feeds).values()
    assert (np.abs(found - 1 / 3).max() < 1e-15) == kept


@pytest.mark.parametrize(
    ("opset", "axis", "over"),
    [(7, None, (1, 2, 3)), (12, 2, (2, 3)), (13, 2, (2,)), (13, None, (3,)), (NEWEST, 1, (1,))],
)
def test_softmax_goes_over_the_axes_of_its_version(
    opset: int, axis: int | None, over: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    e = np.exp(x)
    how = {} if axis is None else {"axis": axis}
    found = run("Softmax", opset, x, **how)
    np.testing.assert_allclose(found, e / e.sum(over, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_global_pools_leave_the_batch_and_the_channels(op: str, rank: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)[:rank]).astype(np.float32)
    model = single(op, x.shape)
    (found,) = Evaluator(model).run({str(model.graph.inputs[0].name): x}).values()
    over = tuple(range(2, rank))
    expected = {
        "GlobalMaxPool": x.max(over, keepdims=True),
        "GlobalAveragePool": x.mean(over, keepdims=True),
        "GlobalLpPool": np.sqrt((x**2).sum(over, keepdims=True)),
    }[op]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
