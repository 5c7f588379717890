"""Predictions: what counts as work, what bounds it, what is refused. No speed is asserted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from net import Net

import prunedeploy
from prunedeploy import targets
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, to_json
from prunedeploy.core.measurements import Forecast
from prunedeploy.graph import model as models
from prunedeploy.measure.bench import bench
from prunedeploy.prediction import engines, graph, roofline, steps
from prunedeploy.prediction.efficiency import GPU, ORT, SPARSE, Efficiency, Table, band
from prunedeploy.prediction.machine import Machine, machine
from prunedeploy.prediction.predict import PREDICTED, predict, predict_all
from prunedeploy.prediction.record import Prediction, Work
from prunedeploy.reports.report import report
from prunedeploy.runtimes.sparse.kernels.table import KERNELS

CALM = Machine(threads=1, peak=1e9, bandwidth=1e9, cache=1e6)
ONE = Table({"conv": Efficiency(0.5, 2.0)}, far=0.5, overhead=1e-6, sync=0.0, start=0.0, source="")


def written(net: Net, output: str, path: Path = Path("net.onnx")) -> Path:
    models.save(net.model(output), path)
    return path


def convolution(path: Path, channels: int, density: float = 1.0, side: int = 14) -> Path:
    """Three 3x3 convolutions with so many non-zeros."""
    net = Net(channels=channels, size=side, dtype=np.float32)
    x = "input"
    for _ in range(3):
        x = net.node("Relu", net.conv(x, (channels, channels)))
    for name, array in net.weights.items():
        net.weights[name] = array * (net.random.random(array.shape) < density).astype(array.dtype)
    return written(net, x, path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNEDEPLOY_TARGETS", raising=False)
    return tmp_path


def layer(**changed: float) -> Work:
    return dataclasses.replace(Work("w", "conv", 1e6, 100, 100), **changed)


# -- the roofline --------------------------------------------------------------------------------


def test_the_longer_of_the_two_limits_counts() -> None:
    computed = roofline.layer_time(layer(), CALM, ONE, resident=True)
    assert computed.seconds == pytest.approx(1e6 / 0.5e9 + 1e-6)
    assert computed.limit == "compute"
    moved = roofline.layer_time(layer(moved=900_000, flops=1.0), CALM, ONE, resident=True)
    assert moved.seconds == pytest.approx((900_000 + 100) / 2e9 + 1e-6)
    assert moved.limit == "memory"


def test_what_no_cache_holds_is_slower() -> None:
    near = roofline.layer_time(layer(flops=0.0, weights=500_000), CALM, ONE, resident=True)
    far = roofline.layer_time(layer(flops=0.0, weights=500_000), CALM, ONE, resident=False)
    assert far.seconds - 1e-6 == pytest.approx(100 / 2e9 + 500_000 / 0.5e9)
    assert near.seconds < far.seconds
    beyond = roofline.layer_time(layer(flops=0.0, moved=2_000_000), CALM, ONE, resident=True)
    assert beyond.seconds - 1e-6 == pytest.approx(2_000_000 / 0.5e9 + 100 / 2e9)


def test_all_weights_together_have_to_fit() -> None:
    some = [layer(weights=600_000, flops=0.0)]
    assert sum(x.seconds for x in roofline.layer_times(some * 2, CALM, ONE)) > 2 * sum(
        x.seconds for x in roofline.layer_times(some, CALM, ONE)
    )


@pytest.mark.parametrize("field", ["flops", "weights", "moved"])
def test_more_work_is_never_faster(field: str) -> None:
    times = [
        roofline.layer_time(layer(**{field: 10.0**power}), CALM, ONE, resident=True).seconds
        for power in range(1, 9)
    ]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_a_layer_of_nothing_costs_its_overhead() -> None:
    found = roofline.layer_time(layer(flops=0.0, weights=0, moved=0), CALM, ONE, resident=True)
    assert (found.seconds, found.limit) == (1e-6, "overhead")


def test_cycles_of_the_cost_model_go_before_operations() -> None:
    limits = dataclasses.replace(CALM, cycle=1e-9)
    found = roofline.layer_time(layer(cycles=3e6), limits, ONE, resident=True)
    assert found.seconds == pytest.approx(3e6 * 1e-9 / 0.5 + 1e-6)


# -- the work in a graph -------------------------------------------------------------------------


def works(net: Net, output: str, batch: int = 1, **style: object) -> dict[str, Work]:
    found, _ = graph.works(net.model(output), batch, graph.Style(**style))  # type: ignore[arg-type]
    return {work.name: work for work in found}


def test_operations_of_each_class() -> None:
    net = Net(channels=8, size=6, dtype=np.float32)
    x = net.conv("input", (8, 16))
    x = net.conv(x, (16, 12), 1)
    net.node("Conv", x, net.weight(np.ones((12, 1, 3, 3))), pads=[1, 1, 1, 1], group=12)
    x = net.node("Flatten", net.node("GlobalAveragePool", f"conv{len(net.nodes) - 1}_0"))
    x = net.linear(x, (12, 5))
    kinds = [(w.kernel, w.flops) for w in works(net, x, batch=2).values()]
    assert ("conv", 2.0 * 2 * 36 * 16 * 8 * 9) in kinds
    assert ("pointwise", 2.0 * 2 * 36 * 12 * 16) in kinds
    assert ("depthwise", 2.0 * 2 * 36 * 12 * 9) in kinds
    assert ("vector", 2.0 * 2 * 5 * 12) in kinds
    assert ("view", 0.0) in kinds


def test_channels_are_rounded_up_as_the_runtime_computes_them() -> None:
    net = Net(channels=9, size=4, dtype=np.float32)
    (work,) = works(net, net.conv("input", (9, 17), 1), multiple=8).values()
    assert work.flops == 2.0 * 16 * 24 * 16


def test_few_input_channels_are_not() -> None:
    net = Net(channels=3, size=4, dtype=np.float32)
    (work,) = works(net, net.conv("input", (3, 16)), multiple=8).values()
    assert work.flops == 2.0 * 16 * 16 * 3 * 9


def test_what_follows_a_convolution_is_part_of_it() -> None:
    net = Net(channels=8, size=4, dtype=np.float32)
    first = net.node("Relu", net.conv("input", (8, 8)))
    second = net.node("Relu", net.node("Add", net.conv(first, (8, 8)), first))
    found = list(works(net, second).values())
    assert [work.kernel for work in found] == ["conv", "conv"]
    # the sum reads its other operand
    assert found[1].moved - found[0].moved == 4 * 8 * 16


def test_only_some_runtimes_fuse_chains() -> None:
    net = Net(channels=8, size=4, dtype=np.float32)
    x = net.node("Erf", net.node("Sqrt", net.node("Abs", "input")))
    assert len(works(net, x)) == 3
    assert len(works(net, x, fuses_chains=True)) == 1


def test_narrow_numbers_move_half() -> None:
    net = Net(channels=8, size=4, dtype=np.float32)
    x = net.conv("input", (8, 8))
    (wide,), (narrow,) = works(net, x).values(), works(net, x, width=2.0).values()
    assert (2 * narrow.moved, 2 * narrow.weights) == (wide.moved, wide.weights)
    assert narrow.flops == wide.flops


def test_products_of_two_computed_tensors() -> None:
    net = Net(channels=4, size=8, dtype=np.float32)
    x = net.node("MatMul", "input", net.node("Transpose", "input", perm=[0, 1, 3, 2]))
    found = list(works(net, x).values())
    assert [(w.kernel, w.flops) for w in found][-1] == ("product", 2.0 * 4 * 8 * 8 * 8)


def test_an_unknown_operator_is_bound_by_memory_and_said() -> None:
    net = Net(channels=4, size=8, dtype=np.float32)
    x = net.node("Det", "input")
    found, notes = graph.works(net.model(x), 1, graph.Style())
    assert [(w.kernel, w.moved) for w in found] == [("elementwise", 4 * (4 * 64 + 4))]
    assert notes == ("1 of Det: no figures, counted as bound by memory",)
    written(net, x)
    assert predict("net.onnx", "jetson", "ort").notes == notes


def test_a_tensor_of_no_elements_costs_nothing_but_the_overhead() -> None:
    net = Net(channels=4, size=8, dtype=np.float32)
    ends = net.weight(np.array([0])), net.weight(np.array([0])), net.weight(np.array([1]))
    x = net.node("Abs", net.node("Slice", "input", *ends))
    found = list(works(net, x).values())
    assert (found[-1].flops, found[-1].moved) == (0.0, 0)


def test_constants_are_folded() -> None:
    net = Net(channels=4, size=8, dtype=np.float32)
    half = net.node("Sqrt", net.node("Exp", net.weight(np.ones(1))))
    assert len(works(net, net.node("Mul", "input", half))) == 1


def test_open_sizes_are_refused() -> None:
    net = Net(channels=4, size="side", dtype=np.float32)
    written(net, net.node("Abs", "input"))
    with pytest.raises(UserError, match="open sizes beside the batch"):
        predict("net.onnx", "jetson", "ort")


def test_every_class_has_its_efficiencies() -> None:
    stock = {*graph.KERNELS, "pointwise", "depthwise", "grouped", "linear", "vector"}
    assert set(ORT.kernels) == set(GPU.kernels) == stock
    ours = {*KERNELS, *steps.KERNEL_OF.values(), "depthwise", "vector", "elementwise"}
    assert set(SPARSE.kernels) == ours
    for table in (ORT, SPARSE, GPU):
        assert all(row.compute > 0 and row.near > 0 for row in table.kernels.values())
        assert table.source


# -- predict -------------------------------------------------------------------------------------


def test_sparse_is_cheaper_the_more_is_zero() -> None:
    seconds = [
        predict(convolution(Path(f"{n}.onnx"), 64, density), "x86-avx512", "sparse", threads=1)
        for n, density in enumerate((0.05, 0.1, 0.2, 0.3))
    ]
    found = [one.forecast.seconds for one in seconds]
    assert found == sorted(found)
    dense = predict("0.onnx", "x86-avx512", "ort", threads=1).forecast.seconds
    assert found[0] < dense / 2


def test_zeros_make_no_difference_to_onnxruntime() -> None:
    full, thin = convolution(Path("f.onnx"), 32), convolution(Path("t.onnx"), 32, 0.1)
    one, other = (predict(path, "x86-avx512", "ort") for path in (full, thin))
    assert one.forecast == other.forecast


def test_twice_the_threads_take_about_half() -> None:
    path = convolution(Path("net.onnx"), 64, 0.1, side=28)
    for runtime in ("ort", "sparse"):
        one, two = (
            sum(
                layer.seconds
                for layer in predict(path, "x86-avx512", runtime, threads=count).layers
            )
            for count in (1, 2)
        )
        assert 0.4 * one < two < one


def test_the_sum_and_the_band() -> None:
    path = convolution(Path("net.onnx"), 16)
    for runtime, table in (("tensorrt", GPU), ("ort", ORT), ("sparse", SPARSE)):
        found = predict(path, "jetson", runtime)
        cast = found.forecast
        assert cast.seconds == pytest.approx(table.start + sum(x.seconds for x in found.layers))
        factor = band(targets.by_name("jetson"), runtime)
        assert (cast.low, cast.high) == (cast.seconds / factor, cast.seconds * factor)
        assert found.kind == "predicted"


def test_bands_are_wider_the_less_is_known() -> None:
    rows = [targets.by_name(x) for x in ("x86-avx512", "x86-avx2", "raspberry-pi-5")]
    assert 1 < band(rows[0], "ort") < band(rows[1], "ort") < band(rows[2], "ort")
    assert band(targets.by_name("t4"), "tensorrt") > band(rows[2], "ort")


@pytest.mark.parametrize("row", list(targets.TARGETS), ids=lambda row: row.name)
def test_every_target_can_be_predicted(row: targets.Target) -> None:
    path = convolution(Path("net.onnx"), 8)
    found, refused = predict_all(path, row.name)
    wanted = [name for name in row.runtimes if name in PREDICTED]
    assert {one.forecast.runtime for one in found} == set(wanted)
    assert refused == ()


def test_float16_is_faster_where_the_peak_is_higher() -> None:
    path = convolution(Path("net.onnx"), 256, side=56)
    wide, narrow = (
        predict(path, "t4", "tensorrt", precision=x).forecast for x in ("float32", "float16")
    )
    assert narrow.seconds < wide.seconds
    assert narrow.precision == "float16"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": "jetsn"}, "no target 'jetsn': did you mean jetson"),
        ({"target": "t4", "runtime": "null"}, "t4 cannot have null"),
        ({"target": "t4", "runtime": "sparse", "precision": "int8"}, "computes in float32 only"),
        ({"target": "host", "runtime": "null"}, "null cannot be predicted"),
        ({"target": "jetson", "precision": "int8"}, "jetson-nano does not compute in int8"),
        ({"runtime": "ort", "precision": "float16"}, "float32 only"),
        ({"runtime": "ort", "precision": "half"}, "no precision 'half'"),
        ({"batch": 0}, "batch from 1"),
    ],
)
def test_refusals(arguments: dict[str, object], says: str) -> None:
    path = convolution(Path("net.onnx"), 8)
    with pytest.raises(UserError, match=says):
        predict(path, **arguments)  # type: ignore[arg-type]


def test_a_row_without_figures_is_refused() -> None:
    Path("prunedeploy.targets.toml").write_text(
        '[board]\narch = "aarch64"\nisa = ["neon"]\ncompute-capability = "8.7"\n'
        'runtimes = ["tensorrt", "sparse"]\n'
    )
    path = convolution(Path("net.onnx"), 8)
    found, refused = predict_all(path, "board")
    assert found == ()
    assert len(refused) == 2
    assert "no hz or bytes-per-second" in refused[1]


def test_a_users_row_with_figures() -> None:
    Path("prunedeploy.targets.toml").write_text(
        '[board]\nlike = "raspberry-pi-5"\nhz = 1.2e9\ncache-bytes = 1e6\n'
    )
    path = convolution(Path("net.onnx"), 64)
    slow, fast = (predict(path, name, "ort").forecast for name in ("board", "raspberry-pi-5"))
    assert slow.seconds > fast.seconds


# -- beside what is measured ---------------------------------------------------------------------


def test_a_measurement_has_its_forecast(folder: Path) -> None:
    path = convolution(Path("net.onnx"), 16, 0.3)
    prunedeploy.build(path, runtime="ort", output="one", baseline=path)
    result = bench("one", path, rounds=3, threads=1)
    assert [x is not None for x in result.predicted] == [True, True]
    assert result.predicted[0] == predict(path, "host", "ort", threads=1).forecast
    text = report([result])
    row = next(x for x in text.splitlines() if x.startswith("| predicted beforehand, ms |"))
    assert row.count("%") == 2
    assert from_json(type(result), to_json(result)) == result


def test_records_of_before_have_none(folder: Path) -> None:
    path = convolution(Path("net.onnx"), 8)
    prunedeploy.build(path, runtime="ort", output="one", baseline=path)
    result = dataclasses.replace(bench("one", path, rounds=2, threads=1), predicted=())
    assert "predicted" not in report([result])


def test_a_sparse_engine_is_predicted_from_its_own_layers(folder: Path) -> None:
    path = convolution(Path("net.onnx"), 16, 0.3)
    engine = prunedeploy.build(
        path, runtime="sparse", output="one", batch=(1, 4), threads=1, tune="none"
    )
    one, five = (engines.forecast_of(engine, batch, 1) for batch in (1, 5))
    four = engines.forecast_of(engine, 4, 1)
    assert isinstance(one, Forecast)
    assert isinstance(four, Forecast)
    assert isinstance(five, Forecast)
    assert five.seconds == pytest.approx(one.seconds + four.seconds)
    assert (five.batch, five.threads) == (5, 1)
    # no tiling was measured, so that it is the one that is predicted from the model
    assert one.seconds == pytest.approx(predict(path, "host", "sparse", threads=1).forecast.seconds)


# -- the command ---------------------------------------------------------------------------------


def test_command_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    convolution(Path("net.onnx"), 8)
    assert main(["predict", "net.onnx", "--target", "jetson"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("predicted, not measured" in line for line in lines if not line.startswith("  "))
    assert sum("tensorrt, float16" in line for line in lines) == 1
    options = ["--target", "jetson", "--runtime", "sparse", "--layers", "-o", "p.json"]
    assert main(["predict", "net.onnx", *options]) == 0
    out = capsys.readouterr().out
    assert "bound by" in out
    record = from_json(Prediction, Path("p.json").read_text())
    assert sum(layer.name in out for layer in record.layers) == len(record.layers)
    assert main(["report", "p.json"]) == 0
    assert "### net.onnx on jetson-nano, predicted" in capsys.readouterr().out
    none = dataclasses.replace(record, forecast=dataclasses.replace(record.forecast, seconds=0.0))
    assert "| overhead |" in report([none])  # a file may say that all takes no time


def test_layers_are_of_one_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    convolution(Path("net.onnx"), 8)
    assert main(["predict", "net.onnx", "--layers"]) == 2
    assert "give --runtime" in capsys.readouterr().err


# -- a broken twin -------------------------------------------------------------------------------


def test_a_twin_that_takes_the_shorter_limit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would see a roofline with min where max belongs."""
    monkeypatch.setattr(roofline, "max", min, raising=False)
    with pytest.raises(AssertionError):
        test_the_longer_of_the_two_limits_counts()


def test_a_twin_that_forgets_zeros_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a sparse runtime whose cost model does not count non-zeros."""
    for name, kernel in KERNELS.items():
        monkeypatch.setitem(KERNELS, name, dataclasses.replace(kernel, cycles=lambda *_: 1e6))
    with pytest.raises(AssertionError):
        test_sparse_is_cheaper_the_more_is_zero()


def test_the_machine_of_each_runtime() -> None:
    row = targets.by_name("jetson")
    gpu, cpu = machine(row, "tensorrt", "float16", 0), machine(row, "ort", "float32", 0)
    assert (gpu.peak, gpu.cycle) == (472e9, 0.0)
    assert cpu.threads == 4
    assert cpu.peak == pytest.approx(2 * 4 * 1.43e9 * 4)  # one vector of four a cycle and core
