"""The examples in the docstrings of the public functions run, and say what is printed there."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import prunedeploy
from prunedeploy import models
from prunedeploy.shrinking import inference_copy

FUNCTIONS = {
    name: getattr(prunedeploy, name)
    for name in prunedeploy.__all__
    if inspect.isfunction(getattr(prunedeploy, name))
}
SLOW = ("optimize", "apply_plan", "write_bundle", "sparsify_model")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, write_network) -> Path:
    """What the examples find in the current folder: a model, an engine of it, a checkpoint,
    images."""
    folder = tmp_path_factory.mktemp("files")
    model = write_network(folder / "net.onnx", 16)
    prunedeploy.build(model, runtime="sparse", output=folder / "net.engine", tune="none")
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    np.savez(folder / "images.npz", images=images)
    torch.save(models.by_name("resnet20").factory().state_dict(), folder / "resnet20.pt")
    return folder


def run(name: str, function: object) -> doctest.TestResults:
    """All examples of one docstring, as one session."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(function, name, globs={}):
        runner.run(test, out=said.append)
    results = runner.summarize(verbose=False)
    assert not results.failed, "".join(said)
    return results


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in FUNCTIONS]
)
def test_examples_run(
    name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(files, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(name, FUNCTIONS[name]).attempted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_docstring_says(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    assert [part for part in ("Returns:", "Raises:", "Example:") if part not in text] == []


def test_an_example_that_is_wrong_is_seen() -> None:
    def wrong() -> None:
        """Nothing.

        >>> 1 + 1
        3
        """

    with pytest.raises(AssertionError, match="Expected:"):
        run("wrong", wrong)


def test_examples_of_parts() -> None:
    assert run("inference_copy", inference_copy.inference_copy).attempted
