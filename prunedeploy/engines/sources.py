"""The files that an engine comes from: its model, the dense baseline, the record of ``shrink``.

``shrink`` writes OUT.onnx, OUT.dense.onnx and OUT.json as one result. OUT.json holds the hashes of
both models, so a file that was replaced since is never taken for the one that ``shrink`` wrote.
"""

from __future__ import annotations

import os
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, read_text
from prunedeploy.core.progress import Notice
from prunedeploy.core.records import Engine, ShrinkResult
from prunedeploy.engines.engine_folder import refuse_bundle
from prunedeploy.engines.request import Progress

DENSE_SUFFIX = ".dense.onnx"


def model_file(model: str | Path | None, progress: Progress) -> Path:
    """The model's ONNX file: the one named, or the newest result of shrink in the current folder.

    Raises:
        UserError: no model was named and there is no result; the file is a checkpoint or a bundle.
    """
    if model is not None:
        return _refuse_checkpoint(Path(model))
    source = newest_result(Path())
    progress(f"taking {source}, the newest result of shrink here")
    return source


def newest_result(folder: Path) -> Path:
    """The model of the newest result of ``shrink`` in ``folder``.

    Raises:
        UserError: there is none.
    """
    results = [
        (file.stat().st_mtime_ns, file.with_suffix(".onnx"))
        for file in folder.glob("*.json")
        if file.with_suffix(".onnx").is_file() and _read_record(file)
    ]
    if not results:
        raise UserError(
            f"no result of `prunedeploy shrink` in {os.path.realpath(folder)}: name a model, or "
            "shrink one"
        )
    return max(results)[1]


def dense_file(source: Path, baseline: str | Path | None, progress: Progress) -> Path | None:
    """The dense baseline's ONNX file: the one named, or the one recorded beside ``source``.

    Returns None where nothing was recorded, or where the recorded file has changed.

    Raises:
        UserError: the file that was named does not exist, or is a checkpoint or a bundle.
    """
    if baseline is not None:
        if not Path(baseline).is_file():
            raise UserError(f"no such baseline: {baseline}")
        return _refuse_checkpoint(Path(baseline))
    record = _read_record(source.with_suffix(".json")) if source.is_file() else None
    if record is None:
        return None
    if record.model_sha256 != model_sha256(source):
        progress(Notice(f"no dense baseline recorded: {source} is not what shrink wrote"))
        return None
    # as recorded, or beside the model where all of it was moved
    for dense in (record.dense, source.parent / record.dense.name):
        if dense.is_file() and model_sha256(dense) == record.dense_sha256:
            return dense
    progress(Notice(f"no dense baseline recorded: {record.dense} is not what shrink wrote"))
    return None


def baseline_of(engine: Engine) -> Path | None:
    """The dense model recorded in the engine's manifest, its hash checked; None without one.

    Raises:
        UserError: it is no longer where it was, or is another file now.
    """
    path = _recorded_baseline(engine)
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"the dense baseline {path} is gone: name one with --baseline")
    if model_sha256(path) != engine.manifest.baseline_sha256:
        raise UserError(f"{path} is not the dense baseline any more: name one with --baseline")
    return path


def shrink_result_of(engine: Engine) -> ShrinkResult | None:
    """The record that ``shrink`` wrote of the engine's model; None where it is not there."""
    dense = _recorded_baseline(engine)
    if dense is None:
        return None
    record = _read_record(dense.with_name(dense.name.removesuffix(DENSE_SUFFIX) + ".json"))
    known = engine.manifest.model_sha256
    return record if record and known in (record.model_sha256, record.dense_sha256) else None


def model_sha256(path: Path) -> str:
    """The hash of a model and of the weights in files beside it; "" where one of those is gone."""
    from prunedeploy.graph import model  # imports onnx, which opening an engine does not need

    try:
        return model.sha256(path)
    except FileNotFoundError:
        return ""


def _recorded_baseline(engine: Engine) -> Path | None:
    """The path in the manifest, which is relative to the engine's folder."""
    recorded = engine.manifest.baseline
    return (
        None
        if recorded is None
        else Path(os.path.normpath(Path(os.path.realpath(engine.path), recorded)))
    )


def _refuse_checkpoint(path: Path) -> Path:
    """Return ``path``, unless it is a checkpoint: those go through shrink first."""
    from prunedeploy.checkpoint import kind

    refuse_bundle(path)
    try:
        is_checkpoint = path.is_file() and path.suffix != ".onnx" and kind(path) != "onnx"
    except UserError:  # it is neither: reading it as a model says what is wrong
        return path
    if is_checkpoint:
        raise UserError(f"{path} is a checkpoint, not a model: run `prunedeploy shrink {path}`")
    return path


def _read_record(path: Path) -> ShrinkResult | None:
    """The result of shrink in a JSON file; None when it is missing or something else."""
    try:
        return from_json(ShrinkResult, read_text(path))
    except (OSError, UnicodeDecodeError, UserError):
        return None
