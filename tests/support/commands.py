"""One model through every command, held against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from small_onnx import in_ort, outputs_of, write

import prunedeploy


def through_all(
    made: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    expected: dict[str, np.ndarray] | None = None,
    runtimes: tuple[str, ...] = ("ort", "sparse"),
) -> None:
    """Every command takes it, and what they write computes what ONNX Runtime does."""
    write(made)
    expected = in_ort("net.onnx", feeds) if expected is None else expected
    names = outputs_of("net.onnx")
    assert prunedeploy.inspect("net.onnx").kind == "model"
    prunedeploy.shrink("net.onnx", "small.onnx")
    prunedeploy.lower("net.onnx", "low.onnx", opset=min(made.opset_import[0].version, 13))
    for written in ("small.onnx", "low.onnx"):
        assert outputs_of(written) == names
        onnx.checker.check_model(written, full_check=True)
        assert_same(in_ort(written, feeds), expected)
    for runtime in runtimes:
        size = len(next(iter(feeds.values())))
        batch = (size,) if runtime == "sparse" and _is_open(made) else ()
        engine = prunedeploy.build(
            "net.onnx", runtime=runtime, output=f"{runtime}.e", batch=batch, tune="none"
        )
        with prunedeploy.open(engine) as session:
            assert_same(session.run(feeds), expected)
    prunedeploy.predict("net.onnx", runtime="ort")


def _is_open(made: onnx.ModelProto) -> bool:
    return not made.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value") or (
        made.graph.input[0].type.tensor_type.shape.dim[0].dim_value < 0
    )


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) >= set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
