"""ONNX Runtime on the CPU: the stock runtime, and the one that dense baselines run in."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, TypeAlias

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.files import held_copy, mapped
from prunedeploy.core.records import Array, Engine, TensorSpec
from prunedeploy.graph.external_data import check_listed
from prunedeploy.runtimes import api
from prunedeploy.targets import Target, why_not_here

PAYLOAD = "model.onnx"
DATA = f"{PAYLOAD}.data"  # weights too large for it
NO_ENTRIES: Mapping[str, str] = {}
Weights: TypeAlias = Mapping[str, mmap]  # files beside a model, by their names
NO_WEIGHTS: Weights = {}
IN_MEMORY = "add_external_initializers_from_files_in_memory"  # older releases lack it
KERNEL_TIME = "_kernel_time"  # ends the names of a trace's events that are runs of nodes
_inherited: list[Any] = []  # sessions of a parent process, which are never ended here
ERRORS_ONLY = 3  # severity from which onnxruntime writes to the terminal


def library() -> Any:
    """The module onnxruntime.

    Raises:
        MissingExtra: it is not installed.
        UserError: it is there in part.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingExtra("onnxruntime", "cpu") from None
    if not hasattr(onnxruntime, "InferenceSession"):
        # what is left once one of the two wheels that share the folder is uninstalled
        raise UserError("onnxruntime is broken: pip install --force-reinstall onnxruntime")
    return onnxruntime


def _first_line(error: Exception) -> str:
    """The reason without the prefix ``[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : ``."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = line.split(" : ", 3)[-1] if line.startswith("[ONNXRuntimeError]") else line
    # where the file lay while it was built, and a place in onnxruntime's own source
    line = re.sub(r"^Load model from .*? failed:\s*", "", line)
    return re.sub(r"\S*/onnxruntime_src/.*\) (?=[A-Z])", "", line)


@contextmanager
def payload(engine: Engine) -> Iterator[tuple[Path, Weights]]:
    """The model inside an engine, once it is known to read no files but the engine's own.

    It is a copy of the bytes that were hashed, and so is what its weights are read from where they
    lie beside it. An onnxruntime that takes them from files alone opens those by their names.

    Raises:
        UserError: it reads another file, is another than was built, or is no model.
    """
    path, expected = engine.path / PAYLOAD, api.listed_hash(engine, PAYLOAD)
    with contextlib.ExitStack() as held:
        try:
            beside = sorted(check_listed(path, engine.manifest.files))
            copy = held_copy(path, expected)
            held.callback(os.close, copy)
            weights = {
                name: held.enter_context(mapped(engine.path / name, engine.manifest.files[name]))
                for name in beside
            }
        except (OSError, ValueError) as error:
            raise UserError(f"onnxruntime cannot open the model: {_first_line(error)}") from None
        if weights and not hasattr(library().SessionOptions, IN_MEMORY):
            yield path, {}
        else:
            yield Path(f"/proc/self/fd/{copy}"), weights


class OrtSession(api.Closing):
    """One InferenceSession on the model at ``path``.

    ``weights`` are the contents of files beside it, which are copied; the others are read by their
    names. ``providers`` as onnxruntime takes them, ``entries`` for the session's configuration,
    ``libraries`` of custom ops, which may read it; what really computes is for the caller to check
    (``runtimes/ort/gpu.py``).
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        options: api.OpenOptions,
        providers: Sequence[object] = ("CPUExecutionProvider",),
        entries: Mapping[str, str] = NO_ENTRIES,
        libraries: Sequence[Path] = (),
        weights: Weights = NO_WEIGHTS,
    ) -> None:
        onnxruntime = library()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = ERRORS_ONLY
        settings.intra_op_num_threads = options.threads
        if options.trace is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(options.trace)
        if options.shared:
            # idle worker threads otherwise spin on the cores that the next session needs
            settings.add_session_config_entry("session.force_spinning_stop", "1")
        for key, value in entries.items():
            settings.add_session_config_entry(key, value)
        if weights:
            files = list(weights.values())
            getattr(settings, IN_MEMORY)(list(weights), files, [len(file) for file in files])
        try:
            for each in libraries:
                settings.register_custom_ops_library(str(each))
            self._inner: Any = onnxruntime.InferenceSession(
                str(path), settings, providers=list(providers), enable_fallback=0
            )  # another provider than the one asked for would be another engine
        except Exception as error:  # its errors have no common base but Exception
            raise UserError(f"onnxruntime cannot open the model: {_first_line(error)}") from error
        self.inputs, self.outputs = inputs, outputs
        self.provider = ", ".join(self._inner.get_providers())
        self._names = [spec.name for spec in self.outputs]
        self._process = os.getpid()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        if self._inner is None:
            raise api.closed_error()
        if self._process != os.getpid():  # its threads are not in here: a run would wait for ever
            raise api.forked_error()
        arrays = api.check_feeds(self.inputs, feeds)
        try:
            results = self._inner.run(self._names, arrays)
        except Exception as error:  # shapes that only a node inside refuses
            raise UserError(f"onnxruntime cannot run this: {_first_line(error)}") from error
        return dict(zip(self._names, results, strict=True))

    def node_times(self) -> list[NodeTime]:
        """The times of every node in all runs so far, of a session that writes a trace."""
        if self._inner is None:
            raise api.closed_error()
        return read_trace(Path(self._inner.end_profiling()).read_text())

    def close(self) -> None:
        """Let go of memory and threads, whoever still holds this object."""
        if self._inner is not None and self._process != os.getpid():
            _inherited.append(self._inner)  # it would wait for its threads, which are not in here
        self._inner = None


@dataclass(frozen=True)
class NodeTime:
    """A node as ONNX Runtime computes it, after its optimisations; seconds of every run."""

    name: str
    operator: str
    seconds: tuple[float, ...]


def read_trace(text: str) -> list[NodeTime]:
    """The nodes in ONNX Runtime's trace, in the order in which they first ran."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(text):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL_TIME):
            operator = str(event.get("args", {}).get("op_name", ""))
            key = name.removesuffix(KERNEL_TIME), operator
            seconds.setdefault(key, []).append(1e-6 * event["dur"])
    return [NodeTime(*key, tuple(times)) for key, times in seconds.items()]


class Ort:
    """Payload: the model itself, its weights included; the graph is optimised when opened."""

    name = "ort"
    computes = True

    def refuse(self, target: Target) -> str | None:
        """It builds for the machine it runs on."""
        return why_not_here(target)

    def versions(self) -> dict[str, str]:
        """onnxruntime's own version.

        Raises:
            MissingExtra: onnxruntime is not installed.
        """
        return {"onnxruntime": str(library().__version__)}

    def build(
        self,
        model: Path,
        target: Target,  # noqa: ARG002 - the file is the same for every machine
        directory: Path,
        options: api.BuildOptions,
    ) -> api.Payload:
        """Copy the model, or write it anew where its weights lie beside it or it was repaired."""
        if options.batches:
            raise UserError("ort takes batches of any size: --batch is for --runtime sparse")
        from prunedeploy.graph.model import data_files, save
        from prunedeploy.graph.preparation import from_file

        prepared = from_file(model)
        if prepared.repaired or data_files(model):
            save(prepared.model, directory / PAYLOAD)
        else:
            shutil.copyfile(model, directory / PAYLOAD)
        return api.Payload(tuple(sorted(path.name for path in directory.iterdir())))

    def open(self, engine: Engine, options: api.OpenOptions) -> api.Session:
        """A session on the CPU."""
        manifest = engine.manifest
        with payload(engine) as (path, weights):
            specs = manifest.inputs, manifest.outputs
            return OrtSession(path, *specs, options, weights=weights)
