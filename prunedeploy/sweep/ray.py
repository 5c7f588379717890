"""The engine of a Ray cluster: trainings on any node, measurements each on a machine of its own.

Ray Core alone: a task is a function of its arguments, and is run again where its node is lost.
Data go to the nodes through Ray's object store and results come back through it, so nodes share no
file system; where they do, a task that is run again goes on at the last epoch.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import prunedeploy
from prunedeploy.core.errors import MissingExtra, UserError, first_cause
from prunedeploy.core.files import atomic_path
from prunedeploy.sparsify.data import Splits
from prunedeploy.sparsify.row import Deployed, Trained
from prunedeploy.sparsify.training import KEPT, WEIGHTS
from prunedeploy.sweep.work import (
    Done,
    Failure,
    Files,
    Result,
    Task,
    check_version,
    files_of,
    measure,
    train_in,
)

RETRIES = 3  # of a task whose node is lost
ANSWERS = 10.0  # seconds in which the head of a cluster accepts a connection


class Ray:
    """Runs tasks on the cluster that it is connected to."""

    def __init__(self, splits: Mapping[str, Splits], shared: Path) -> None:
        self._ray = library()
        self._splits = {key: self._ray.put(each) for key, each in splits.items()}
        self._shared = shared

    def __call__(self, tasks: Sequence[Task], done: Done) -> None:
        """Carry out all of one kind."""
        pending = {self._submit(task): task for task in tasks}
        while pending:
            finished, _ = self._ray.wait(list(pending), num_returns=1)
            for reference in finished:
                task = pending.pop(reference)
                done(task, self._result(task, reference))

    def _submit(self, task: Task) -> Any:
        version = prunedeploy.__version__
        if task.kind == "train":
            remote = self._ray.remote(num_cpus=task.recipe.train.threads, max_retries=RETRIES)
            data = self._splits[task.data_sha256]
            return remote(_train).remote(task, data, self._shared, version)
        options = self._machine(task)
        weights = self._ray.put((task.folder / WEIGHTS).read_bytes())
        remote = self._ray.remote(max_retries=RETRIES, **options)
        return remote(_measure).remote(task, weights, version)

    def _machine(self, task: Task) -> dict[str, Any]:
        """The resource of the device; else all processors of the node that started the sweep."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        deploy = task.recipe.deploy
        assert deploy is not None
        if deploy.resource:
            if deploy.resource not in self._ray.cluster_resources():
                raise UserError(f"no node has the Ray resource {deploy.resource!r}")
            return {"num_cpus": 0, "resources": {deploy.resource: 1}}
        own = self._ray.get_runtime_context().get_node_id()
        node = next(each for each in self._ray.nodes() if each["NodeID"] == own)
        strategy = NodeAffinitySchedulingStrategy(own, soft=False)
        return {"num_cpus": node["Resources"].get("CPU", 0), "scheduling_strategy": strategy}

    def _result(self, task: Task, reference: Any) -> Result:
        try:
            result, files = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Failure(task.name, f"lost on the cluster: {first_cause(error)}")
        if isinstance(result, Trained):
            _write(task.folder, files)
        kept: Result = result
        return kept


def _train(
    task: Task, splits: Splits, shared: Path, version: str
) -> tuple[Trained | Failure, Files]:
    """Train on a node; the files come back with the record."""
    with contextlib.ExitStack() as stack:
        try:
            check_version(version)
            folder = task.folder
            if not shared.is_file():  # this node does not see the folder of the sweep
                temporary = tempfile.TemporaryDirectory(prefix="prunedeploy-")
                folder = Path(stack.enter_context(temporary))
            return train_in(task, folder, splits), files_of(folder)
        except UserError as error:
            return Failure(task.name, " ".join(str(error).split())), {}


def _measure(task: Task, weights: bytes, version: str) -> tuple[Deployed | Failure, Files]:
    """Deploy and measure on a node."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        file = Path(name) / WEIGHTS
        file.write_bytes(weights)
        try:
            check_version(version)
            return measure(task, file), {}
        except UserError as error:
            return Failure(task.name, " ".join(str(error).split())), {}


def _write(folder: Path, files: Files) -> None:
    """The files of a training, the record last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if name in files:
            with atomic_path(folder / name) as file:
                file.write_bytes(files[name])


@contextlib.contextmanager
def connected(address: str, folder: Path) -> Iterator[None]:
    """Connected to a cluster while the block runs, unless this process is already.

    Ray puts the driver's current folder where workers import from; so that no file of the user's
    runs unasked, that is ``folder`` while it connects.

    Raises:
        MissingExtra: Ray is not installed.
        UserError: there is no cluster.
    """
    ray = library()
    if ray.is_initialized():
        yield
        return
    check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.chdir(folder):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"no Ray cluster at {address!r}: {first_cause(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Refuse an address at which nobody listens: Ray would try for many minutes.

    Raises:
        UserError: nobody does; other words than host:port, such as "auto", are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at {address!r}: {error}") from None


def library() -> Any:
    """The module ray.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("Ray", "ray") from None
    return ray
