from __future__ import annotations

import subprocess
import sys

import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.runtimes.registry import RUNTIMES, by_name


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_every_name_leads_to_its_runtime(name):
    assert by_name(name).name == name


def test_an_unknown_name():
    with pytest.raises(UserError, match="choose from auto, ort, sparse, hybrid, null"):
        by_name("dense")


def test_the_table_imports_no_runtime():
    code = (
        "import sys, prunedeploy.runtimes\n"
        "print([m for m in sys.modules if m in ('onnxruntime', 'torch', 'onnx')\n"
        "       or m.startswith('prunedeploy.runtimes.') and not m.endswith('_runtime')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
