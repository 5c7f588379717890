"""--shape on every command that reads a model whose sizes are open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from net import Net

import prunedeploy
from prunedeploy.cli import main
from prunedeploy.cli.parse import parse_sizes
from prunedeploy.graph import model as models
from prunedeploy.measure import bench

SIZE = ["--shape", "input=?x3x12x12"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A convolutional network of open height and width, which the sparse runtime refuses."""
    monkeypatch.chdir(tmp_path)
    net = Net(channels=3, size="side", dtype=np.float32)
    x = net.node("Relu", net.conv("input", (3, 8)))
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv(x, (8, 8))))
    net.weights["conv0.weight"][::2, 0] = 0
    models.save(net.model(net.linear(x, (8, 5))), Path("net.onnx"))
    return Path("net.onnx")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        (["1x128"], {"": (1, 128)}),
        (["1,3,8,8"], {"": (1, 3, 8, 8)}),
        (["ids=1x128", "mask=?x128"], {"ids": (1, 128), "mask": (None, 128)}),
        (["a=b=2"], {"a=b": (2,)}),
    ],
)
def test_forms(given: list[str] | None, expected: dict[str, tuple[int | None, ...]]) -> None:
    assert parse_sizes(given) == (expected,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["ids=1x0"], "write it as NAME=1x128"),
        (["ids=1xmany"], "write it as NAME=1x128"),
        (["ids="], "write it as NAME=1x128"),
        (["ids=1x64,1x128", "mask=1x64"], r"give as many of each \(ids 2, mask 1\)"),
        (["ids=1x64,1xmany"], "write it as NAME=1x128"),
        (["ids=1x64,"], "write it as NAME=1x128"),
        (["ids=1x8", "ids=1x9"], "once, by its name"),
        (["ids=1x8", "1x9"], "once, by its name"),
    ],
)
def test_mistakes(given: list[str], says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        parse_sizes(given)


def test_several_sizes_go_together_in_their_order() -> None:
    assert parse_sizes(["1x3x8x8,1x3x16x16"]) == ({"": (1, 3, 8, 8)}, {"": (1, 3, 16, 16)})
    assert parse_sizes(["ids=1x64,?x128", "mask=1x64x1,?x128x1"]) == (
        {"ids": (1, 64), "mask": (1, 64, 1)},
        {"ids": (None, 128), "mask": (None, 128, 1)},
    )


def test_an_input_that_is_not_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["build"], ["predict"], ["lower"], ["inspect"], ["shrink"]):
        assert main([*words, "net.onnx", "--shape", "ids=1x8"]) == 2
        assert "no input is called 'ids': the model takes input" in capsys.readouterr().err
    assert sorted(Path().iterdir()) == [model]


def test_lower_writes_the_sizes(model: Path) -> None:
    assert main(["lower", "net.onnx", "-o", "sized.onnx", *SIZE]) == 0
    (spec,), _ = models.specs(models.load(Path("sized.onnx")))
    assert spec.shape == ("batch", 3, 12, 12)
    onnx.checker.check_model(onnx.load("sized.onnx"), full_check=True)


def test_inspect_and_predict_count_at_that_size(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = 12 * 12 * (8 * 3 * 9 + 8 * 8 * 9) + 8 * 5
    assert main(["inspect", "net.onnx", *SIZE, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["totals"]["macs"] == work
    assert "--shape 'input=?x3x12x12'" in result["next_step"]["command"]
    times = []
    for side in (12, 120):
        shape = f"1x3x{side}x{side}"
        assert main(["predict", "net.onnx", "--runtime", "ort", "--shape", shape, "--json"]) == 0
        times.append(json.loads(capsys.readouterr().out)["predictions"][0]["forecast"]["seconds"])
    assert times[1] > 2 * times[0]


def test_shrink_fixes_both_models(model: Path) -> None:
    assert main(["shrink", "net.onnx", "--align", "1", *SIZE]) == 0
    for name in ("net.shrunk.onnx", "net.shrunk.dense.onnx"):
        (spec,), _ = models.specs(models.load(Path(name)))
        assert spec.shape == ("batch", 3, 12, 12)


TWO = ["--shape", "input=1x3x12x12,1x3x24x24"]


def test_lower_writes_a_file_a_size(model: Path) -> None:
    assert main(["lower", "net.onnx", "-o", "sized.onnx", *TWO]) == 0
    for side in (12, 24):
        path = Path(f"sized.1x3x{side}x{side}.onnx")
        assert models.specs(models.load(path))[0][0].shape == (1, 3, side, side)
    assert not Path("sized.onnx").exists()


def test_several_sizes_are_counted_and_predicted_one_by_one(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "net.onnx", *TWO, "--json"]) == 0
    small, large = json.loads(capsys.readouterr().out)["sizes"]
    assert (small["size"], large["size"]) == ("1x3x12x12", "1x3x24x24")
    assert large["macs"] - 40 == 4 * (small["macs"] - 40)  # but for the linear layer
    assert main(["predict", "net.onnx", "--runtime", "ort", *TWO, "--json"]) == 0
    small, large = json.loads(capsys.readouterr().out)["predictions"]
    assert (small["size"], large["size"]) == ("1x3x12x12", "1x3x24x24")
    assert large["forecast"]["seconds"] > small["forecast"]["seconds"]
    assert main(["predict", "net.onnx", "--runtime", "ort", *TWO, "-o", "p.json"]) == 2
    assert "-o keeps the forecast of one size" in capsys.readouterr().err


def test_shrink_leaves_open_what_differs(model: Path) -> None:
    assert main(["shrink", "net.onnx", "--align", "1", *TWO]) == 0
    (spec,), _ = models.specs(models.load(Path("net.shrunk.onnx")))
    assert spec.shape == (1, 3, "side", "side")


def test_sizes_that_cannot_be(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["build", "--shape", "1x3x12x12,1x3x12x12"], "two of the sizes are the same, 1x3x12x12"),
        (["build", "--target", "jetson-nano", *TWO], "a device bundle has one size"),
        (["optimize", "--target", "jetson-nano", *TWO], "a device bundle has one size"),
        (["optimize", "--data", "x.npz", *TWO], "labelled images have one size"),
    ):
        assert main([words[0], "net.onnx", *words[1:]]) == 2
        error = capsys.readouterr().err
        assert says in " ".join(error.split()), error
    assert sorted(Path().iterdir()) == [model]


@pytest.mark.slow  # engines are compiled and measured
def test_an_engine_of_one_size_beside_a_baseline_of_any(model: Path) -> None:
    line = ["build", "net.onnx", "--runtime", "sparse", "--tune", "none", "-o", "engine"]
    assert main(line) == 2  # its sizes are open
    assert main([*line, "--baseline", "net.onnx", *SIZE]) == 0
    with prunedeploy.open("engine") as session:
        assert session.inputs[0].shape == ("batch", 3, 12, 12)
        images = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
        assert session.run({"input": images})
    assert main(["bench", "engine", "--rounds", "3", "-o", "result.json"]) == 0
    result = json.loads(Path("result.json").read_text())
    assert result["candidates"][0]["model_sha256"] == models.sha256(model)
    assert result["candidates"][0]["difference"]["max_rel"] < 1e-5


@pytest.mark.slow
def test_engines_of_any_size_are_timed_at_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = []

    def spy(sessions: Any, feeds: dict[str, np.ndarray], *rest: Any, **named: Any) -> object:
        fed.append({name: array.shape for name, array in feeds.items()})
        return interleave(sessions, feeds, *rest, **named)

    interleave = bench.interleave
    monkeypatch.setattr(bench, "interleave", spy)
    assert main(["build", "net.onnx", "--runtime", "ort", "--baseline", "net.onnx", "-o", "e"]) == 0
    assert main(["bench", "e", "--rounds", "2", "--shape", "input=1x3x20x20"]) == 0
    assert fed == [{"input": (1, 3, 20, 20)}]
