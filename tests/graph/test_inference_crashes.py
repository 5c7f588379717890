"""Models on which onnx's own inference of types and shapes has ended the process.

Of onnx 1.23, found by trying every operator behind one whose results have no type; what others
have reported is right in it. A later onnx may take them: then they are models like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from refused import Folder

from prunedeploy.core.budget import Budget
from prunedeploy.core.child import trial
from prunedeploy.graph import preparation

OPERATORS = {
    "EyeLike": ("", 22, {"dtype": 1}),
    "RegexFullMatch": ("", 20, {"pattern": "a"}),
    "LabelEncoder": ("ai.onnx.ml", 1, {"classes_strings": ["a"]}),
    "DictVectorizer": ("ai.onnx.ml", 1, {"int64_vocabulary": [1]}),
}


def behind_an_unknown(operator: str) -> onnx.ModelProto:
    """The operator reads what one of a private domain computes: its type is not known."""
    domain, opset, attributes = OPERATORS[operator]
    graph = helper.make_graph(
        [
            helper.make_node("Mystery", ["input"], ["m"], domain="private"),
            helper.make_node(operator, ["m"], ["output"], domain=domain, **attributes),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
    )
    opsets = {"": 22, "private": 1} | {domain: opset}
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*each) for each in opsets.items()], ir_version=10
    )


def crashes(infer: Callable[[], object]) -> bool:
    why = trial(infer, Budget(0))
    return why is not None and "ends the process" in why


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_crashes_onnx_is_refused_in_one_line(
    operator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = behind_an_unknown(operator)
    if not crashes(partial(onnx.shape_inference.infer_shapes, made)):
        pytest.skip("this onnx takes it")
    onnx.save(made, tmp_path / "net.onnx")
    for command in (("inspect",), ("shrink",), ("build", "--runtime", "ort"), ("predict",)):
        line = Folder(tmp_path, capsys).refused(*command, tmp_path / "net.onnx")
        assert "ends the process (SIGSEGV)" in line


def test_an_unknown_operator_is_no_reason_by_itself() -> None:
    made = behind_an_unknown("EyeLike")
    made.graph.node[1].CopyFrom(helper.make_node("Relu", ["m"], ["output"]))
    assert len(preparation.from_proto(made).model.graph) == 2


def test_an_operator_without_results() -> None:
    made = behind_an_unknown("EyeLike")
    made.graph.node[1].CopyFrom(helper.make_node("Relu", ["input"], ["output"]))
    made.graph.node.append(helper.make_node("Print", ["input"], [], domain="private"))
    assert "Relu" in {node.op_type for node in preparation.from_proto(made).model.graph}
