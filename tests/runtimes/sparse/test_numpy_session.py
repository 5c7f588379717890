"""The loader that engines carry: the same outputs and the same refusals, with NumPy alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import engines
import numpy as np
import pytest

import prunedeploy
from prunedeploy.core.records import MANIFEST_FORMAT, Engine
from prunedeploy.runtimes.sparse import numpy_session


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = engines.network(tmp_path_factory.mktemp("model") / "net.onnx", seed=5)
    return engines.build(model, model.parent / "e", batch=(1, 3), threads=2)


@pytest.fixture(scope="module")
def loader(engine: Engine) -> ModuleType:
    """The file in the engine, imported by its path as a service would."""
    spec = importlib.util.spec_from_file_location("carried", engine.path / "session.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def changed(engine: Engine, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the engine with another manifest."""

    def change(**values: Any) -> Path:
        folder = Path(shutil.copytree(engine.path, tmp_path / "e", dirs_exist_ok=True))
        manifest = json.loads((engine.path / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | values))
        return folder

    return change


def test_the_engine_carries_it_under_its_hash(engine: Engine) -> None:
    assert "session.py" in engine.manifest.files
    carried = (engine.path / "session.py").read_text()
    assert carried == Path(numpy_session.__file__).read_text()
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(carried))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    outside = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert outside == {"numpy"}


def test_an_environment_with_numpy_alone(engine: Engine, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    try:
        venv.create(home, symlinks=True, with_pip=False)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no environment can be made here: {error}")
    (site,) = home.glob("lib/python*/site-packages")
    for package in Path(np.__file__).parents[1].glob("numpy*"):
        (site / package.name).symlink_to(package)
    feeds = engines.feed(engine, 4)
    np.save(tmp_path / "x.npy", feeds["input"])
    code = (
        "import importlib.util, sys, numpy as np\n"
        "from session import open\n"
        "engine = open()\n"
        f"(y,) = engine.run({{'input': np.load({str(tmp_path / 'x.npy')!r})}}).values()\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, y)\n"
        "print([x for x in ('torch', 'onnx', 'prunedeploy') if importlib.util.find_spec(x)])\n"
    )
    done = subprocess.run(
        [home / "bin" / "python", "-c", code], cwd=engine.path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    with prunedeploy.open(engine) as session:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), engines.output(session, feeds))
    shutil.rmtree(engine.path / "__pycache__", ignore_errors=True)


def test_sessions_are_independent_and_close(engine: Engine, loader: ModuleType) -> None:
    tasks = len(list(Path("/proc/self/task").iterdir()))
    feeds = engines.feed(engine, 7)
    with prunedeploy.open(engine) as session:
        wanted = engines.output(session, feeds)
    first, second = loader.open(), loader.open(engine.path, threads=1)
    found = [engines.output(each, feeds) for each in (first, second)]
    assert len(loader._loaded) == 1
    assert first.threads_used in (1, 2)
    first.close()
    first.close()
    with pytest.raises(loader.EngineError, match="closed: open the engine again"):
        first.run(feeds)
    found.append(engines.output(second, feeds))
    del second
    for each in found:
        np.testing.assert_allclose(each, wanted, rtol=0, atol=1e-6)
    assert not loader._loaded
    assert len(list(Path("/proc/self/task").iterdir())) == tasks
    with pytest.raises(ZeroDivisionError), loader.open() as session:
        raise ZeroDivisionError
    with pytest.raises(loader.EngineError, match="closed"):
        session.run(feeds)


def test_threads_take_turns(engine: Engine, loader: ModuleType) -> None:
    results: dict[int, np.ndarray] = {}
    with loader.open() as session:
        wanted = {n: engines.output(session, engines.feed(engine, 2, n)) for n in range(4)}

        def compute(number: int) -> None:
            for _ in range(20):
                results[number] = engines.output(session, engines.feed(engine, 2, number))

        threads = [threading.Thread(target=compute, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, output in wanted.items():
        np.testing.assert_array_equal(results[number], output)


def test_a_child_process_leaves_it_alone(engine: Engine, loader: ModuleType) -> None:
    feeds = engines.feed(engine, 1)
    session = loader.open(threads=2)
    wanted = engines.output(session, feeds)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session.run(feeds)
        except loader.EngineError:
            session.close()
            with loader.open() as own:
                status = 0 if np.array_equal(engines.output(own, feeds), wanted) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(engines.output(session, feeds), wanted)
    session.close()


X = np.ones((2, 5, 9, 9), np.float32)
INPUTS: dict[str, tuple[Any, str]] = {
    "no mapping": ([X], "inputs go by name"),
    "another name": ({"input": X, "mask": X}, "no input is called 'mask': the engine takes input"),
    "none": ({}, "input 'input' is missing"),
    "another dtype": ({"input": X.astype(np.float64)}, r"takes float32, found float64: convert"),
    "another shape": ({"input": X[..., 1:]}, "takes batch x 5 x 9 x 9, found 2 x 5 x 9 x 8"),
    "a scalar": ({"input": np.float32(1)}, "found a scalar"),
    "an empty batch": ({"input": X[:0]}, "built for batches of 1, 3, found 0"),
    "masked": ({"input": np.ma.masked_greater(X, 0)}, "masked elements"),
}


@pytest.mark.parametrize("what", INPUTS)
def test_wrong_inputs_are_one_line(loader: ModuleType, what: str) -> None:
    feeds, message = INPUTS[what]
    with loader.open() as session, pytest.raises(loader.EngineError, match=message) as caught:
        session.run(feeds)
    assert "\n" not in str(caught.value)


def test_arrays_of_any_layout(engine: Engine, loader: ModuleType) -> None:
    x = engines.feed(engine, 2)["input"]
    with loader.open() as session:
        wanted = engines.output(session, {"input": x})
        for same in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=3)[..., ::2]):
            np.testing.assert_array_equal(engines.output(session, {"input": same}), wanted)


def test_a_large_batch_is_cut_in_little_memory(loader: ModuleType) -> None:
    with loader.open() as session:
        assert session._parts(11) == (3, 3, 3, 1, 1)
        session._batches = (3, 5)
        assert session._parts(14) == (5, 3, 3, 3)
        with pytest.raises(loader.EngineError, match="built for batches of 3, 5, found 7"):
            session._parts(7)
        session._batches = (1,)
        tracemalloc.start()
        parts = session._parts(2000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert parts == (1,) * 2000
    assert peak < 1_000_000


MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "a newer format": ({"format_version": 99}, "manifest of format 99"),
    "no number": ({"format_version": None}, "manifest of format None"),
    "another machine": ({"arch": "sparc"}, "is for 'sparc', this machine is"),
    "other instructions": ({"isa": "sve9"}, "not built for 'sve9'"),
    "another runtime": ({"runtime": "ort"}, "engine of 'ort': open it with prunedeploy"),
    "no hash": ({"files": {}}, "open it with prunedeploy"),
    "another hash": ({"files": {"model.so": "0" * 64}}, "its hash differs"),
    "a file outside": ({"files": {"model.so": "0", "../x": "0"}}, "hash differs|names '../x'"),
    "another network": ({"inputs": [{"name": "x", "dtype": "float32"}]}, "another network"),
    "no inputs": ({"inputs": 3}, "is not an engine"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_manifests_of_something_else(loader: ModuleType, changed, what: str) -> None:
    values, message = MANIFESTS[what]
    folder = changed(**values)
    with pytest.raises(loader.EngineError, match=message) as caught:
        loader.open(folder)
    assert "\n" not in str(caught.value)
    assert not loader._loaded


def test_earlier_manifests_are_read(loader: ModuleType, changed, engine: Engine) -> None:
    assert engine.manifest.format_version == MANIFEST_FORMAT == numpy_session.FORMATS[-1]
    folder = changed()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["format_version"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with loader.open(folder) as session, prunedeploy.open(folder) as other:
        feeds = engines.feed(engine, 1)
        np.testing.assert_array_equal(engines.output(session, feeds), engines.output(other, feeds))


@pytest.mark.parametrize("name", ["model.so", "session.py", "layers.json", "manifest.json"])
def test_damage_to_any_file_is_found(loader: ModuleType, changed, name: str) -> None:
    folder = changed()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0x80
    (folder / name).write_bytes(data)
    with pytest.raises(loader.EngineError):
        loader.open(folder)


def test_what_is_no_engine(loader: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(loader.EngineError, match="is not an engine: no readable"):
        loader.open(tmp_path)
    with pytest.raises(loader.EngineError, match="cannot compute with -1 threads"):
        loader.open(threads=-1)


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13", "3.14"])
def test_the_file_is_python_of(version: str) -> None:
    major, minor = version.split(".")
    text = Path(numpy_session.__file__).read_text()
    ast.parse(text, feature_version=(int(major), int(minor)))
