"""What is loaded is what was hashed: whatever is exchanged, written over, left out or forked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engines import feed, network, output

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine
from prunedeploy.engines import engine_folder, opening
from prunedeploy.graph import model as models
from prunedeploy.runtimes.sparse import session as sessions

PAYLOADS = {"sparse": "model.so", "ort": "model.onnx"}
BOTH = pytest.mark.parametrize("name", PAYLOADS)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Engine, Engine]]:
    """Engines of two networks that differ in their weights alone."""
    folder = tmp_path_factory.mktemp("two")
    models = [network(folder / f"{seed}.onnx", seed) for seed in range(2)]
    return {
        name: tuple(
            prunedeploy.build(
                model, runtime=name, output=folder / f"{model.stem}.{name}", tune="none"
            )
            for model in models
        )
        for name in PAYLOADS
    }


@pytest.fixture
def copy(two, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the first engine of a runtime."""
    return lambda name: Path(shutil.copytree(two[name][0].path, tmp_path / name))


def computed(engine: Engine | Path, like: Engine) -> np.ndarray:
    with opening.open(engine) as session:
        return output(session, feed(like, 1))


def change(folder: Path, edit: Callable[[dict], object]) -> Path:
    """The engine with another manifest."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))
    return folder


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing that keeps nothing open


@BOTH
@pytest.mark.parametrize(
    "edit", [lambda m: m.update(files={}), lambda m: m["files"].pop(next(iter(PAYLOADS)), None)]
)
def test_what_no_hash_covers_is_not_opened(copy, name, edit):
    folder = change(copy(name), lambda m: m["files"].pop(PAYLOADS[name]))
    folder = change(folder, edit)
    with pytest.raises(UserError, match=f"its manifest has no hash of {PAYLOADS[name]}"):
        opening.open(folder)


@BOTH
def test_an_exchange_between_hash_and_load_is_seen(two, copy, name):
    """The hashes of the folder were right when it was read."""
    engine = engine_folder.read_engine(copy(name))
    shutil.copy(two[name][1].path / PAYLOADS[name], engine.path)
    with pytest.raises(UserError, match="is not what was built: its hash differs"):
        opening.open(engine)


@BOTH
def test_what_is_written_over_an_open_engine_changes_nothing(two, copy, name):
    first, second = two[name]
    wanted = [computed(engine, engine) for engine in (first, second)]
    folder = copy(name)
    with opening.open(folder) as session:
        for file in second.path.iterdir():
            with (folder / file.name).open("r+b") as into:  # as cp does: the same file
                into.truncate(0)
                into.write(file.read_bytes())
        np.testing.assert_array_equal(output(session, feed(first, 1)), wanted[0])
        np.testing.assert_array_equal(computed(folder, first), wanted[1])
        np.testing.assert_array_equal(output(session, feed(first, 1)), wanted[0])
    assert not np.array_equal(*wanted)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Two engines of onnxruntime whose weights lie beside their models, as those of large ones."""
    monkeypatch.setattr(models, "PROTOBUF_LIMIT", 100)
    made = [network(tmp_path / f"{seed}.onnx", seed) for seed in range(2)]
    return [
        prunedeploy.build(model, runtime="ort", output=tmp_path / f"{model.stem}.engine")
        for model in made
    ]


def test_weights_beside_the_model_are_those_that_were_hashed(beside):
    first, second = beside
    wanted = computed(first, first)
    weights = first.path / "model.onnx.data"
    assert not np.array_equal(wanted, computed(second, second))
    with opening.open(first) as session:
        with weights.open("r+b") as into:
            into.write(bytes(weights.stat().st_size))
        np.testing.assert_array_equal(output(session, feed(first, 1)), wanted)
    shutil.copy(second.path / weights.name, weights)  # its manifest was read before
    with pytest.raises(UserError, match=r"model.onnx.data is not what was built"):
        opening.open(first)


def test_layers_are_those_that_were_built(copy):
    folder = copy("sparse")
    engine = engine_folder.read_engine(folder)
    with opening.open(engine) as session:
        assert session.layers(1)
        with pytest.raises(UserError, match="layers"):
            session.layers(77)
        (folder / "layers.json").write_text("[")
        with pytest.raises(UserError, match="hash differs"):
            session.layers(1)
    session = opening.open(change(folder, lambda m: m["files"].pop("layers.json")))
    with session, pytest.raises(UserError, match=r"no hash of layers\.json"):
        session.layers(1)


def libraries() -> set[str]:
    """The inodes of the libraries in memory that are mapped; other tests may have left some."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:prunedeploy" in line}


def test_sessions_share_a_library_and_leave_nothing_behind(two, copy):
    """The same bytes are loaded once, from whatever folder; none stays when all are closed."""
    before, mapped = descriptors(), libraries()
    with opening.open(two["sparse"][0]), opening.open(copy("sparse")) as other:
        assert [loaded.users for loaded in sessions._loaded.values()] == [2]
        output(other, feed(two["sparse"][0], 1))
    assert not sessions._loaded
    assert descriptors() == before
    assert libraries() == mapped


def test_a_damaged_library_leaves_nothing_behind(copy):
    folder = copy("sparse")
    (folder / "model.so").write_bytes(b"not a library")
    with pytest.raises(UserError, match="its hash differs"):
        opening.open(replace_files(folder, "0" * 64))
    digest = hashlib.sha256(b"not a library").hexdigest()
    with pytest.raises(UserError, match=r"cannot load the engine: .*model.so is not a 64-bit"):
        opening.open(replace_files(folder, digest))
    assert not sessions._loaded


def replace_files(folder: Path, digest: str) -> Engine:
    """The engine as somebody read it who saw this hash."""
    text = (folder / "manifest.json").read_text()
    manifest = engine_folder.from_json(engine_folder.Manifest, text)
    return Engine(folder, replace(manifest, files={"model.so": digest}), "")


def test_memory_files_that_the_system_refuses(two, monkeypatch):
    """An unnamed file on disk is as good."""

    def refused(*_: object) -> int:
        raise OSError(1, "Operation not permitted")

    wanted = computed(two["sparse"][0], two["sparse"][0])
    monkeypatch.setattr(os, "memfd_create", refused)
    np.testing.assert_array_equal(computed(two["sparse"][0], two["sparse"][0]), wanted)


@BOTH
def test_a_session_of_the_parent_is_refused_in_a_child(two, name):
    engine = two[name][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        with opening.open(engine, threads=2) as session:
            wanted = output(session, feed(engine, 1))
            child = os.fork()
            if child == 0:  # pragma: no cover - in the child
                signal.alarm(60)  # where it would wait for ever
                status = 1
                try:
                    session.run(feed(engine, 1))
                except UserError as error:
                    status = 0 if "forked" in str(error) else 2
                session.close()
                with opening.open(engine, threads=2) as own:
                    same = np.array_equal(output(own, feed(engine, 1)), wanted)
                os._exit(status if same else 3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            np.testing.assert_array_equal(output(session, feed(engine, 1)), wanted)


def test_profiles_and_runs_at_once_and_a_close_between_them(two):
    engine = two["sparse"][0]
    session = opening.open(engine, threads=2)
    wanted, errors, found = output(session, feed(engine, 1)), [], []

    def work(profile: bool) -> None:
        try:
            while True:
                if profile:
                    (rows,) = session.profile(feed(engine, 1), 3).values()
                    found.append([len(row) for row in rows])
                else:
                    np.testing.assert_array_equal(output(session, feed(engine, 1)), wanted)
                    found.append([])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len([x for x in found if x]) < 10 and not errors:
        pass
    session.close()
    for thread in threads:
        thread.join()
    assert {(type(error), str(error)) for error in errors} == {
        (UserError, "the session is closed: open the engine again")
    }
    steps = {len(row) for row in found if row}
    assert steps == {3}
    assert len({tuple(row) for row in found if row}) == 1
