"""Verifies what a device sent: compares the outputs here, and writes folders of engines."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.core.records import Array, Difference, Manifest, Ratio, TensorSpec
from prunedeploy.core.statistics import ratio
from prunedeploy.engines.bundle_record import Tensor, Written
from prunedeploy.engines.engine_folder import write_manifest
from prunedeploy.reference import verify
from prunedeploy.remote import untrusted
from prunedeploy.remote.record import DeviceRun, RemoteResult
from prunedeploy.runtimes.tensorrt.common import PLAN

LIBRARY = "model.so"
SPARSE_FILES = (LIBRARY, "pd_engine.h", "layers.json")
UNTIMED = "it was not timed"
UNVERIFIED = "its outputs did not arrive: not verified, so it has no speed"


def collect(
    host: str, written: Written, known: Mapping[str, Any], problem: str, folder: Path
) -> RemoteResult:
    """The record of a run.

    Args:
        host: the device's address.
        written: the bundle that it ran.
        known: what ``bench.py`` said, whole or as far as it came.
        problem: why it was given up, empty where it was not.
        folder: the files that it sent, whether or not there are any.

    Raises:
        UserError: they are of another bundle, or not what ``bench.py`` writes.
    """
    if known.get("bundle_sha256", written.sha256) != written.sha256:
        raise UserError(f"{host} sent results of another bundle")
    try:
        runs = _runs(known.get("candidates", []), written, folder / "results")
    except UserError as error:
        raise UserError(f"{host} sent results that cannot be: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = untrusted.text(repr(error))
        raise UserError(f"{host} sent results that cannot be read: {why}") from None
    missing = known.get("missing", [])
    throttled = known.get("throttled")
    return RemoteResult(
        host=host,
        target=written.bundle.target,
        bundle_sha256=written.sha256,
        complete=known.get("complete") is True and not problem,
        problem=problem,
        identity=untrusted.fields(known.get("identity")),
        before=untrusted.fields(known.get("before")),
        seen=untrusted.fields(known.get("seen")),
        after=untrusted.fields(known.get("after")),
        tegrastats=untrusted.text(known.get("tegrastats", ""), 10_000),
        throttled=throttled if isinstance(throttled, bool) else None,
        missing=tuple(map(untrusted.text, missing[:100])) if isinstance(missing, list) else (),
        runs=runs,
        ratios=_ratios(runs),
        engines=(),
        output=None,
        model_sha256=written.bundle.model_sha256,
        predicted=written.bundle.predicted,
    )


@dataclass(frozen=True)
class _Kind:
    """The kind of an engine, taken from the bundle and never from the device."""

    runtime: str
    of: str
    precision: str


def _kinds(written: Written) -> dict[str, _Kind]:
    """The engines that the bundle can have, by name."""
    bundle = written.bundle
    kinds = {plan.name: _Kind("tensorrt", plan.of, plan.precision) for plan in bundle.plans}
    if bundle.sparse is not None:
        kinds["sparse"] = _Kind("sparse", "model", "float32")
    return kinds


def _runs(candidates: object, written: Written, results: Path) -> tuple[DeviceRun, ...]:
    """Every engine that the device tells of, each one that the bundle has, and once."""
    if not isinstance(candidates, list):
        raise UserError("its engines are no list")
    kinds, runs = _kinds(written), list[DeviceRun]()
    for each in candidates:
        if not isinstance(each, dict):
            raise UserError("an engine that is no record")
        name = each["name"]
        if not isinstance(name, str) or name not in kinds:
            raise UserError(f"the bundle has no engine called {untrusted.text(ascii(name))}")
        if name in {run.name for run in runs}:
            raise UserError(f"two engines are called {name}")
        runs.append(_run(name, kinds[name], each, written, results))
    return tuple(runs)


def _run(
    name: str, kind: _Kind, each: Mapping[str, Any], written: Written, results: Path
) -> DeviceRun:
    """The record of one engine, with samples only if its outputs are the recorded ones."""
    error, difference = untrusted.text(each["error"]), None
    if each.get("outputs"):
        difference, why = _difference(each, kind.precision, written, results)
        error = error or why
    elif not error:
        error = UNVERIFIED
    samples = untrusted.times(each["samples_ns"])
    if not error and not samples:
        error = UNTIMED
    return DeviceRun(
        name=name,
        runtime=kind.runtime,
        of=kind.of,
        precision=kind.precision,
        batch=written.bundle.batch,
        threads=int(untrusted.number(each.get("threads", 0), "threads")),
        version=untrusted.text(each.get("version", "")),
        samples_ns=samples if not error else (),
        difference=difference,
        build_seconds=untrusted.number(each.get("build_seconds", 0.0), "a time"),
        error=error,
    )


def _difference(
    each: Mapping[str, Any], precision: str, written: Written, results: Path
) -> tuple[Difference | None, str]:
    """The difference from the recorded outputs, and why the engine has no speed, if so."""
    bundle = written.bundle
    wanted: dict[str, Array] = {}
    received: dict[str, Array] = {}
    try:
        for spec in bundle.outputs:
            recorded = np.load(written.path / spec.file, allow_pickle=False)
            if each["runs"] != bundle.runs:  # the first batch only
                recorded = recorded[: len(recorded) // bundle.runs]
            wanted[spec.name] = recorded
            file = Path(os.path.realpath(results / each["outputs"][spec.name]))
            if Path(os.path.realpath(results)) not in file.parents:
                return None, UNVERIFIED
            received[spec.name] = _read(file, recorded)
        difference = verify.compare(wanted, received, bundle.tolerances[precision])
    except (OSError, ValueError, TypeError, EOFError, KeyError, MemoryError, UserError):
        return None, UNVERIFIED
    if difference.passed:
        return difference, ""
    return difference, "its outputs are not the recorded ones: it has no speed"


def _read(file: Path, like: Array) -> Array:
    """The array in ``file``, of as many elements as ``like`` and none that only its header has.

    Raises:
        Exception: of several kinds, where it is something else.
    """
    with file.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        reader = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            reader = np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(opened)
        size = math.prod(shape)
        if size != like.size or dtype.kind not in "fiub":
            raise ValueError("another array")
        if file.stat().st_size - opened.tell() < size * dtype.itemsize:
            raise EOFError("cut short")
    array: Array = np.load(file, allow_pickle=False)
    return array.reshape(like.shape)


def _ratios(runs: tuple[DeviceRun, ...]) -> dict[str, Ratio]:
    """The speedups of the model's runs over the fastest run of the dense baseline, interleaved."""
    dense = [run for run in runs if run.of == "baseline" and run.samples_ns]
    if not dense:
        return {}
    fastest = min(dense, key=lambda run: float(np.median(run.samples_ns)))
    ratios = {}
    for run in runs:
        if run.of == "model" and run.samples_ns:
            count = min(len(run.samples_ns), len(fastest.samples_ns))
            ratios[run.name] = ratio(fastest.samples_ns[:count], run.samples_ns[:count])
    return ratios


def engines(
    result: RemoteResult, written: Written, folder: Path, output_path: Path
) -> tuple[str, ...]:
    """Write an engine's folder into ``output_path`` for every verified engine of the model."""
    names = []
    for run in result.runs:
        if run.of != "model" or run.difference is None or not run.difference.passed:
            continue
        into = output_path / f"{run.name}.engine"
        into.mkdir()
        _copy(run, written, folder, into)
        files = {file.name: sha256(file) for file in sorted(into.iterdir())}
        write_manifest(into, _manifest(run, written, files))
        names.append(into.name)
    return tuple(names)


def _copy(run: DeviceRun, written: Written, folder: Path, into: Path) -> None:
    """The files of an engine: what was built there, and the rest from the bundle."""
    sources = {}
    if run.runtime == "sparse":
        part = written.bundle.sparse
        for name in SPARSE_FILES:
            # compiled there only where the bundle held sources
            there = part is not None and not part.compiled and name == LIBRARY
            sources[name] = (folder if there else written.path) / "sparse" / name
    else:
        sources[PLAN] = folder / "built" / f"{run.name}.plan"
    for name, source in sources.items():
        if not source.is_file():
            raise UserError(f"{run.name} was built there, and its {source.name} did not arrive")
        shutil.copyfile(source, into / name)


def _manifest(run: DeviceRun, written: Written, files: dict[str, str]) -> Manifest:
    bundle = written.bundle
    sparse = bundle.sparse if run.runtime == "sparse" else None
    return Manifest(
        runtime=run.runtime,
        target=bundle.target,
        files=files,
        model_sha256=bundle.model_sha256,
        baseline=None,
        baseline_sha256=None,
        inputs=tuple(map(_spec, bundle.inputs)),
        outputs=tuple(map(_spec, bundle.outputs)),
        versions=bundle.versions | ({run.runtime: run.version} if run.version else {}),
        difference=run.difference,
        batches=sparse.batches if sparse else (bundle.batch,),
        threads=sparse.threads if sparse else 0,
        arch=bundle.arch,
        isa=sparse.isa if sparse else "",
    )


def _spec(tensor: Tensor) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.dtype, tensor.shape)
