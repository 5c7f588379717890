"""ONNX files as converters write them: the same preparation in every command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet
from commands import through_all
from onnx import TensorProto, helper, numpy_helper
from small_onnx import (
    FLOAT,
    conv_net,
    draw,
    graph,
    in_ort,
    info,
    model,
    node,
    write,
)

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation

X8, Y8 = info("x", FLOAT, [1, 8]), info("y", FLOAT, [1, 8])


def some_slow(cases: Iterable[str]) -> list[ParameterSet]:
    """Every third case, and the others among the slow tests: each one builds engines."""
    marks = ([], [pytest.mark.slow], [pytest.mark.slow])
    return [pytest.param(case, marks=marks[i % 3]) for i, case in enumerate(cases)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relu(source: str, result: str, name: str = "") -> onnx.NodeProto:
    return node("Relu", [source], [result], name=name)


# -- outputs ------------------------------------------------------------------------------------


def more_outputs(case: str) -> onnx.ModelProto:
    made = conv_net()
    nodes, outputs = made.graph.node, made.graph.output
    y = [info(f"y{i}", FLOAT, ["n", 5, 6, 6]) for i in range(4)]
    if case == "two names":
        nodes.append(node("Identity", ["y"], ["y0"]))
        outputs.append(y[0])
    elif case == "three names":
        nodes.extend(node("Identity", ["y"], [f"y{i}"]) for i in (0, 1))
        outputs.extend(y[:2])
    elif case == "chain":
        nodes.extend(node("Identity", [a], [b]) for a, b in (("y", "p"), ("p", "y0"), ("y0", "y1")))
        outputs.extend(y[:2])
    elif case == "dropout":
        nodes.append(node("Dropout", ["y"], ["y0"]))
        outputs.append(y[0])
    elif case == "input":
        outputs.append(made.graph.input[0])
    elif case == "identity of input":
        nodes.append(node("Identity", ["x"], ["z"]))
        outputs.append(info("z", FLOAT, ["n", 3, 8, 8]))
    elif case == "twice":
        outputs.append(outputs[0])
    elif case in ("small constant", "large constant"):
        value = draw(3) if case == "small constant" else draw(3, 20)
        nodes.append(node("Constant", [], ["c"], value=numpy_helper.from_array(value)))
        outputs.append(info("c", FLOAT, value.shape))
    elif case == "initializer":
        outputs.append(info("W", FLOAT, [4, 3, 3, 3]))
    elif case == "identity of initializer":
        nodes.append(node("Identity", ["W"], ["c"]))
        outputs.append(info("c", FLOAT, [4, 3, 3, 3]))
    return made


@pytest.mark.parametrize(
    "case",
    some_slow(
        [
            "two names",
            "three names",
            "chain",
            "dropout",
            "input",
            "identity of input",
            "twice",
            "small constant",
            "large constant",
            "initializer",
            "identity of initializer",
        ]
    ),
)
def test_outputs_keep_their_names_and_values(case: str) -> None:
    through_all(more_outputs(case), {"x": draw(2, 3, 8, 8, seed=5)})


# -- sizes --------------------------------------------------------------------------------------


def test_a_negative_size_is_an_open_one() -> None:
    made = conv_net()
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    made.graph.value_info.append(info("a", FLOAT, [-1, 4, -1, 6]))
    through_all(made, {"x": draw(3, 3, 8, 8)})
    assert models.specs(models.load(Path("net.onnx")))[0][0].shape == ("?", 3, 8, 8)


def test_a_name_has_one_size_on_all_inputs() -> None:
    made = model(
        [node("MatMul", ["x", "A"], ["a"]), node("Add", ["a", "h"], ["y"])],
        [info("x", FLOAT, ["batch", 4]), info("h", FLOAT, [1, "batch", 6])],
        [info("y", FLOAT, [1, "batch", 6])],
        {"A": draw(4, 6)},
    )
    through_all(made, {"x": draw(2, 4), "h": draw(1, 2, 6)}, runtimes=("ort",))
    found = prunedeploy.bench("ort.e", "net.onnx", batch=3, rounds=2, warmup=0)
    assert found.candidates[0].difference.passed
    prunedeploy.build("net.onnx", runtime="sparse", batch=3, output="s.e", tune="none")


# -- what is put right --------------------------------------------------------------------------


def gemm(case: str) -> onnx.ModelProto:
    """Gemm without C, as it was not allowed before opset 11."""
    computed = case == "computed"
    nodes = [node("Transpose", ["W"], ["B"])] if computed else []
    inputs = ["x", "B" if computed else "W"] + ([""] if case == "empty name" else [])
    return model([*nodes, node("Gemm", inputs, ["y"])], [X8], [Y8], {"W": draw(8, 8)}, opset=8)


def with_edit(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    made = model(
        [node("MatMul", ["x", "W"], ["a"], name="n"), relu("a", "y", "m")],
        [X8],
        [Y8],
        {"W": draw(8, 8)},
    )
    edit(made)
    return made


def unsorted() -> onnx.ModelProto:
    return with_edit(lambda m: m.graph.node.insert(0, m.graph.node.pop()))


def nameless(made: onnx.ModelProto) -> None:
    made.graph.name = ""


REPAIRED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "Gemm without C": (lambda: gemm(""), "Gemm has no C"),
    "Gemm without C, B computed": (lambda: gemm("computed"), "Gemm has no C"),
    "Gemm with an empty C": (lambda: gemm("empty name"), "Gemm has no C"),
    "unsorted nodes": (unsorted, "sorted"),
    "initializers no inputs": (
        lambda: with_edit(lambda m: setattr(m, "ir_version", 3)),
        "IR version 3",
    ),
    "no IR version": (lambda: with_edit(lambda m: setattr(m, "ir_version", 0)), "no IR version"),
    "wrong inner shape": (
        lambda: with_edit(lambda m: m.graph.value_info.append(info("a", FLOAT, [3, 3, 3]))),
        "inner values contradict",
    ),
    "wrong inner type": (
        lambda: with_edit(
            lambda m: m.graph.value_info.append(info("a", TensorProto.INT64, [1, 8]))
        ),
        "inner values contradict",
    ),
    "wrong output size": (
        lambda: with_edit(lambda m: m.graph.output[0].CopyFrom(info("y", FLOAT, [1, 9]))),
        "shape of an output",
    ),
    "wrong output rank": (
        lambda: with_edit(lambda m: m.graph.output[0].CopyFrom(info("y", FLOAT, [1, 8, 1]))),
        "shape of an output",
    ),
    "output without a type": (
        lambda: with_edit(lambda m: m.graph.output[0].ClearField("type")),
        "has no type",
    ),
    "graph without a name": (lambda: with_edit(nameless), "no name"),
    "an initializer twice": (
        lambda: with_edit(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "there twice",
    ),
    "two nodes of one name": (
        lambda: with_edit(lambda m: setattr(m.graph.node[1], "name", "n")),
        "renamed",
    ),
}


def test_a_resize_without_a_region_before_opset_13() -> None:
    made = model(
        [node("Resize", ["x", "", "", "size"], ["r"], mode="nearest"), relu("r", "y")],
        [info("x", FLOAT, [1, 3, 4, 4])],
        [info("y", FLOAT, [1, 3, 8, 8])],
        {"size": np.array([1, 3, 8, 8])},
        opset=11,
    )
    feeds = {"x": draw(1, 3, 4, 4)}
    grown = np.maximum(feeds["x"], 0).repeat(2, 2).repeat(2, 3)
    through_all(made, feeds, {"y": grown})
    assert any("no region" in n for n in preparation.from_file(Path("net.onnx")).notes)


@pytest.mark.parametrize("case", some_slow(REPAIRED))
def test_what_can_only_mean_one_thing_is_put_right_and_said(case: str) -> None:
    made, said = REPAIRED[case]
    feeds = {"x": draw(1, 8, seed=7)}
    weight = draw(8, 8)
    right = weight.T if case.endswith("computed") else weight
    product = feeds["x"] @ right
    expected = {"y": product if case.startswith("Gemm") else np.maximum(product, 0)}
    through_all(made(), feeds, expected)
    notes = preparation.from_file(Path("net.onnx")).notes
    assert any(said in note for note in notes), notes
    assert any(said in line for line in prunedeploy.inspect("net.onnx").found)
    assert any(said in line for line in prunedeploy.shrink("net.onnx", "small.onnx", align=1).found)
    assert any(said in line for line in prunedeploy.lower("net.onnx", "low.onnx").found)
    told: list[str] = []
    engine = prunedeploy.build("net.onnx", runtime="ort", output="ort.e", progress=told.append)
    assert any(said in line for line in told)
    assert any(said in line for line in engine.manifest.found)
    assert any(said in line for line in prunedeploy.predict("net.onnx", runtime="ort").notes)


def test_what_was_put_right_is_what_the_engine_holds() -> None:
    """ONNX Runtime refuses the file itself; one that needed nothing is copied byte by byte."""
    write(gemm(""))
    with pytest.raises(Exception, match="Gemm"):
        in_ort("net.onnx", {"x": draw(1, 8)})
    prunedeploy.build("net.onnx", runtime="ort", output="e")
    assert in_ort("e/model.onnx", {"x": draw(1, 8)})["y"].any()
    write(conv_net(), "plain.onnx")
    prunedeploy.build("plain.onnx", runtime="ort", output="p")
    assert Path("p/model.onnx").read_bytes() == Path("plain.onnx").read_bytes()


def test_a_private_domain_that_is_not_imported_is_of_version_1() -> None:
    made = with_edit(lambda m: setattr(m.graph.node[1], "domain", "com.example"))
    prepared = preparation.from_proto(made)
    assert prepared.model.opset_imports["com.example"] == 1
    assert any("com.example" in note for note in prepared.notes)


def test_both_spellings_of_the_standard_domain() -> None:
    def spell(made: onnx.ModelProto) -> None:
        made.opset_import[0].domain = "ai.onnx"
        made.graph.node[0].domain = "ai.onnx"

    prepared = preparation.from_proto(with_edit(spell))
    assert prepared.model.opset_imports == {"": 17}
    assert {n.domain for n in prepared.model.graph} == {""}
    assert not prepared.notes


def test_a_model_in_memory_is_not_changed() -> None:
    made = gemm("")
    before = made.SerializeToString()
    prunedeploy.shrink(made, "small.onnx", align=1)
    assert made.SerializeToString() == before


# -- what is refused ----------------------------------------------------------------------------


def subgraph_shadow() -> onnx.ModelProto:
    branch = node(
        "If",
        ["k"],
        ["q"],
        then_branch=graph("t", [relu("x", "z")], ["z"]),
        else_branch=graph("e", [relu("x", "w")], ["w"]),
    )
    k = info("k", TensorProto.BOOL, [])
    return model([relu("x", "z"), branch, node("Add", ["q", "z"], ["y"])], [X8, k], [Y8])


def bad_bytes(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].raw_data = b"123"


def two_meanings(made: onnx.ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(draw(8, 8, seed=9), "W"))


def untyped_attribute(made: onnx.ModelProto) -> None:
    made.graph.node.append(node("Flatten", ["y"], ["f"], axis=1))
    made.graph.node[-1].attribute[0].ClearField("type")


def two_opsets(made: onnx.ModelProto) -> None:
    made.opset_import.append(helper.make_opsetid("ai.onnx", 13))


def no_opset(made: onnx.ModelProto) -> None:
    del made.opset_import[:]


def doubles(made: onnx.ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.ones(8), "D"))
    made.graph.node[1].CopyFrom(node("Add", ["a", "D"], ["y"], name="sum"))


def wrong_size(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(draw(7, 8), "W"))


def gemm_without_outputs(made: onnx.ModelProto) -> None:
    made.opset_import[0].version = 10
    made.graph.node.append(node("Gemm", ["x", "W"], [], name="bare"))


def resize_without_outputs(made: onnx.ModelProto) -> None:
    made.opset_import[0].version = 11
    made.graph.node.append(node("Resize", ["x", "", ""], [], name="bare", mode="nearest"))


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a circle": (
        lambda: model([node("Add", ["x", "b"], ["a"]), relu("a", "b"), relu("b", "y")], [X8], [Y8]),
        "circle",
    ),
    "read, never given": (
        lambda: with_edit(lambda m: m.graph.node[1].input.__setitem__(0, "q")),
        r"node Relu \(m\) reads 'q'",
    ),
    "given twice": (
        lambda: with_edit(lambda m: m.graph.node.append(relu("x", "a", "again"))),
        r"'a' is given twice: by node MatMul \(n\) and by node Relu \(again\)",
    ),
    "an input twice": (lambda: with_edit(lambda m: m.graph.input.append(X8)), "'x' is given twice"),
    "an output of nothing": (
        lambda: with_edit(lambda m: m.graph.output.append(info("q", FLOAT, [1]))),
        "'q', an output",
    ),
    "an initializer cut short": (lambda: with_edit(bad_bytes), "holds 3 bytes.* takes 256"),
    "two initializers of one name": (lambda: with_edit(two_meanings), "two different initializers"),
    "a Gemm without outputs": (lambda: with_edit(gemm_without_outputs), "bare"),
    "a Resize without outputs": (lambda: with_edit(resize_without_outputs), "bare"),
    "types that differ": (lambda: with_edit(doubles), r"Add \(sum\).* type tensor\(double\)"),
    "sizes that do not fit": (lambda: with_edit(wrong_size), r"MatMul \(n\).*dimensions"),
    "an unknown attribute": (
        lambda: with_edit(lambda m: m.graph.node[1].CopyFrom(node("Relu", ["a"], ["y"], q=3))),
        r"Relu \(y\): Unrecognized attribute: q",
    ),
    "an attribute without a type": (lambda: with_edit(untyped_attribute), "axis of node Flatten"),
    "a name from around": (subgraph_shadow, "'z'"),
    "two opsets": (lambda: with_edit(two_opsets), r"opsets \[13, 17\]"),
    "no opset": (lambda: with_edit(no_opset), "no opset of ai.onnx"),
    "an opset of the future": (
        lambda: with_edit(lambda m: setattr(m.opset_import[0], "version", 99)),
        "opset 99",
    ),
    "an opset beyond 32 bits": (
        lambda: with_edit(lambda m: m.opset_import.append(helper.make_opsetid("own", 1 << 40))),
        "opset of own is 1099511627776",
    ),
    "an IR version beyond 32 bits": (
        lambda: with_edit(lambda m: setattr(m, "ir_version", 1 << 40)),
        "IR version is 1099511627776",
    ),
    "an input without a shape": (
        lambda: with_edit(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        "'x' has no shape",
    ),
    "an output of another type": (
        lambda: with_edit(
            lambda m: m.graph.output[0].CopyFrom(info("y", TensorProto.INT64, [1, 8]))
        ),
        r"Relu \(m\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_valid_is_refused_before_anything_else(case: str) -> None:
    made, said = REFUSED[case]
    write(made())
    for command in (
        lambda: prunedeploy.inspect("net.onnx"),
        lambda: prunedeploy.shrink("net.onnx", "small.onnx", align=1),
        lambda: prunedeploy.build("net.onnx", runtime="ort", output="e"),
        lambda: prunedeploy.build("net.onnx", runtime="sparse", output="e"),
        lambda: prunedeploy.lower("net.onnx", "low.onnx"),
        lambda: prunedeploy.predict("net.onnx"),
        lambda: prunedeploy.emit_c("net.onnx", output="c"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            command()
        assert "net.onnx is not valid ONNX" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [path.name for path in Path().iterdir()] == ["net.onnx"]
