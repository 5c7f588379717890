"""From a model to an engine and a report, in one call."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import prunedeploy
from prunedeploy.cli.commands import app
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json
from prunedeploy.engines.bundle_record import is_bundle
from prunedeploy.optimizing.optimize import OptimizeResult, optimize


@pytest.fixture
def net(folder, write_network):
    return write_network(folder / "net.onnx", 16)


def test_everything_lies_in_one_folder(folder, net):
    said: list[str] = []
    done = optimize(net, tune="none", rounds=5, progress=said.append)
    assert done.folder.name == "net.optimized"
    assert {path.name for path in done.folder.iterdir()} == {
        *("net.onnx", "net.json", "net.dense.onnx", "net.engine"),
        *("report.html", "optimize.json"),
    } - ({"net.dense.onnx"} if done.shrunk.dense == net else set())
    assert done.engine is not None
    assert done.measured is not None
    assert done.engine.manifest.choice is not None
    assert f"{done.measured.ratios[0].value:.2f}x" in done.summary
    assert "8 random inputs" in done.summary
    assert done.summary in done.report.read_text()
    assert from_json(OptimizeResult, (done.folder / "optimize.json").read_text()) == done
    assert said
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    with prunedeploy.open(done.engine.path) as session:
        small = session.run({"input": x})["output"]
    from prunedeploy.reference.evaluate import Evaluator

    wanted = Evaluator(net).run({"input": x})["output"]
    assert abs(small - wanted).max() <= 1e-5 * np.ptp(wanted)


@pytest.mark.slow
def test_what_optimize_wrote_is_written_anew(folder, net):
    optimize(net, "out", tune="none", rounds=2)
    again = optimize(net, "out", tune="none", rounds=3)
    assert again.measured is not None
    assert len(again.measured.baseline.samples_ns) == 3


def test_no_other_folder_is_written_to(folder, net):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="mine is a folder that optimize did not write"):
        optimize(net, "mine")
    with pytest.raises(UserError, match=r"net\.onnx is a file"):
        optimize(net, "net.onnx")
    assert [path.name for path in (folder / "mine").iterdir()] == ["thesis.txt"]


def test_bad_input_is_one_line(folder):
    (folder / "bad.onnx").write_bytes(b"no model")
    done = CliRunner().invoke(app, ["optimize", "bad.onnx"])
    assert isinstance(done.exception, UserError)
    assert "bad.onnx" in str(done.exception)
    assert [path.name for path in folder.iterdir()] == ["bad.onnx"]


@pytest.mark.slow
def test_images_that_do_not_fit_are_refused_before_an_engine_is_built(folder, net) -> None:
    steps: list[str] = []
    with pytest.raises(UserError, match=r"no such file: .*typo\.npz"):
        prunedeploy.optimize(net, data=folder / "typo.npz", progress=steps.append)
    assert not steps
    np.savez(folder / "grey.npz", images=np.zeros((2, 5, 5), np.uint8), labels=np.zeros(2, int))
    with pytest.raises(UserError, match="the network takes"):
        prunedeploy.optimize(net, data=folder / "grey.npz", progress=steps.append)
    assert not [step for step in steps if "engine" in step or "building" in step]


def test_a_failure_behind_shrink_can_be_tried_again(folder, net, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise UserError("no compiler")

    with monkeypatch.context() as patched:
        patched.setattr("prunedeploy.optimizing.optimize.build", fail)
        with pytest.raises(UserError, match="no compiler"):
            optimize(net)
    assert [path.name for path in folder.iterdir()] == ["net.onnx"]
    assert optimize(net, tune="none", rounds=2).engine is not None


@pytest.mark.slow
def test_the_last_line_is_the_result(folder, net):
    done = CliRunner().invoke(app, ["optimize", "net.onnx", "--tune", "none", "--rounds", "3"])
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split("\n\n")[-1].split())
    assert told.endswith(".")
    assert "largest difference" in told
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    done = CliRunner().invoke(app, ["optimize", "net.onnx", "--rounds", "2", "--json"])
    assert json.loads(done.stdout)["type"] == "OptimizeResult"


@pytest.mark.slow
def test_for_another_machine_it_predicts(folder, net):
    done = optimize(net, target="jetson-nano")
    assert done.engine is None
    assert done.measured is None
    assert done.bundle is not None
    assert is_bundle(done.bundle)
    assert done.summary.startswith("predicted for jetson-nano, not measured: ")
    assert [each.model for each in done.predicted] == [done.shrunk.dense.name, "net.onnx"]
    assert "predicted" in done.report.read_text()


@pytest.mark.slow
def test_a_module_in_memory(folder):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4)
    )
    module[0].weight.data[::2] = 0
    module[0].bias.data[::2] = 0
    x = torch.randn(1, 3, 8, 8)
    done = optimize(module, x, tune="none", rounds=2)
    assert done.folder.name == "Sequential.optimized"
    assert {"Sequential.onnx", "Sequential.engine"} <= {path.name for path in folder.rglob("*")}
    assert done.shrunk.after.parameters < done.shrunk.before.parameters
    with prunedeploy.open(done.engine) as session, torch.no_grad():
        found = session.run({"input": x.numpy()})["output"]
        np.testing.assert_allclose(found, module(x).numpy(), atol=1e-5)
    assert done.summary in done._repr_html_()
    with pytest.raises(UserError, match="a module needs example inputs"):
        optimize(module, output="other")
    assert not (folder / "other").exists()
