"""Residual branches with constant rows, computed narrow where the target's figures say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from shrinking import tail

from prunedeploy import passes, targets
from prunedeploy.core.records import PassResult
from prunedeploy.graph import model as models
from prunedeploy.passes import PassError, ScatterBranches
from prunedeploy.passes.simplify import scatter_branches
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator

DEAD = [0, 2, 3, 5, 6, 7]


def apply(model: ir.Model) -> tuple[PassResult, list[str]]:
    inputs = models.specs(model)[0]
    feeds = [verify.random_feeds(inputs, batch, seed=7) for batch in (1, 3)]
    before = [Evaluator(model).run(f) for f in feeds]
    (report,) = passes.run(model, (ScatterBranches(),), feeds[1])
    for given, expected in zip(feeds, before, strict=True):
        assert verify.compare(expected, Evaluator(model).run(given)).passed
    return report.result, [node.op_type for node in model.graph]


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which moving bytes costs next to nothing."""
    row = targets.Target("host", "", "", macs_per_second=1.0, bytes_per_second=1e12)
    monkeypatch.setattr(scatter_branches, "by_name", lambda name: row)


def block(
    constants: list[float] | float | None = None, dead: list[int] = DEAD, **options: object
) -> ir.Model:
    """A residual block whose last convolution, 6 to 8 channels, has these rows dead."""
    net = Net(**options)
    x = net.node("Relu", net.conv("input", (5, 8), name="stem"))
    y = net.node("Relu", net.conv(x, (8, 6), name="inner"))
    z = net.conv(y, (6, 8), dead=dead, bias=None if constants is None else 0.3, name="outer")
    if constants is not None:
        net.weights["outer.bias"][dead] = constants
    return tail(net, net.node("Relu", net.node("Add", z, x)), 8)


@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize(
    ("constants", "added"), [(None, 1), (0.0, 1), (0.4, 1), ([0.1, 0.2, 0.0, -0.5, 0.2, 0.9], 2)]
)
def test_rows_are_left_out(constants: list[float] | float | None, added: int) -> None:
    model = block(constants)
    result, operators = apply(model)
    (note,) = result.notes
    assert (note.where, note.status, note.count) == ("outer", "taken", 5)
    assert "predicted for host" in note.reason
    assert model.graph.initializers["outer.weight"].shape == [3, 6, 3, 3]
    assert operators.count("Gather") == 1
    assert operators.count("Add") == added


@pytest.mark.usefixtures("free_memory")
def test_matrices() -> None:
    net = Net(channels=5, size=3)
    x = net.node("Reshape", "input", net.weight(np.array([-1, 5, 9])))
    w = net.random.standard_normal((9, 9))
    w[:, [1, 2, 6]] = 0
    y = net.node("Add", x, net.node("MatMul", x, net.weight(w, "outer")))
    model = net.model(y)
    result, _ = apply(model)
    assert result.changed
    assert model.graph.initializers["outer"].shape == [9, 7]


@pytest.mark.usefixtures("free_memory")
def test_whole_pipeline_is_done_after_one_run() -> None:
    model = block(0.4)
    feeds = verify.random_feeds(models.specs(model)[0])
    passes.run(model, passes.DEFAULT, feeds)
    assert not any(r.result.changed for r in passes.run(model, passes.DEFAULT, feeds))


@pytest.mark.usefixtures("free_memory")
def test_maps_of_open_size_are_refused() -> None:
    result, _ = apply(block(size="side"))
    assert not result.changed
    assert "size of the map" in result.notes[0].reason


@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize("dead", [[], [3], list(range(8))])
def test_nothing_to_leave_out(dead: list[int]) -> None:
    assert apply(block(0.4, dead))[0] == PassResult(False)


@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize("case", ["two readers", "output", "grouped", "constant", "shared"])
def test_what_is_not_the_end_of_a_branch(case: str) -> None:
    net = Net()
    x = net.conv("input", (5, 8), name="stem")
    group = 2 if case == "grouped" else 1
    y = net.conv(x, (8, 8), dead=DEAD, dead_bias=0.4, name="outer", group=group)
    other = net.weight(np.ones((1, 8, 1, 1))) if case == "constant" else x
    outputs = [net.node("Add", other, y)]
    if case == "two readers":
        outputs.append(net.node("Relu", y))
    elif case == "output":
        outputs.append(y)
    elif case == "shared":
        outputs.append(net.node("Conv", net.node("Relu", x), "outer.weight", pads=[1] * 4))
    assert not apply(net.model(*outputs))[0].changed


def test_small_maps_do_not_pay() -> None:
    result, _ = apply(block(0.4))
    assert not result.changed
    assert result.notes[0].status == "refused"


def test_the_model_weighs_work_against_memory() -> None:
    machine = targets.Target("m", "", "", macs_per_second=50e9, bytes_per_second=28e9)
    few, many = ((512, 2048, rows, 49, 4) for rows in (1900, 200))
    assert not scatter_branches.cost(machine, *few).pays
    assert scatter_branches.cost(machine, *many).pays
    assert not scatter_branches.cost(machine, 64, 256, 30, 56 * 56, 4).pays
    plain, addend = (scatter_branches.cost(machine, *many, addend=a) for a in (False, True))
    assert addend.saved < plain.saved
    assert scatter_branches.cost(targets.Target("n", "", ""), *many) is None


def test_targets_without_figures_never_scatter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text('[plain]\narch = "riscv64"')
    monkeypatch.setenv("PRUNEDEPLOY_TARGETS", str(tmp_path / "own.toml"))
    result = ScatterBranches("plain")(block(0.4))
    assert not result.changed
    assert "no cost figures" in result.notes[0].reason


@pytest.mark.usefixtures("free_memory")
@pytest.mark.parametrize("bug", ["rows", "constants"])
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "rows":
        narrow = scatter_branches._narrow
        monkeypatch.setattr(scatter_branches, "_narrow", lambda la, s: narrow(la, np.sort(s)))
    else:
        scatter = scatter_branches._scatter
        monkeypatch.setattr(scatter_branches, "_scatter", lambda g, la, k, d: scatter(g, la, k, 0))
    with pytest.raises(PassError, match="changed the outputs"):
        apply(block([0.1, 0.2, 0.0, -0.5, 0.2, 0.9]))
