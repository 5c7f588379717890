"""Strings of ONNX files that are not UTF-8: descriptions are repaired, names are refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.graph import preparation, utf8

TEXT = """<ir_version: 8, opset_import: ["" : 17], producer_name: "PRODUCER">
g (float[2] first) => (float[2] output) { [thenode] output = Relu(first) }"""
BROKEN = b"\xe9\x80"


def with_bytes(name: str, tmp_path: Path) -> Path:
    """The model with the end of a string exchanged for bytes that are no UTF-8."""
    model = onnx.parser.parse_model(TEXT)
    model.metadata_props.add(key="author", value="somebody")
    model.graph.doc_string = "description"
    data, old = model.SerializeToString(), name.encode()
    assert old in data
    path = tmp_path / "net.onnx"
    path.write_bytes(data.replace(old, old[:-2] + BROKEN))
    return path


@pytest.mark.parametrize("name", ["PRODUCER", "somebody", "description"])
def test_a_description_is_repaired(name: str, tmp_path: Path) -> None:
    prepared = preparation.from_file(with_bytes(name, tmp_path))
    assert utf8.NOTE in prepared.notes
    assert [node.op_type for node in prepared.model.graph] == ["Relu"]


@pytest.mark.parametrize("name", ["first", "output", "thenode", "Relu"])
def test_a_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"net.onnx is not valid ONNX: .* is not UTF-8"):
        preparation.from_file(with_bytes(name, tmp_path))


def test_utf8_is_left_alone(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(TEXT)
    model.graph.doc_string = "Prüfung 网络"
    assert utf8.repair(model) == ()
    assert model.graph.doc_string == "Prüfung 网络"
