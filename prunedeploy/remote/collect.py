"""What a device sent, verified: outputs compared here, engines put into folders of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy import verify
from prunedeploy.bundle.record import Tensor, Written
from prunedeploy.errors import UserError
from prunedeploy.files import sha256, to_json
from prunedeploy.remote.record import DeviceRun, RemoteResult
from prunedeploy.runtimes._trt import PLAN
from prunedeploy.statistics import ratio
from prunedeploy.types import Array, Difference, Manifest, Ratio, TensorSpec

SPARSE_FILES = ("model.so", "pd_engine.h", "layers.json")
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
        candidates = known.get("candidates", [])
        runs = tuple(_run(each, written, folder / "results") for each in candidates)
        return RemoteResult(
            host=host,
            target=written.bundle.target,
            bundle_sha256=written.sha256,
            complete=bool(known.get("complete")) and not problem,
            problem=problem,
            identity=dict(known.get("identity", {})),
            before=dict(known.get("before", {})),
            seen=dict(known.get("seen", {})),
            after=dict(known.get("after", {})),
            tegrastats=str(known.get("tegrastats", "")),
            throttled=known.get("throttled"),
            missing=tuple(map(str, known.get("missing", ()))),
            runs=runs,
            ratios=_ratios(runs),
            engines=(),
            output=None,
            model_sha256=written.bundle.model_sha256,
            predicted=written.bundle.predicted,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{host} sent results that cannot be read: {error!r}") from None


def _run(each: Mapping[str, Any], written: Written, results: Path) -> DeviceRun:
    """One engine; its samples only if its outputs are those that were recorded."""
    error, difference = str(each["error"]), None
    if each.get("outputs"):
        difference, why = _difference(each, written, results)
        error = error or why
    elif not error:
        error = UNVERIFIED
    samples = tuple(map(int, each["samples_ns"])) if not error else ()
    return DeviceRun(
        name=str(each["name"]),
        runtime=str(each["runtime"]),
        of=str(each["of"]),
        precision=str(each["precision"]),
        batch=written.bundle.batch,
        threads=int(each.get("threads", 0)),
        version=str(each.get("version", "")),
        samples_ns=samples,
        difference=difference,
        build_seconds=float(each.get("build_seconds", 0.0)),
        error=error,
    )


def _difference(
    each: Mapping[str, Any], written: Written, results: Path
) -> tuple[Difference | None, str]:
    """From the recorded outputs, and why that takes its speed away, if it does."""
    bundle = written.bundle
    wanted: dict[str, Array] = {}
    found: dict[str, Array] = {}
    try:
        for spec in bundle.outputs:
            recorded = np.load(written.path / spec.file, allow_pickle=False)
            if int(each["runs"]) != bundle.runs:  # the first batch only
                recorded = recorded[: len(recorded) // bundle.runs]
            wanted[spec.name] = recorded
            file = (results / each["outputs"][spec.name]).resolve()
            if results.resolve() not in file.parents:
                return None, UNVERIFIED
            found[spec.name] = np.load(file, allow_pickle=False).reshape(recorded.shape)
        tolerance = bundle.tolerances[str(each["precision"])]
        difference = verify.compare(wanted, found, tolerance)
    except (OSError, ValueError, EOFError, KeyError, UserError):
        return None, UNVERIFIED
    if difference.passed:
        return difference, ""
    return difference, "its outputs are not the recorded ones: it has no speed"


def _ratios(runs: tuple[DeviceRun, ...]) -> dict[str, Ratio]:
    """Of the model's runs to the fastest of its dense baseline; they had their turns together."""
    dense = [run for run in runs if run.of == "baseline" and run.samples_ns]
    if not dense:
        return {}
    fastest = min(dense, key=lambda run: float(np.median(run.samples_ns)))
    found = {}
    for run in runs:
        if run.of == "model" and run.samples_ns:
            count = min(len(run.samples_ns), len(fastest.samples_ns))
            found[run.name] = ratio(fastest.samples_ns[:count], run.samples_ns[:count])
    return found


def engines(result: RemoteResult, written: Written, folder: Path, place: Path) -> tuple[str, ...]:
    """A folder with a manifest in ``place`` for every verified engine of the model."""
    names = []
    for run in result.runs:
        if run.of != "model" or run.difference is None or not run.difference.passed:
            continue
        into = place / f"{run.name}.engine"
        into.mkdir()
        if run.runtime == "sparse":
            for name in SPARSE_FILES:
                made = folder / "sparse" / name  # compiled there, where the bundle held sources
                shutil.copyfile(
                    made if made.is_file() else written.path / "sparse" / name, into / name
                )
        else:
            shutil.copyfile(folder / "built" / f"{run.name}.plan", into / PLAN)
        files = {file.name: sha256(file) for file in sorted(into.iterdir())}
        (into / "manifest.json").write_text(to_json(_manifest(run, written, files)))
        names.append(into.name)
    return tuple(names)


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
