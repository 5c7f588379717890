from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import to_json
from prunedeploy.core.measurements import Accuracy, BenchResult, Forecast, Measurement
from prunedeploy.core.records import Difference, Ratio
from prunedeploy.engines import building
from prunedeploy.remote.record import DeviceRun, RemoteResult
from prunedeploy.reports.report import read, report


def measurement(name: str, sha: str, milliseconds: int) -> Measurement:
    return Measurement(
        name=name,
        runtime="ort",
        provider="CPUExecutionProvider",
        model_sha256=sha,
        batch=2,
        threads=4,
        samples_ns=(milliseconds * 10**6,) * 10,
        peak_memory_bytes=12_300_000,
        difference=Difference(1e-7, 2e-7, 1e-5, 8, "output"),
        accuracy=Accuracy(1000, 915, 3),
    )


@pytest.fixture
def timed(shrunk) -> BenchResult:
    return BenchResult(
        baseline=measurement("out.dense.onnx", shrunk.dense_sha256, 8),
        candidates=(measurement("out|engine", shrunk.model_sha256, 4),),
        ratios=(Ratio(2.0, 1.9, 2.125),),
        environment={"cpu": "A Processor", "onnxruntime": "1.31.1", "date": "2026-11-21"},
    )


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in row.replace("\\|", "/").strip("|").split("|")][1:]


def test_every_number_is_in_the_report(shrunk, timed):
    text = report([shrunk, timed])
    assert cells(text, "parameters") == ["592", "148", "25.0%"]
    assert cells(text, "non-zero parameters") == ["148", "148", "100.0%"]
    assert cells(text, "MACs of one input, zeros included") == ["27,808", "6,952", "25.0%"]
    assert cells(text, "p50, ms") == ["8.000", "4.000"]
    assert cells(text, "p99, ms") == ["8.000", "4.000"]
    assert cells(text, "inputs per second") == ["250.0", "500.0"]
    assert cells(text, "times faster, by the medians") == ["1", "2.00 (1.90 to 2.12)"]
    assert cells(text, "accuracy") == ["91.50% of 1,000"] * 2
    assert cells(text, "changed predictions") == ["3", "3"]
    assert cells(text, "peak memory, MB") == ["12.3", "12.3"]
    assert cells(text, "runtime, and what really computed") == ["ort, CPUExecutionProvider"] * 2
    taken, refused = text.split("### Left as it was")
    assert "### Removed and simplified" in taken
    assert cells(refused, "shrink") == [
        "unknown operator Foo",
        "15",
        "layer0/x, layer1/x, layer2/x and 2 more",
    ]
    for words in ("measured", "Batch 2, 4 threads, 10 rounds", "A Processor", "1.31.1", "2e-07"):
        assert words in text
    assert "FAILED" not in text


def test_tables_have_as_many_cells_in_every_row(shrunk, timed):
    width = 0
    for line in report([shrunk, timed]).splitlines():
        found = line.replace("\\|", "").count("|")
        assert not (width and found and found != width), line
        width = found


def test_from_files_as_from_records(folder, shrunk, timed):
    (folder / "bench.json").write_text(to_json(timed))
    assert read(folder / "bench.json") == timed
    text = report(["bench.json", "out.json"], "report.md")
    assert text == report([shrunk, timed])
    assert (folder / "report.md").read_text() == text


ODD = "\x1b[2J\x00\u202e\ud800\r\n## odd\n"


def odd(value: Any, key: str = "") -> Any:
    """The content of a result, each text of which drives a terminal; but for those that say what
    the content is."""
    if isinstance(value, dict):
        return {key: odd(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [odd(item, key) for item in value]
    plain = ("type", "code", "status", "kind", "precision", "unit", "how", "verdict")
    return value if not isinstance(value, str) or key in plain else value + ODD


@pytest.mark.parametrize("form", ["Markdown", "page", "terminal", "JSON"])
def test_texts_of_a_file_stay_in_their_place(folder, shrunk, timed, capsys, form):
    for name, result in (("shrunk.json", shrunk), ("timed.json", timed)):
        content = odd(json.loads(to_json(result)))
        Path(name).write_text(json.dumps(content))
    output = {"Markdown": ["-o", "r.md"], "page": ["-o", "r.html"], "JSON": ["--json"]}
    assert main(["report", "shrunk.json", "timed.json", *output.get(form, [])]) == 0
    texts = [capsys.readouterr().out, *(x.read_text("utf-8") for x in Path().glob("r.*"))]
    for text in texts:
        assert all(line.isprintable() for line in text.split("\n"))
        assert "\n## odd" not in text
    assert "x1b[2J" in texts[-1]


def test_records_in_memory_do_not_drive_the_terminal(timed):
    changed = dataclasses.replace(timed.candidates[0], name=f"a{ODD}", provider=f"b{ODD}")
    text = report([dataclasses.replace(timed, candidates=(changed,))])
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_real_measurement(folder, shrunk):
    from prunedeploy.measure.bench import bench

    building.build("out.onnx", output="e", runtime="ort")
    result = bench("e", rounds=3)
    text = report([result])
    assert cells(text, "") == ["out.dense.onnx (dense baseline)", "e"]
    assert "### Left as it was" not in text
    assert "accuracy" not in text


def test_a_measurement_of_something_else_stands_alone(shrunk, timed):
    other = dataclasses.replace(timed, candidates=(measurement("x", "0" * 64, 4),))
    text = report([other, shrunk])
    assert text.index("### Left as it was") < text.index("### Speed")


def test_a_difference_that_failed_is_said(shrunk):
    bad = dataclasses.replace(shrunk, difference=Difference(1, 0.5, 1e-5, 8))
    assert "FAILED" in report([bad])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"type": "BenchResult", "base', "not JSON"),
        (b"\xff\xfe\x00", "not text"),
        (b"[]", "not a result of shrink or bench"),
        (b'{"type": "Engine"}', "not a result of shrink or bench"),
        (b'{"type": "BenchResult", "x": 1}', "cannot read bad.json"),
        (b'{"type": ["BenchResult"]}', "not a result of shrink or bench"),
    ],
)
def test_broken_and_foreign_files(folder, content, message):
    (folder / "bad.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        report(["bad.json"], "report.md")
    assert "\n" not in str(caught.value)
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize("field", ["samples_ns", "ratios"])
def test_a_measurement_without_samples_or_ratios(folder, timed, field):
    data = json.loads(to_json(timed))
    (data if field == "ratios" else data["baseline"])[field] = []
    (folder / "bad.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="lacks samples or ratios"):
        report("bad.json")


def test_nothing_to_report(folder):
    with pytest.raises(UserError, match="nothing to report"):
        report([])
    with pytest.raises(UserError, match="No such file"):
        report(["none.json"])


# -- what a device measured ------------------------------------------------------------------------


def device_run(name: str, of: str, milliseconds: int, error: str = "") -> DeviceRun:
    return DeviceRun(
        name=name,
        runtime="tensorrt",
        of=of,
        precision="float16",
        batch=2,
        threads=0,
        version="8.2",
        samples_ns=() if error else (milliseconds * 10**6,) * 10,
        difference=None if error else Difference(1e-3, 2e-3, 1e-2, 8),
        build_seconds=60.0,
        error=error,
    )


@pytest.fixture
def remote(shrunk) -> RemoteResult:
    return RemoteResult(
        host="user@nano",
        target="jetson-nano",
        bundle_sha256="b" * 64,
        complete=False,
        problem="no sign of life for 120 s",
        identity={"board": "Jetson | Nano"},
        before={},
        seen={"cpu_khz": [1, 2]},
        after={},
        tegrastats="",
        throttled=True,
        missing=("trtexec",),
        runs=(
            device_run("model.fp16", "model", 20),
            device_run("baseline.fp16", "baseline", 40),
            device_run("model.int8", "model", 0, "it crashed"),
        ),
        ratios={"model.fp16": Ratio(2.0, 1.9, 2.125)},
        engines=(),
        output=None,
        model_sha256=shrunk.model_sha256,
        predicted=(Forecast("tensorrt", "float16", 2, 1, 0.025, 0.01, 0.0625),),
    )


def test_what_a_device_measured_is_in_the_report(folder, shrunk, remote):
    (folder / "remote.json").write_text(to_json(remote))
    assert read(folder / "remote.json") == remote
    text = report([shrunk, "remote.json"])
    assert text.index("### Speed on jetson-nano, measured") < text.index("### Left as it was")
    times = ["20.000"] * 3
    row = cells(text, "model.fp16 (tensorrt, float16)")
    assert row == ["2", *times, "2.00 (1.90 to 2.12)", "2.0e-03", "25 (10 to 62.5): +25%"]
    # what was predicted was predicted of the model
    assert cells(text, "baseline.fp16 (tensorrt, float16)")[-1] == ""
    assert cells(text, "model.int8 (tensorrt, float16)")[1:] == [*["-"] * 4, "it crashed", ""]
    for words in ("no sign of life", "It was throttled", "trtexec", "user@nano"):
        assert words in text


def test_a_device_is_told_from_another_model(shrunk, remote):
    other = dataclasses.replace(remote, model_sha256="0" * 64)
    text = report([other, shrunk])
    assert text.index("### Left as it was") < text.index("### Speed on jetson-nano")


def test_records_of_devices_of_before_are_read(folder, remote):
    plain = json.loads(to_json(remote))
    del plain["predicted"], plain["model_sha256"]
    (folder / "remote.json").write_text(json.dumps(plain))
    assert "predicted" not in report(["remote.json"]).replace("predicted beforehand, ms", "")
