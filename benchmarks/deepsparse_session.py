"""DeepSparse as a session beside others: its process is told to run, and reports its own time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.runtimes.api import Session

WORKER = Path(__file__).with_name("deepsparse_worker.py")


class Peer:
    """DeepSparse's process, as a session."""

    provider = "deepsparse"

    def __init__(self, process: subprocess.Popen[str], folder: Path, like: Session) -> None:
        self._process, self._folder = process, folder
        self.inputs: tuple[TensorSpec, ...] = like.inputs
        self.outputs: tuple[TensorSpec, ...] = like.outputs
        self.version = self._answer()
        self.own_ns: list[int] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002 - it has them
        """Compute; the outputs stay there, the time is remembered."""
        self.own_ns.append(int(self._ask("run")))
        return {}

    def computed(self) -> dict[str, Array]:
        """Its outputs."""
        self._ask("outputs")
        with np.load(self._folder / "outputs.npz") as arrays:
            return dict(arrays)

    def _ask(self, question: str) -> str:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it died of stands in its own output
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            log = (self._folder / "log").read_text(errors="replace").strip().splitlines()
            raise UserError(f"DeepSparse ended: {log[-1] if log else 'it says nothing'}")
        return answer


@contextmanager
def peer(
    python: Path, model: Path, feeds: Mapping[str, Array], batch: int, threads: int, like: Session
) -> Iterator[Peer]:
    """DeepSparse on ``model``, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", allow_pickle=False, **feeds)
        files = [model, folder / "inputs.npz", folder / "outputs.npz"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [str(x) for x in (python, WORKER, *files, batch, threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield Peer(process, folder, like)
        finally:
            process.kill()
            process.communicate()
