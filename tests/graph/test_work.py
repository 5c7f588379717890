"""Multiply-accumulates of one node for one sample."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from prunedeploy.graph import preparation, work

CASES = [
    ("(float[n, 6, 9, 9] x, float[8, 3, 3, 3] w)", "Conv <group = 2> (x, w)", 8 * 49 * 27),
    ("(float[n, 6, 9, 9] x, float[6, 2, 3, 3] w)", "ConvTranspose <group = 2> (x, w)", 486 * 18),
    ("(float[n, 6] x, float[8, 6] w)", "Gemm <transB = 1> (x, w)", 6 * 8),
    ("(float[n, 5, 6] x, float[6, 8] w)", "MatMul(x, w)", 5 * 6 * 8),
    ("(float[n, 5, m] x, float[m, 8] w)", "MatMul(x, w)", 0),  # an open size
    ("(float[n, 5, 6] x, float[6] w)", "MatMul(x, w)", 5 * 6),
    ("(float[n, 6] x, float[6] w)", "Add(x, w)", 0),
    (
        "(float[7, n, 6] x, float[2, 12, 6] w, float[2, 12, 4] r)",
        'GRU <hidden_size = 4, direction = "bidirectional"> (x, w, r)',
        7 * 2 * 12 * (6 + 4),
    ),
    (
        "(float[n, 7, 6] x, float[1, 16, 6] w, float[1, 16, 4] r)",
        "LSTM <hidden_size = 4, layout = 1> (x, w, r)",
        7 * 16 * (6 + 4),
    ),
    ("(float[t, n, 6] x, float[1, 16, 6] w, float[1, 16, 4] r)", "LSTM(x, w, r)", 0),
]


@pytest.mark.parametrize(("inputs", "call", "expected"), CASES)
def test_macs(inputs: str, call: str, expected: int) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 20]> g {inputs} => (float y) {{ y = {call} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    program: ir.Model = preparation.from_proto(model).model
    assert work.macs(program.graph[0]) == expected
