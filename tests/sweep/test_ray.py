"""Sweeps on a Ray cluster of two nodes, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swept import computed, write_grid

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.sweep.ray import check_answers
from prunedeploy.sweep.sweep import sweep

pytest.importorskip("scipy", reason="SciPy computes the intervals")
NEEDED = "needs Ray: pip install 'prunedeploy[ray]'"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    with pytest.raises(MissingExtra, match=r"prunedeploy\[ray\]"):
        sweep(write_grid(tmp_path), tmp_path / "out", ray="auto")


def test_an_address_at_which_nobody_listens() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match=f"no Ray cluster at '127.0.0.1:{port}': .*refused"):
            check_answers(f"127.0.0.1:{port}")
        listening.listen()
        check_answers(f"127.0.0.1:{port}")
        check_answers(f"ray://127.0.0.1:{port}")
    check_answers("auto")
    with pytest.raises(UserError, match="no Ray cluster at"):
        check_answers("127.0.0.1:99999")


@pytest.mark.slow
def test_an_address_without_a_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=NEEDED)
    with pytest.raises(UserError, match="no Ray cluster at"):
        sweep(write_grid(tmp_path), tmp_path / "out", ray="127.0.0.1:1")


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Any, Any]]:
    """A cluster whose head computes nothing, and a first node; the driver is connected."""
    ray = pytest.importorskip("ray", reason=NEEDED)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        first = made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        made.wait_for_nodes()
        yield made, first
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_a_node_that_is_killed_changes_no_row(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=NEEDED)
    grid = write_grid(tmp_path, epochs=10, images=400)
    local = sweep(grid, tmp_path / "local")
    out = tmp_path / "ray"
    with cluster() as (made, first):
        second = made.add_node(num_cpus=1)
        made.wait_for_nodes()
        killed: list[int] = []

        def kill() -> None:
            while not list((out / "rows").glob("*.json")):
                time.sleep(0.05)
            killed.append(len(list((out / "rows").glob("*.json"))))
            made.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        swept = sweep(grid, out, ray="auto")
        killer.join()
    assert first is not second
    assert killed
    assert killed[0] < 6  # it was in the middle
    assert swept.failed == ()
    assert computed(swept.rows) == computed(local.rows)
