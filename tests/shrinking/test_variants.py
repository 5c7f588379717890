"""Which variant of a shrunk network is taken, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from net import Net
from typer.testing import CliRunner

from prunedeploy import targets
from prunedeploy.cli.commands import app
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, to_json
from prunedeploy.core.records import Ratio, ShrinkResult, ShrinkVariant
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes import FoldConstants
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking import pipeline, variants
from prunedeploy.shrinking.variant_cost import cost


def network(dead: int = 7, bias: float = 0.0, width: int = 24) -> ir.Model:
    """``width`` channels of which ``dead`` hold zero, or a constant that meets zero padding."""
    net = Net(dtype=np.float32)
    x = net.conv("input", (5, width), dead=list(range(dead)), dead_bias=bias, name="a")
    x = net.node("Identity", net.conv(net.node("Relu", x), (width, 8), name="b"))
    x = net.node("Relu", x)
    return net.model(net.conv(x, (8, 4), name="c"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def timed(monkeypatch: pytest.MonkeyPatch, times: dict[str, float]) -> None:
    """The host measures this: times by kind, or by kind and align; 1.0 for all others."""

    def measured(found: Sequence[variants._Candidate], feeds: object) -> list:
        result = []
        for each in found:
            keys = (f"{each.variant.kind} {each.variant.align}", each.variant.kind)
            time = next((times[key] for key in keys if key in times), 1.0)
            speed = Ratio(1 / time, 0.9 / time, 1.1 / time)
            result.append(replace(each, time=time, variant=replace(each.variant, speed=speed)))
        return result

    monkeypatch.setattr(variants, "_measured", measured)


def widths(result: ShrinkResult) -> int:
    return models.load(result.model).graph.initializers["a.weight"].shape[0]


def said(result: ShrinkResult) -> str:
    (report,) = (done for done in result.passes if done.name == "choose-variant")
    (note,) = report.result.notes
    return note.reason


def chosen(result: ShrinkResult) -> ShrinkVariant:
    (found,) = (each for each in result.variants if each.chosen)
    return found


def test_a_number_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_measured", None)
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", align=4)
    assert (result.align, widths(result), result.variants) == (4, 20, ())
    assert widths(pipeline.shrink("net.onnx", "one.onnx", align=1)) == 17
    again = pipeline.shrink("net.shrunk.onnx", "two.onnx", align=4)
    assert not any(done.result.changed for done in again.passes)


def test_the_fastest_is_taken_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {"cut 4": 0.5, "cut 1": 1.3})
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx")
    assert (result.align, widths(result)) == (4, 20)
    assert chosen(result).kept == 3
    assert said(result) == (
        "3 dead channels kept, for multiples of 4: 2.00x the speed of the original "
        "(1.80 to 2.20); no dead channel kept 0.77x the speed of the original (0.69 to 0.85) "
        "(measured in ONNX Runtime on one thread)"
    )
    assert from_json(ShrinkResult, to_json(result)) == result


def test_of_equally_fast_ones_the_smallest_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {"cut 4": 0.990, "cut 1": 1.0})
    models.save(network(), folder / "net.onnx")
    assert widths(pipeline.shrink("net.onnx")) == 17


def test_what_would_be_slower_than_the_original_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {"cut": 1.1, "uncut": 1.04, "original": 1.0})
    model = network()
    models.save(model, folder / "net.onnx")
    result = pipeline.shrink("net.onnx")
    assert widths(result) == 24
    assert chosen(result).kind == "original"
    assert said(result).startswith(
        "the network stays as it came: no dead channel kept would be 0.91x the speed"
    )
    feeds = verify.random_feeds(models.specs(model)[0])
    want = Evaluator(model).run(feeds)
    assert verify.compare(want, Evaluator(result.model).run(feeds)).max_abs == 0.0

    timed(monkeypatch, {"cut": 1.1, "uncut": 0.9, "original": 1.0})
    result = pipeline.shrink("net.onnx", "uncut.onnx")
    assert (widths(result), chosen(result).kind) == (24, "uncut")


def test_constants_under_padding_go_where_it_is_fastest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.save(network(bias=0.5), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", "map.onnx", align=1)
    assert any(node.op_type == "Gather" for node in models.load(result.model).graph)
    real = variants._measured

    def channel(found: list[variants._Candidate], feeds: object) -> list[variants._Candidate]:
        return [
            replace(x, time=0.5 if x.variant.borders == "channel" else 1.0)
            for x in real(found, feeds)
        ]

    monkeypatch.setattr(variants, "_measured", channel)
    result = pipeline.shrink("net.onnx")
    assert chosen(result).borders == "channel"
    assert not any(node.op_type == "Gather" for node in models.load(result.model).graph)


def test_nothing_dead_is_left_alone(folder: Path) -> None:
    models.save(network(dead=0), folder / "net.onnx")
    result = pipeline.shrink("net.onnx")
    assert result.align == 1
    # all cuts are the same network
    assert [each.kind for each in result.variants] == ["original", "uncut"]
    assert widths(result) == 24


def test_measured_for_real(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "ROUNDS", 5)
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx")
    assert "measured in ONNX Runtime on one thread" in said(result)
    assert all(each.speed is not None for each in result.variants)
    assert sorted(path.name for path in folder.iterdir()) == [
        "net.onnx",
        "net.shrunk.json",
        "net.shrunk.onnx",
    ]


def test_elsewhere_a_model_of_cost_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_measured", None)
    models.save(network(), folder / "net.onnx")
    result = pipeline.shrink("net.onnx", target="rtx2080ti")
    assert widths(result) == 17  # it costs as much as 24 channels, and is smaller
    assert "by a model of cost for rtx2080ti" in said(result)
    models.save(network(dead=9, width=48), folder / "wide.onnx")
    result = pipeline.shrink("wide.onnx", target="raspberry-pi-5")
    assert widths(result) == 40  # 39 channels would leave the blocked kernels


def test_without_onnxruntime_a_model_of_cost_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = variants.importlib.util.find_spec
    monkeypatch.setattr(
        variants.importlib.util, "find_spec", lambda name: None if "onnxr" in name else find(name)
    )
    models.save(network(), folder / "net.onnx")
    assert "by a model of cost for host" in said(pipeline.shrink("net.onnx"))


def test_folding_that_makes_a_network_larger_has_to_pay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of a Fourier transform, computed from a short range: runtimes fold them themselves."""
    net = Net(dtype=np.float32, channels=32, size=8)
    angles = net.node("Mul", net.weight(np.arange(64.0).reshape(64, 1)), net.weight([[0.1] * 32]))
    table = net.node("Cos", net.node("Mul", angles, net.weight(np.ones((1, 32)))))
    x = net.node("Transpose", net.input, perm=[0, 2, 3, 1])
    model = net.model(net.node("MatMul", x, net.node("Transpose", table, perm=[1, 0])))
    models.save(model, folder / "net.onnx")
    before = models.weight_bytes(model)

    def sizes(time: float) -> int:
        timed(monkeypatch, {})
        real = variants._measured
        monkeypatch.setattr(
            variants,
            "_measured",
            lambda found, feeds: [
                replace(x, time=time if models.weight_bytes(x.model) > 1.5 * before else 1.0)
                for x in real(found, feeds)
            ],
        )
        result = pipeline.shrink("net.onnx", f"{time}.onnx")
        return models.weight_bytes(models.load(result.model))

    assert sizes(1.0) == before
    assert sizes(0.5) > 1.5 * before
    small = model.clone()
    assert not FoldConstants(larger=False)(small).changed
    assert FoldConstants()(small).changed


def test_cost_counts_whole_blocks_and_slow_kernels() -> None:
    def costs(width: int, target: str, kernel: int = 1, group: int = 1) -> float:
        read = width if group > 1 else 32
        net = Net(channels=read, size=4, dtype=np.float32, batch=1)
        model = net.model(net.conv("input", (read, width), kernel=kernel, group=group))
        shapes.infer_shapes(model)
        return cost(model, targets.by_name(target))

    one, more, two = (costs(width, "x86-avx2") for width in (32, 33, 40))
    assert more == pytest.approx(two)
    assert one < more
    assert costs(33, "x86-avx2", 3, 33) > 1.5 * costs(40, "x86-avx2", 3, 40)
    assert costs(33, "rtx2080ti", 3, 33) <= costs(40, "rtx2080ti", 3, 40)


def test_rows_of_the_targets() -> None:
    assert {row.name: row.multiple for row in targets.TARGETS if row.name != "host"} == {
        "x86-avx2": 8,
        "x86-avx512": 16,
        "raspberry-pi-5": 4,
        "jetson-nano": 8,
        "jetson-orin": 8,
        **dict.fromkeys(("rtx2080ti", "t4", "a100", "a10", "l4", "h100", "h200"), 8),
    }
    assert targets.by_name("host").multiple in (1, 4, 8, 16)


@pytest.mark.parametrize("align", [0, -3, "fast", 2.5])
def test_nonsense(folder: Path, align) -> None:
    models.save(network(), folder / "net.onnx")
    with pytest.raises(UserError, match="cannot be aligned"):
        pipeline.shrink("net.onnx", align=align)
    with pytest.raises(UserError, match="no target"):
        pipeline.shrink("net.onnx", align="auto", target="nowhere")


def test_command_line(folder: Path) -> None:
    models.save(network(), folder / "net.onnx")
    done = CliRunner().invoke(app, ["shrink", "net.onnx", "--align", "8"])
    assert done.exit_code == 0, done.output
    assert "kept though dead: output channels in multiples of 8 (7 in 1 place)" in done.output
    for wrong in ("0", "x", "-8"):
        assert CliRunner().invoke(app, ["shrink", "net.onnx", f"--align={wrong}"]).exit_code == 2
