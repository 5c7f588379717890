"""Networks that compute in float16 or bfloat16 between inputs and outputs in float32."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from small_onnx import FLOAT, draw, graph, in_ort, info, model, node, write

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Difference
from prunedeploy.graph import model as models
from prunedeploy.graph import preparation
from prunedeploy.reference import verify

HALF, BRAIN = TensorProto.FLOAT16, TensorProto.BFLOAT16
KINDS = {HALF: np.float16, BRAIN: ml_dtypes.bfloat16}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cast(source: str, result: str, to: int = FLOAT) -> onnx.NodeProto:
    return node("Cast", [source], [result], to=to)


def network(kind: int = HALF, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """Conv, BatchNorm, ReLU, Conv in ``kind``, with one dead channel; z is computed in float32."""
    first, second = 0.3 * draw(8, 3, 3, 3), 0.3 * draw(4, 8, 3, 3, seed=1)
    first[2] = 0
    ones = np.ones(8)
    weights = {
        "W": first.astype(KINDS[kind]),
        "V": second.astype(KINDS[kind]),
        "g": (1.3 * ones).astype(KINDS[kind]),
        "b": (0.1 * ones).astype(KINDS[kind]),
        "m": np.full(8, 0.2, np.float32),
        "v": np.full(8, 0.7, np.float32),
        "U": draw(5, 3, 1, 1, seed=2),
    }
    nodes = [
        cast("x", "a", kind),
        node("Conv", ["a", "W"], ["c"]),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("Conv", ["r", "V"], ["d"]),
        cast("d", "y"),
        node("Conv", ["x", "U"], ["z"]),
    ]
    known = {"y": info("y", FLOAT, [1, 4, 8, 8]), "z": info("z", FLOAT, [1, 5, 12, 12])}
    chosen = [known[name] for name in outputs]
    opset = 22 if kind == BRAIN else 15  # the first with a Conv in bfloat16
    inputs = [info("x", FLOAT, [1, 3, 12, 12])]
    return model(nodes, inputs, chosen, weights, opset=opset, ir_version=10)


def test_it_is_shrunk_built_lowered_and_timed() -> None:
    write(network())
    found = prunedeploy.shrink("net.onnx", "small.onnx", align=1)
    assert found.after.parameters < found.before.parameters
    assert found.difference.tolerance == verify.NARROW_TOLERANCE["float16"]
    engine = prunedeploy.build("small.onnx", runtime="ort", baseline="net.onnx", output="e")
    built = engine.manifest.difference
    assert built is not None
    assert 1e-5 < built.max_rel < built.tolerance == verify.NARROW_TOLERANCE["float16"]
    result = prunedeploy.bench("e", rounds=2, warmup=0)
    assert result.candidates[0].difference.tolerance == built.tolerance
    assert "1e-02" in prunedeploy.report([found, result])
    lowered = prunedeploy.lower("small.onnx", "low.onnx", opset=13)
    assert lowered.difference.tolerance == built.tolerance
    feeds = {"x": draw(1, 3, 12, 12)}
    for path in ("small.onnx", "low.onnx"):
        compared = verify.compare(in_ort("net.onnx", feeds), in_ort(path, feeds), 1e-3)
        assert compared.passed


def test_it_cannot_be_held_within_less_than_it_computes_in() -> None:
    write(network())
    with pytest.raises(UserError, match="the model is in float16"):
        prunedeploy.build("net.onnx", runtime="ort", within=1e-6, output="e")


def test_bfloat16_inside() -> None:
    """ONNX Runtime has no such Conv; the passes take it."""
    write(network(BRAIN))
    found = prunedeploy.shrink("net.onnx", "small.onnx", align=1)
    assert found.difference.tolerance == verify.NARROW_TOLERANCE["bfloat16"]
    assert found.after.parameters < found.before.parameters


def test_float16_only_behind_one_output_leaves_the_other_strict() -> None:
    write(network(outputs=("y", "z")))
    narrow, usual = verify.NARROW_TOLERANCE["float16"], verify.TOLERANCE["float32"]
    engine = prunedeploy.build("net.onnx", runtime="ort", output="e", baseline="net.onnx")
    assert engine.manifest.difference is not None
    assert engine.manifest.difference.tolerances == {"y": narrow, "z": usual}
    again = prunedeploy.bench("e", rounds=2, warmup=0).candidates[0].difference
    assert again.tolerances == {"y": narrow, "z": usual}


def branches() -> onnx.ModelProto:
    then = graph("t", [cast("x", "h", HALF), cast("h", "t")], ["t"])
    other = graph("e", [node("Neg", ["x"], ["e"])], ["e"])
    inputs = [info("x", FLOAT, [2, 8]), info("k", TensorProto.BOOL, [])]
    made = node("If", ["k"], ["y"], then_branch=then, else_branch=other)
    return model([made], inputs, [info("y", FLOAT, [2, 8])])


def plain(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    inputs = [info("x", FLOAT, [2, 8])]
    return model(list(nodes), inputs, [info("y", FLOAT, [2, 8])], weights)


HALVES = draw(8, 8).astype(np.float16)
COMPUTED = {
    "weights that are stored in float16": (
        lambda: plain(cast("W", "w"), node("MatMul", ["x", "w"], ["y"]), W=HALVES),
        "",
    ),
    "constants that are computed in float16": (
        lambda: plain(
            node("Mul", ["W", "W"], ["s"]),
            cast("s", "w"),
            node("MatMul", ["x", "w"], ["y"]),
            W=HALVES,
        ),
        "",
    ),
    "sizes that are read from float16": (
        lambda: plain(
            cast("x", "h", HALF),
            node("Shape", ["h"], ["s"]),
            node("Expand", ["one", "s"], ["e"]),
            node("Add", ["x", "e"], ["y"]),
            one=np.ones(1, np.float32),
        ),
        "",
    ),
    "a result that nobody reads": (
        lambda: plain(cast("x", "h", HALF), node("Neg", ["x"], ["y"])),
        "",
    ),
    "rounded and widened": (lambda: plain(cast("x", "h", HALF), cast("h", "y")), "float16"),
    "float16, then bfloat16": (
        lambda: plain(cast("x", "h", HALF), cast("h", "b", BRAIN), cast("b", "y")),
        "bfloat16",
    ),
    "in a branch": (branches, "float16"),
}


@pytest.mark.parametrize("case", COMPUTED)
def test_what_counts_is_what_lies_between_inputs_and_outputs(case: str) -> None:
    made, expected = COMPUTED[case]
    program = preparation.from_proto(made()).model
    assert verify.computed_in(program) == {"y": expected}
    assert verify.precision_of(program) == expected
    tolerances = {"y": verify.NARROW_TOLERANCE[expected]} if expected else None
    assert verify.tolerances_of(program) == tolerances


def test_an_input_in_float16_counts() -> None:
    made = plain(cast("h", "w"), node("Add", ["x", "w"], ["y"]))
    made.graph.input.append(info("h", HALF, [2, 8]))
    assert verify.computed_in(preparation.from_proto(made).model) == {"y": "float16"}


def test_a_difference_in_float32_is_refused_whatever_another_output_may() -> None:
    """1e-3 is much for float32, and nothing for float16."""
    reference = {"y": draw(2, 8), "z": draw(2, 8, seed=1)}
    allowed = {"y": 1e-2}
    off = {name: array + 1e-3 for name, array in reference.items()}
    assert verify.compare(reference, reference | {"y": off["y"]}, allowed).passed
    strict = verify.compare(reference, off, allowed)
    assert not strict.passed
    assert (strict.where, strict.tolerance) == ("z", 1e-5)
    assert strict.tolerances == {"y": 1e-2, "z": 1e-5}


def test_the_share_of_the_tolerance() -> None:
    assert Difference(0.0, 1e-6, 1e-5, 1).share == pytest.approx(0.1)
    assert Difference(0.0, 0.0, 0.0, 1).share == 0.0
    assert Difference(0.0, 1e-6, 0.0, 1).share == float("inf")


def test_passes_are_held_to_float32_where_weights_alone_are_in_float16() -> None:
    """A pass that is off by 1e-3 is caught there, and not where float16 is computed in."""
    from prunedeploy.core.records import PassResult
    from prunedeploy.passes import PassError, run

    class Off:
        name, exact = "off", True

        def __call__(self, program: ir.Model) -> PassResult:
            weight = next(v for v in program.graph.initializers.values() if v.name == "scale")
            if weight.const_value.numpy()[0] != 1:
                return PassResult(False)
            weight.const_value = ir.tensor(np.full(1, 1.001, np.float32), name="scale")
            return PassResult(True)

    one = np.ones(1, np.float32)
    tail = node("Mul", ["t", "scale"], ["y"])
    strict = plain(cast("W", "w"), node("MatMul", ["x", "w"], ["t"]), tail, W=HALVES, scale=one)
    loose = plain(cast("x", "h", HALF), cast("h", "t"), tail, scale=one)
    feeds = {"x": draw(2, 8)}
    run(preparation.from_proto(loose).model, [Off()], feeds)
    with pytest.raises(PassError, match="off changed the outputs"):
        run(preparation.from_proto(strict).model, [Off()], feeds)


def test_models_in_files_say_what_they_compute_in() -> None:
    from prunedeploy.engines.verified_build import narrow_precision

    assert narrow_precision(write(network())) == "float16"
    assert narrow_precision(write(network(outputs=("z",)))) == ""
    converted = models.load(Path("net.onnx"))
    converted.metadata_props[verify.PRECISION] = "int8"
    models.save(converted, Path("converted.onnx"))
    assert narrow_precision(Path("converted.onnx")) == "int8"
