"""The command line as a user meets it: help, output for people and machines, exit status."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from onnx import TensorProto, helper, numpy_helper

import prunedeploy
from prunedeploy.cli import arrays, main, tables
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.graph import model as models

COMMANDS = (
    *("inspect", "shrink", "lower", "build", "predict", "bench", "run", "report", "serve"),
    *("loadtest", "serve-repo", "targets", "sparsify", "sweep"),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions; two of the eight channels between them are dead."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    first[[1, 4]] = 0
    weights = {
        "first.weight": first,
        "a.long.name.second.weight": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "first.weight"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Conv", ["r", "a.long.name.second.weight"], ["output"]),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "small.onnx"
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def command(*arguments: str | Path, **how: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "prunedeploy", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **how)  # type: ignore[call-overload,no-any-return]


# -- help and usage ------------------------------------------------------------------------------


def test_help_is_fast_and_light() -> None:
    """Under 0.3 s of the processor; the best of five, for a busy machine."""
    times = []
    for _ in range(5):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert command("--help").returncode == 0
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(end.ru_utime - begin.ru_utime + end.ru_stime - begin.ru_stime)
    assert min(times) < 0.3


@pytest.mark.parametrize("what", ["import prunedeploy", "from prunedeploy.cli import main"])
def test_import_leaves_heavy_libraries_alone(what: str) -> None:
    heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "rich", "numpy"}
    code = f"import sys; {what}; print(*({heavy!r} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"  prunedeploy {name}" in text.split("Example", 1)[1]
    assert "--json" in text or name == "serve"  # which has no result


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"prunedeploy {prunedeploy.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shrink"], "Missing argument"),
        (["shrnk", "a.pt"], "No such command"),
        (["shrink", "a.pt", "--no-such-option"], "No such option"),
        (["shrink", "a.pt", "--input-shape", "1,3,many"], "write it as 1,3,224,224"),
        (["shrink", "a.pt", "--input-shape", "1,0,4,4"], "write it as 1,3,224,224"),
        (["bench", "e", "--batch", "0"], "--batch"),
    ],
)
def test_usage_error_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("prunedeploy: error: ")
    assert says in captured.err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "From a checkpoint to the fastest engine and a report" in capsys.readouterr().out


# -- the lazy package ----------------------------------------------------------------------------


def test_public_names_resolve() -> None:
    for name in prunedeploy.__all__:
        assert getattr(prunedeploy, name).__name__ == name
    assert set(prunedeploy.__all__) <= set(dir(prunedeploy))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = prunedeploy.no_such_name


def test_functions_win_over_modules_of_the_same_name() -> None:
    code = (
        "import prunedeploy.measure.bench, prunedeploy as p;"
        "print(all(callable(getattr(p, n)) for n in ('bench', 'export', 'report')))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


# -- output --------------------------------------------------------------------------------------


def test_pipe_gets_plain_whole_lines(model: Path) -> None:
    done = command("inspect", model, env={**os.environ, "COLUMNS": "40"})
    assert (done.returncode, done.stderr) == (0, "")
    row = next(line for line in done.stdout.splitlines() if line.startswith("first.weight"))
    assert row.split()[1:6] == ["Conv", "8x3x3x3", "75.0%", "2/8", "0/3"]
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_json_is_one_document(model: Path) -> None:
    done = command("inspect", model, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["type"] == "Inspection"
    assert found["totals"]["dead_outputs"] == 2


def test_closed_pipe_is_no_error(model: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "prunedeploy", "inspect", str(model)]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_is_one_line(model: Path) -> None:
    line = [sys.executable, "-m", "prunedeploy", "inspect", str(model)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "prunedeploy: error: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("two\nlines"), 2, "two lines"),
        (MemoryError(), 2, "out of memory: the model does not fit this machine"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "x.onnx"), 2, "x.onnx: No space left on device"),
    ],
)
def test_error_becomes_one_line_and_a_status(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(prunedeploy, "inspect", raising(error))
    assert main(["inspect", "x.pt"]) == status
    assert capsys.readouterr().err == f"prunedeploy: error: {line}\n"


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), FileNotFoundError(2, "gone", "/somewhere/else")]
)
def test_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunedeploy, "inspect", raising(error))
    with pytest.raises(type(error)):
        main(["inspect", "x.pt"])


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_210_000, "3.2 MB")]
)
def test_sizes(value: int, text: str) -> None:
    assert tables.size(value) == text


@pytest.mark.parametrize("columns", [40, 200])
def test_terminal_cuts_names_not_figures(model: Path, columns: int) -> None:
    master, slave = os.openpty()
    line = [sys.executable, "-m", "prunedeploy", "inspect", str(model)]
    environment = {**os.environ, "COLUMNS": str(columns)}
    done = subprocess.run(line, stdout=slave, stderr=subprocess.PIPE, env=environment, timeout=60)
    os.close(slave)
    text = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 0
    assert "\x1b[1mlayer" in text  # headers are bold there
    assert "8x3x3x3" in text
    assert ("a.long.name.second.weight" in text) is (columns == 200)
    assert "…e.second.weight" in text or columns == 200


# -- the main job --------------------------------------------------------------------------------


def test_main_job(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command in turn, each on what the one before left in the folder."""
    monkeypatch.chdir(model.parent)

    def done(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    text = done("shrink", "small.onnx", "--align", "1")  # by default times decide
    assert "248" in text  # parameters before
    assert "186" in text  # 6 * 27 + 4 * 6
    assert "same outputs" in text
    assert "output channels cut (2 in 1 place)" in text
    built = re.search(
        r"small\.shrunk\.host\.(ort|sparse)\.engine(?=: \1 engine for host)", done("build")
    )
    assert built  # times decide which
    engine = built.group()
    image = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    np.save("x.npy", image)
    done("run", engine, "x.npy", "-o", "y.npy")
    from prunedeploy.reference.evaluate import Evaluator

    expected = Evaluator(model).run({"input": image})["output"]
    assert abs(np.load("y.npy") - expected).max() <= 1e-5 * np.ptp(expected)  # as build compares
    text = done("bench", engine, "--baseline", "small.onnx", "--rounds", "5", "-o", "r.json")
    assert "small.onnx (baseline)" in text
    found = json.loads(Path("r.json").read_text())
    assert len(found["candidates"][0]["samples_ns"]) == 5
    assert done("report", "small.shrunk.json", "r.json", "-o", "report.md").startswith("# ")
    assert Path("report.md").read_text().startswith("# ")


def test_raised_zero_threshold_is_told_by_the_exit_status(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    assert main(["shrink", "small.onnx", "--align", "1", "--zero-threshold", "1.5", "--json"]) == 1
    difference = json.loads(capsys.readouterr().out)["difference"]
    assert difference["max_rel"] > difference["tolerance"]


def test_lower_writes_what_the_target_takes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "old.onnx"
    arguments = ["lower", str(model), "--target", "jetson", "-o", str(output)]
    assert main(arguments) == 0
    assert "opset 13, IR version 7, float32" in capsys.readouterr().out
    assert onnx.load(output).opset_import[0].version == 13
    assert main([*arguments, "--precision", "float16", "--keep", "Conv_0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["type"], found["precision"], found["opset"]) == ("LowerResult", "float16", 13)
    assert 0 < found["difference"]["max_rel"] <= found["difference"]["tolerance"]


def test_lower_rounds_weights(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net(channels=8, size=1, dtype=np.float32)
    linear = tmp_path / "linear.onnx"
    models.save(net.model(net.linear(net.node("Flatten", "input"), (8, 5))), linear)
    output = tmp_path / "half.onnx"
    assert main(["lower", str(linear), "--weights", "float16", "-o", str(output)]) == 0
    assert "40 weights rounded to float16, in layers: 1" in capsys.readouterr().out
    assert main(["lower", str(model), "--weights", "float16"]) == 2
    assert "no layer uses its weights on fewer than 16 positions" in capsys.readouterr().err


def test_lower_calibrates_on_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "images.npy"
    np.save(inputs, np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    small = ["lower", str(model), "--target", "t4", "--precision", "int8"]
    assert main([*small, "-o", str(tmp_path / "a.onnx")]) == 2
    assert "int8 needs inputs" in capsys.readouterr().err
    assert main([*small, "-o", str(tmp_path / "b.onnx"), "--input", str(inputs)]) == 0
    operators = {node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "jetson", "--precision", "int8"], "does not compute in int8"),
        (["--target", "nano"], "there is no target 'nano'"),
        (["--precision", "half"], "--precision"),
        (["--opset", "7"], "no way to opset 7"),
        (["--weights", "int8"], "--weights"),
        (["--weights", "float16", "--precision", "float16"], "give one of the two"),
    ],
)
def test_lower_refuses_in_one_line(
    arguments: list[str], says: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lower", str(model), *arguments]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len([x for x in captured.err.splitlines() if x.startswith("prunedeploy")]) == 1
    assert sorted(x.name for x in model.parent.iterdir()) == ["small.onnx"]


def test_targets_checks_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json", "--strict"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["targets"][0]["name"] == "host"
    checks = {(x["target"], x["runtime"]): x["status"] for x in found["checks"]}
    assert checks["host", "ort"] == "PASS"
    assert main(["targets"]) == 0
    assert "jetson-nano" in capsys.readouterr().out


# -- NumPy files ---------------------------------------------------------------------------------

ONE = (TensorSpec("input", "float32", ("batch", 3)),)
TWO = (*ONE, TensorSpec("mask", "bool", ("batch",)))


def test_single_array_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    assert list(arrays.read(tmp_path / "x.npy", ONE)) == ["input"]
    with pytest.raises(UserError, match=r"the engine takes input, mask: give a \.npz"):
        arrays.read(tmp_path / "x.npy", TWO)


def test_several_arrays_go_by_name(tmp_path: Path) -> None:
    outputs = {"a": np.zeros(2), "b": np.ones(3)}
    arrays.write(tmp_path / "y.npz", outputs)
    assert [x.tolist() for x in arrays.read(tmp_path / "y.npz", TWO).values()] == [
        [0, 0],
        [1, 1, 1],
    ]
    with pytest.raises(UserError, match=r"outputs a, b: name the file \.npz"):
        arrays.write(tmp_path / "y.npy", outputs)
    assert [p.name for p in tmp_path.iterdir()] == ["y.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04cut", b"\x93NUMPY\x01\x00", b"some text"])
def test_unreadable_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*x\.npy"):
        arrays.read(tmp_path / "x.npy", ONE)


def test_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot read"):
        arrays.read(tmp_path / "x.npy", ONE)


def test_output_name_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"name it \.npy"):
        arrays.check_output(tmp_path / "y.txt")
    with pytest.raises(UserError, match="not a folder"):
        arrays.check_output(tmp_path / "absent" / "y.npy")
