"""The interpreter on the examples that onnx brings along, one model each, with their outputs.

They are of the newest version of every operator, and of opsets that ONNX Runtime may not know yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from forms.compare import difference
from onnx.backend.test.case.node import collect_testcases

from prunedeploy.reference.evaluate import Evaluator

# The code that makes the examples warns of what it divides by.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")

OTHER_DOMAINS = ("ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
RANDOM = ("test_bernoulli", "test_training_dropout")
# Floats that onnx writes with four digits, or adds up in another order.
LOOSE = {"float32": 2e-4}
DIFFER = {
    "test_resize_downsample_scales_linear_align_corners": "the length of the result is taken for "
    "a fraction; ONNX Runtime, and the text of the operator, have a whole number",
    "test_resize_downsample_scales_cubic_align_corners": "the same",
}
NOT_EVALUATED = ("test_image_decoder_",)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value if value is None or isinstance(value, list) else np.asarray(value)


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    found = collect_testcases(None)
    return [c for c in found if not {n.domain for n in c.model.graph.node} & set(OTHER_DOMAINS)]


def _wrong(case: Any) -> str | None:
    evaluator = Evaluator(ir.from_proto(case.model))
    names = [value.name for value in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        found = evaluator.run(dict(zip(names, map(_array, inputs), strict=False))).values()
        for expected, result in zip(map(_array, outputs), found, strict=True):
            if (reason := difference(expected, result, LOOSE)) is not None:
                return reason
    return None


def test_every_example(cases: list[Any]) -> None:
    skipped = (*RANDOM, *NOT_EVALUATED)
    wrong = {}
    for case in cases:
        if not case.name.startswith(skipped) and (reason := _wrong(case)) is not None:
            wrong[case.name] = reason
    assert set(wrong) == set(DIFFER), wrong
    assert len(cases) > 1500
