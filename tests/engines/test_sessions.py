"""``prunedeploy.open``: a session at once, closed by a block, by hand or by nobody."""

from __future__ import annotations

import gc
import os
import threading
import typing
from pathlib import Path

import numpy as np
import pytest
from engines import wide_network

import prunedeploy
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine
from prunedeploy.runtimes.api import Session

RUNTIMES = ("ort", "sparse", "null")


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> dict[str, Engine]:
    folder = tmp_path_factory.mktemp("engines")
    model = wide_network(folder / "net.onnx")
    return {
        name: prunedeploy.build(model, runtime=name, output=folder / name, tune="none")
        for name in RUNTIMES
    }


def _feeds(engine: Engine) -> dict[str, np.ndarray]:
    [spec] = engine.manifest.inputs
    shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape]
    return {spec.name: np.random.default_rng(0).standard_normal(shape).astype(spec.dtype)}


def _tasks() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_session_at_once(engines, name):
    feeds = _feeds(engines[name])
    session = prunedeploy.open(engines[name].path)
    with prunedeploy.open(engines[name]) as other:
        assert other is not session
        for key, array in session.run(feeds).items():
            np.testing.assert_array_equal(array, other.run(feeds)[key])
    session.run(feeds)
    session.close()
    session.close()
    for closed in (session, other):
        with pytest.raises(UserError, match="closed: open the engine again"):
            closed.run(feeds)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_block_closes_it_whatever_happens(engines, name):
    session = prunedeploy.open(engines[name])
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError
    with pytest.raises(UserError, match="closed"):
        session.run(_feeds(engines[name]))
    with session:  # closing again is no mistake
        pass


def test_its_type_says_so():
    assert typing.get_type_hints(prunedeploy.open)["return"] is Session
    assert {"run", "close", "__enter__", "__exit__"} <= set(dir(Session))


def test_nobody_closes_it(engines):
    """Threads end with the last reference; a run that is going on holds one."""
    engine = engines["sparse"]
    before, feeds = _tasks(), _feeds(engine)
    for _ in range(5):
        session = prunedeploy.open(engine, threads=3)
        session.run(feeds)
        assert _tasks() == before + 2
        del session
    gc.collect()
    assert _tasks() == before

    session = prunedeploy.open(engine, threads=3)
    results: list[np.ndarray] = []
    run = session.run
    thread = threading.Thread(target=lambda: results.extend(run(feeds).values()))
    del session
    thread.start()
    thread.join()
    assert len(results) == 1


def test_a_child_process_leaves_it_alone(engines):
    feeds = _feeds(engines["sparse"])
    session = prunedeploy.open(engines["sparse"], threads=2)
    want = session.run(feeds)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session.run(feeds)
        except UserError:
            session.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    for key, array in session.run(feeds).items():
        np.testing.assert_array_equal(array, want[key])
    session.close()
