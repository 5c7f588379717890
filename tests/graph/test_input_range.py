"""What may be stated of inputs, where it is kept, and who keeps to it."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from prunedeploy import models
from prunedeploy.cli.commands import app
from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import InputRange, ShrinkResult, TensorSpec
from prunedeploy.engines import building
from prunedeploy.graph import input_range
from prunedeploy.graph import model as onnx_models
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reports.report import report
from prunedeploy.shrinking import pipeline

bench = importlib.import_module("prunedeploy.measure.bench")
SPEC = TensorSpec("input", "float32", ("batch", 3, 8, 8))
TWO = (SPEC, TensorSpec("mask", "float32", ("batch", 4)))


def write_net(path: Path, batch: int | str = "batch") -> Path:
    """Conv, ReLU, pool, linear; two of eight biases so low that pixels in [0, 1] never fire."""
    random = np.random.default_rng(0)
    w = random.standard_normal((8, 3, 3, 3)).astype(np.float32)
    b = np.array([-99, 0, 0, 0, -98, 0, 0, 0], np.float32)
    graph = onnx.parser.parse_graph(
        f"""net (float[{batch}, 3, 8, 8] input) => (float[{batch}, 10] output) {{
            c = Conv <pads = [1, 1, 1, 1]> (input, w, b)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            output = Gemm(f, v)
        }}"""
    )
    v = random.standard_normal((8, 10)).astype(np.float32)
    for name, array in (("w", w), ("b", b), ("v", v)):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_forms() -> None:
    expected = {"input": InputRange((0.0,), (1.0,))}
    assert input_range.resolve((0, 1), (SPEC,)) == expected
    assert input_range.resolve({"input": (0, 1)}, (SPEC,)) == expected
    found = input_range.resolve(([0, 0.5, 1], np.array([1.0, 2, 3])), (SPEC,))
    assert found == {"input": InputRange((0.0, 0.5, 1.0), (1.0, 2.0, 3.0))}
    assert input_range.resolve((0, [1, 2, 3]), (SPEC,))["input"].low == (0.0, 0.0, 0.0)
    assert input_range.resolve((0, math.inf), (SPEC,))["input"].high == (math.inf,)
    assert input_range.resolve({"mask": (0, 1)}, TWO) == {"mask": InputRange((0.0,), (1.0,))}
    assert input_range.resolve(None, (SPEC,)) == {}


def test_recipe() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
    found = input_range.resolve("recipe", (SPEC,), mean, std)["input"]
    assert found.low == pytest.approx((-2, -2, -3), rel=1e-5)
    assert found.high == pytest.approx((2, 3, 7), rel=1e-5)
    assert all(a < b for a, b in zip(found.low, (-2, -2, -3), strict=True))  # rounded outward
    assert input_range.resolve("recipe", (SPEC,), (0.0,), (1.0,))["input"] == InputRange(
        (0.0,), (1.0,)
    )


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ((1, 0), "holds no number"),
        ((math.nan, 1), "holds no number"),
        ((0, math.nan), "holds no number"),
        ((math.inf, math.inf), "holds no number"),
        (([0, 0], [1, 1]), "give one for all or 3"),
        ((0, 1, 2), "must be"),
        (("a", 1), "must be"),
        (5, "must be"),
        ({"other": (0, 1)}, "no input is called 'other'"),
        ("recipe", "no recipe says"),
        ("imagenet", "neither two numbers nor 'recipe'"),
    ],
)
def test_nonsense(stated, message: str) -> None:
    with pytest.raises(UserError, match=message):
        input_range.resolve(stated, (SPEC,))


def test_several_inputs_need_names() -> None:
    with pytest.raises(UserError, match="input, mask: state the input range of each by its name"):
        input_range.resolve((0, 1), TWO)


def test_a_model_that_states_a_range_is_narrowed() -> None:
    spec = TensorSpec(SPEC.name, SPEC.dtype, SPEC.shape, InputRange((0.0,), (1.0,)))
    assert input_range.resolve(None, (spec,)) == {"input": spec.range}
    found = input_range.resolve(([-1, 0.25, 0], [0.5, 2, 2]), (spec,))
    assert found == {"input": InputRange((0.0, 0.25, 0.0), (0.5, 1.0, 1.0))}
    with pytest.raises(UserError, match="no number of input is both within"):
        input_range.resolve((2, 3), (spec,))


def test_feeds_keep_to_the_range() -> None:
    cases = [((0.0,), (1.0,)), ((-2.0, 0.0, 5.0), (-1.0, 0.0, 7.0)), ((3.0,), (math.inf,))]
    for low, high in cases:
        spec = TensorSpec("x", "float32", ("b", 3, 4, 4), InputRange(low, high))
        array = random_feeds((spec,), batch=3)["x"]
        sides = [np.reshape(side, (1, -1, 1, 1)) for side in (low, high)]
        assert ((array >= sides[0]) & (array <= sides[1])).all()
        assert (array == sides[0]).any()
        assert array.dtype == np.float32
    integers = TensorSpec("x", "uint8", (50,), InputRange((2.5,), (4.0,)))
    assert set(random_feeds((integers,))["x"].tolist()) == {3, 4}


def test_kept_in_the_model(tmp_path: Path) -> None:
    model = onnx_models.load(write_net(tmp_path / "a.onnx"))
    assert input_range.of(model) == {}
    found = {"input": InputRange((0.0, 1.0, 2.0), (1.5, math.inf, 3.0))}
    input_range.attach(model, found)
    onnx_models.save(model, tmp_path / "b.onnx")
    again = onnx_models.load(tmp_path / "b.onnx")
    assert input_range.of(again) == found
    assert onnx_models.specs(again)[0][0].range == found["input"]
    for text in ("", "[]", '{"input": 5}', '{"input": {"low": [2], "high": [1]}}'):
        again.metadata_props[input_range.KEY] = text
        with pytest.raises(UserError, match="is not a range for each input"):
            input_range.of(again)


def test_shrink_within_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_net(Path("net.onnx"))
    plain = pipeline.shrink("net.onnx", "plain.onnx")
    assert plain.after == plain.before or plain.after.parameters == plain.before.parameters
    result = pipeline.shrink("net.onnx", input_range=(0.0, 1.0))
    assert result.before.parameters - result.after.parameters == 2 * (27 + 1 + 10)
    assert result.input_ranges == {"input": InputRange((0.0,), (1.0,))}
    assert result.difference.passed
    assert files.from_json(ShrinkResult, Path("net.shrunk.json").read_text()) == result
    assert "for inputs within [0, 1]" in report([result])
    second = pipeline.shrink("net.shrunk.onnx", "two.onnx")
    assert second.input_ranges == result.input_ranges
    assert not any(done.result.changed for done in second.passes)

    # outside the range the two differ, so that all who compare them must keep to it
    wide = {"input": np.full((1, 3, 8, 8), 300, np.float32)}
    one, two = (Evaluator(Path(p)).run(wide)["output"] for p in ("net.onnx", result.model))
    assert np.abs(one - two).max() > 1
    engine = building.build(result.model, output="e", runtime="ort")
    assert engine.manifest.inputs[0].range == InputRange((0.0,), (1.0,))
    seen: list[np.ndarray] = []
    original = bench.random_feeds

    def watched(*args, **kwargs):
        feeds = original(*args, **kwargs)
        seen.extend(feeds.values())
        return feeds

    monkeypatch.setattr(bench, "random_feeds", watched)
    bench.bench("e", rounds=2, warmup=0)
    assert seen
    assert all(array.min() >= 0 and array.max() <= 1 for array in seen)


def test_engines_for_ranges_that_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_net(Path("net.onnx"))
    for name, bounds in (("a", (0, 1)), ("b", (2, 3))):
        pipeline.shrink("net.onnx", f"{name}.onnx", input_range=bounds, align=1)
        building.build(f"{name}.onnx", output=name, runtime="ort")
    with pytest.raises(UserError, match="no number of input is both"):
        bench.bench(["a", "b"], rounds=1)


def test_recipe_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    recipe = models.by_name("resnet20")
    module = recipe.factory()
    module.layer1[0].bn1.bias.data[:3] = -1e4  # no image brings these up to zero
    torch.save(module.state_dict(), "net.pt")
    result = pipeline.shrink("net.pt", input_range="recipe", align=1)
    low = tuple(-m / s for m, s in zip(recipe.mean, recipe.std, strict=True))
    assert result.input_ranges["input"].low == pytest.approx(low, rel=1e-5)
    notes = [
        n for done in result.passes for n in done.result.notes if n.code == "constant-by-range"
    ]
    assert sum(note.count for note in notes) == 3
    dense = onnx_models.load(result.dense)
    assert input_range.of(dense) == result.input_ranges


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_net(Path("net.onnx"))
    done = CliRunner().invoke(app, ["shrink", "net.onnx", "--input-range", "0,1"])
    assert done.exit_code == 0, done.output
    assert "the same network for inputs within [0, 1]" in done.output
    named = CliRunner().invoke(app, ["shrink", "net.onnx", "--input-range", "input=-1,1"])
    assert "for inputs within [-1, 1]" in named.output
    for wrong in (["0"], ["0,1", "1,2"], ["0,x"], ["a=0,1", "a=0,1"]):
        options = [part for text in wrong for part in ("--input-range", text)]
        assert CliRunner().invoke(app, ["shrink", "net.onnx", *options]).exit_code == 2
