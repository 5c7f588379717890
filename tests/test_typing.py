"""What a type checker sees of the public interface: every name, and each misspelt one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prunedeploy

ROOT = Path(__file__).parents[1]
RIGHT = """
import prunedeploy

with prunedeploy.open("net.engine", threads=2) as session:
    session.run({})
session.close()
done: prunedeploy.ShrinkResult = prunedeploy.shrink("net.onnx", "small.onnx", align=1)
prunedeploy.emit_c("net.onnx")
"""
WRONG = {
    'prunedeploy.shrnik("net.onnx")': "attr-defined",
    'prunedeploy.shrink("net.onnx", alignn=1)': "call-arg",
    'prunedeploy.open("net.engine").clsoe()': "attr-defined",
    'prunedeploy.bench("net.engine").ratos': "attr-defined",
    'prunedeploy.remote_build("net.onnx", "user@nano", batchh=1)': "call-arg",
}


def test_every_public_name_is_imported_for_type_checkers() -> None:
    tree = ast.parse((ROOT / "prunedeploy" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and _checking(node.test))
    names = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == set(prunedeploy.__all__)
    # a function of that name at the top would give every other name the type that it returns
    assert "__getattr__" not in {getattr(node, "name", "") for node in tree.body}


def _checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


@pytest.mark.slow
def test_misspelt_names_are_errors(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    file = tmp_path / "user.py"
    file.write_text(RIGHT + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", file], cwd=ROOT, capture_output=True, text=True
    )
    first = RIGHT.count("\n") + 1
    found = re.findall(r"user\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    assert found == [(str(first + n), code) for n, code in enumerate(WRONG.values())], done.stdout
