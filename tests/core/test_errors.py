"""Errors that name the file that they are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunedeploy.core.errors import (
    CompilerError,
    MissingExtra,
    UnsupportedModelError,
    UserError,
    naming_file,
)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a loop would take too long", "a/net.onnx: a loop would take too long"),
        ("a/net.onnx is no model", "a/net.onnx is no model"),
        ("cannot read net.onnx", "cannot read net.onnx"),
    ],
)
def test_the_file_is_named_once(message: str, shown: str) -> None:
    with pytest.raises(UserError) as caught, naming_file(Path("a/net.onnx")):
        raise UserError(message)
    assert str(caught.value) == shown


def test_an_error_stays_what_it_is() -> None:
    with pytest.raises(UnsupportedModelError) as caught, naming_file("net.onnx"):
        raise UnsupportedModelError("sparse", "Loop", "node_1")
    assert str(caught.value).startswith("net.onnx: the sparse runtime cannot compute Loop")
    assert (caught.value.node, caught.value.reason) == ("node_1", "it cannot compute Loop")


@pytest.mark.parametrize("error", [MissingExtra("torch", "torch"), CompilerError("no compiler")])
def test_what_the_machine_lacks_is_not_about_the_file(error: UserError) -> None:
    with pytest.raises(type(error)) as caught, naming_file("net.onnx"):
        raise error
    assert "net.onnx" not in str(caught.value)
