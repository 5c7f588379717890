"""Engines on disk: built beside, checked against the reference, then put in place at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import get_args

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_directory, from_json, sha256, to_json
from prunedeploy.core.records import (
    Engine,
    Manifest,
    RefusedRuntime,
    RuntimeChoice,
    ShrinkResult,
    TensorSpec,
)
from prunedeploy.engines import choice
from prunedeploy.engines.building import Order, fill, model_sha256, precision_of
from prunedeploy.runtimes.api import BuildOptions, OpenOptions, Session, Tuning, silent
from prunedeploy.runtimes.registry import by_name as runtime_by_name

MANIFEST = "manifest.json"
MOST_THREADS = 256  # runtimes start every thread they are asked for, whatever the machine has
DENSE_SUFFIX = ".dense.onnx"  # OUT.onnx, OUT.dense.onnx and OUT.json are one result of shrink

Progress = Callable[[str], None]


def build(
    model: str | Path | None = None,
    target: str = "host",
    runtime: str = "auto",
    output: str | Path | None = None,
    baseline: str | Path | None = None,
    progress: Progress | None = None,
    *,
    batch: int | Sequence[int] = (),
    threads: int = 0,
    tune: Tuning = "quick",
    within: float | None = None,
    blocks: bool = True,
) -> Engine:
    """Build an engine and put it in place once it computes what the model computes.

    Args:
        model: an ONNX file; the newest result of ``shrink`` in the current folder when None.
        target: a name of ``targets.TARGETS``.
        runtime: a name of ``runtimes.RUNTIMES``. "auto" is the fastest: on this machine every
            runtime that can compute the model is built and timed, for another target the
            prediction decides; the manifest's ``choice`` has the times.
        output: the engine's folder; ``<model>.<target>.<runtime>.engine`` in the current folder
            when None. An engine already there is replaced, anything else is refused.
        baseline: the dense model to compare speed with; when None, the one that ``shrink``
            recorded beside the model, if it did.
        progress: told in words what was chosen and what is being done.
        batch: sizes to build for, where the runtime builds ahead of time (``sparse``); the
            model's own or 1 when empty.
        threads: how many such an engine will mostly run with; 0 for all cores of the target.
        tune: whether such a runtime measures which way to compute each layer, and how long.
        within: how far outputs may be from the model's in float64, in parts of their range, where
            that is less than the 1e-5 that ``verify`` allows; else it is refused. The sparse
            runtime has forms of dense layers that round less, and takes them where it has to.
        blocks: False builds a sparse engine without the kernel for blocks of rows that share
            columns, for measurements of what blocks bring.

    Raises:
        UserError: no such model, target or runtime; the target is not at hand; the engine
            computes something else; ``output`` cannot be written or is not an engine.
    """
    tell = progress or silent
    options = replace(options_of(batch, threads, tune, tell), blocks=blocks)
    source = source_of(model, tell)
    row = targets.by_name(target)
    names, refused = choice.candidates(row, runtime)
    if within is not None:
        _check_within(within, source, row, names)
    places = {name: Path(output or f"{source.stem}.{row.name}.{name}.engine") for name in names}
    for place in places.values():
        _refuse_place(place)
    dense = dense_of(source, baseline, tell)
    specs = _specs(source)

    def order_of(name: str) -> Order:
        return Order(source, row, runtime_by_name(name), places[name], dense, *specs, within)

    if len(names) > 1 and targets.why_not_here(row) is None:
        with choice.measured(order_of, names, options) as best:
            return _put(best.order, _refusing(best.manifest, refused), best.folder)
    made = choice.predicted(source, row, names, options) if len(names) > 1 else None
    order = order_of(made.runtime if made is not None else names[0])
    tell(f"building {order.place} with {order.builder.name}")
    with atomic_directory(order.place) as folder:
        manifest = replace(fill(folder, order, options), choice=made)
        manifest = _refusing(manifest, refused)
        (folder / MANIFEST).write_text(to_json(manifest))
    return Engine(order.place, manifest, sha256(order.place / MANIFEST))


def emit_c(
    model: str | Path | None = None,
    target: str = "host",
    output: str | Path | None = None,
    progress: Progress | None = None,
    *,
    batch: int | Sequence[int] = (),
    threads: int = 0,
    tune: Tuning = "quick",
) -> Path:
    """Write the C project that a sparse engine is compiled from; arguments are those of ``build``.

    Returns its folder, ``<model>.<target>.c`` in the current one where ``output`` is None.

    Raises:
        UserError: as ``build``; there is something at ``output`` already.
    """
    from prunedeploy.runtimes.sparse.engine import Sparse

    tell = progress or silent
    options = options_of(batch, threads, tune, tell)
    source = source_of(model, tell)
    row = targets.by_name(target)
    if "sparse" not in row.runtimes:
        raise UserError(f"{row.name} cannot have sparse: it takes {', '.join(row.runtimes)}")
    place = Path(output or f"{source.stem}.{row.name}.c")
    if place.exists() or place.is_symlink():
        raise UserError(f"cannot write {place}: it is there already; name another or remove it")
    tell(f"writing {place}")
    with atomic_directory(place) as folder:
        Sparse().emit(source, row, folder, options)
    return place


def read_engine(path: str | Path) -> Engine:
    """The engine in folder ``path``, every file of it checked against its hash.

    Raises:
        UserError: not an engine, or a file is missing or is not what was built.
    """
    folder = Path(path)
    if not folder.is_dir():
        _refuse_bundle(folder)
        what = "is a file, not an engine's folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: build one with `prunedeploy build`")
    manifest = _manifest(folder)
    for name, expected in manifest.files.items():
        file = folder / _plain(name, folder)
        if not file.is_file():
            raise UserError(f"{folder} is not complete: {name} is missing; build it again")
        if sha256(file) != expected:
            raise UserError(f"{file} is not what was built: its hash differs; build it again")
    return Engine(folder, manifest, sha256(folder / MANIFEST))


def open(engine: str | Path | Engine, threads: int = 0, *, shared: bool = False) -> Session:
    """A session on an engine, ready to run:

        session = prunedeploy.open("net.host.sparse.engine")
        logits = session.run({"input": images})["output"]
        session.close()

    ``with prunedeploy.open(...) as session:`` closes it at the end of the block. A session that
    nobody refers to any more is closed by itself.

    Args:
        engine: an engine's folder, which is checked, or one that was read already.
        threads: how many to compute with at most; 0 leaves it to the runtime.
        shared: other sessions run in turn with this one (see ``OpenOptions``).

    Raises:
        UserError: not an engine, damaged, or its runtime cannot open it.
    """
    _check_threads(threads)
    found = engine if isinstance(engine, Engine) else read_engine(engine)
    runtime = runtime_by_name(found.manifest.runtime)
    return runtime.open(found, OpenOptions(threads, shared))


def baseline_of(engine: Engine) -> Path | None:
    """The dense model recorded in the engine's manifest, its hash checked; None without one.

    Raises:
        UserError: it is no longer where it was, or is another file now.
    """
    manifest = engine.manifest
    if manifest.baseline is None:
        return None
    path = Path(os.path.normpath(engine.path.resolve() / manifest.baseline))
    if not path.is_file():
        raise UserError(f"the dense baseline {path} is gone: name one with --baseline")
    if model_sha256(path) != manifest.baseline_sha256:
        raise UserError(f"{path} is not the dense baseline any more: name one with --baseline")
    return path


def shrink_result_of(engine: Engine) -> ShrinkResult | None:
    """What ``shrink`` wrote about the engine's model, beside its dense baseline, if it is there."""
    if engine.manifest.baseline is None:
        return None
    dense = Path(os.path.normpath(engine.path.resolve() / engine.manifest.baseline))
    result = _read_sidecar(dense.with_name(dense.name.removesuffix(DENSE_SUFFIX) + ".json"))
    known = engine.manifest.model_sha256
    return result if result and known in (result.model_sha256, result.dense_sha256) else None


def newest_result(folder: Path) -> Path:
    """The model of the newest result of ``shrink`` in ``folder``.

    Raises:
        UserError: there is none.
    """
    found = [
        (file.stat().st_mtime_ns, file.with_suffix(".onnx"))
        for file in folder.glob("*.json")
        if file.with_suffix(".onnx").is_file() and _read_sidecar(file)
    ]
    if not found:
        raise UserError(
            f"no result of `prunedeploy shrink` in {folder.resolve()}: name a model, or shrink one"
        )
    return max(found)[1]


def options_of(
    batch: int | Sequence[int], threads: int, tune: Tuning, tell: Progress
) -> BuildOptions:
    """What a build is to go by, refused where it makes no sense."""
    if tune not in get_args(Tuning):
        raise UserError(f"no such tuning: {tune!r}; choose from {', '.join(get_args(Tuning))}")
    _check_threads(threads)
    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    return BuildOptions(batches, threads, tune, tell)


def _check_within(within: float, source: Path, row: targets.Target, names: Sequence[str]) -> None:
    """Refuse a bound that ``verify`` does not allow, or that nothing could be held to."""
    from prunedeploy.reference.verify import TOLERANCE

    most = TOLERANCE["float32"]
    if not 0 < within <= most:
        raise UserError(f"outputs cannot be held within {within:g}: give at most {most:g}")
    computes = all(runtime_by_name(name).computes for name in names)
    if not computes or targets.why_not_here(row):
        raise UserError(f"outputs cannot be held within {within:g}: nothing is computed here")
    if precision := precision_of(source):
        raise UserError(f"outputs cannot be held within {within:g}: the model is in {precision}")


def _check_threads(threads: int) -> None:
    most = max(MOST_THREADS, targets.cores())
    if not 0 <= threads <= most:
        raise UserError(
            f"cannot compute with {threads} threads: give 1 to {most}, or 0 for the default"
        )


def source_of(model: str | Path | None, tell: Progress) -> Path:
    """The model's file: the one named, or the newest result of shrink here."""
    if model is not None:
        return _onnx(Path(model))
    source = newest_result(Path())
    tell(f"taking {source}, the newest result of shrink here")
    return source


def _onnx(path: Path) -> Path:
    """``path``, unless it is a checkpoint: those go through shrink first."""
    from prunedeploy.checkpoint import kind

    _refuse_bundle(path)
    try:
        is_checkpoint = path.is_file() and path.suffix != ".onnx" and kind(path) != "onnx"
    except UserError:  # it is neither: reading it as a model says what is wrong
        return path
    if is_checkpoint:
        raise UserError(f"{path} is a checkpoint, not a model: run `prunedeploy shrink {path}`")
    return path


def _read_sidecar(path: Path) -> ShrinkResult | None:
    """The result of shrink in a JSON file; None when it is missing or something else."""
    try:
        return from_json(ShrinkResult, path.read_text())
    except (OSError, UnicodeDecodeError, UserError):
        return None


def dense_of(source: Path, baseline: str | Path | None, tell: Progress) -> Path | None:
    """The dense baseline: the one named, or the one that shrink recorded beside ``source``."""
    if baseline is not None:
        if not Path(baseline).is_file():
            raise UserError(f"no such baseline: {baseline}")
        return _onnx(Path(baseline))
    result = _read_sidecar(source.with_suffix(".json")) if source.is_file() else None
    if result is None:
        return None
    # as recorded, or beside the model where all of it was moved
    places = (result.dense, source.with_name(result.dense.name))
    if result.model_sha256 != model_sha256(source):
        tell(f"no dense baseline recorded: {source} is not what shrink wrote")
        return None
    for dense in places:
        if dense.is_file() and model_sha256(dense) == result.dense_sha256:
            return dense
    tell(f"no dense baseline recorded: {result.dense} is not what shrink wrote")
    return None


def _refusing(manifest: Manifest, refused: tuple[RefusedRuntime, ...]) -> Manifest:
    """With the runtimes that could not even be tried."""
    if not refused:
        return manifest
    made = manifest.choice or RuntimeChoice("measured", manifest.runtime, ())
    return replace(manifest, choice=replace(made, refused=(*made.refused, *refused)))


def _put(order: Order, manifest: Manifest, built: Path) -> Engine:
    """Move the files of an engine that was built in another folder to its place."""
    with atomic_directory(order.place) as folder:
        for file in built.iterdir():
            file.replace(folder / file.name)
        (folder / MANIFEST).write_text(to_json(manifest))
    return Engine(order.place, manifest, sha256(order.place / MANIFEST))


def _refuse_place(place: Path) -> None:
    """Only an engine of ours, with nothing else in its folder, may be replaced."""
    if place.is_symlink():
        raise UserError(f"cannot write {place}: it is a symbolic link; name the folder itself")
    if not place.exists():
        return
    if not place.is_dir():
        raise UserError(f"cannot write {place}: a file of that name is there; name another folder")
    try:
        files = _manifest(place).files
    except UserError:
        raise UserError(
            f"cannot write {place}: the folder that is there is not an engine; name another"
        ) from None
    ours = {MANIFEST, *(PurePosixPath(name).parts[0] for name in files)}
    if strange := sorted({entry.name for entry in place.iterdir()} - ours):
        raise UserError(
            f"cannot write {place}: {strange[0]} in it is not the engine's and would be lost; "
            "move it away"
        )


def _manifest(folder: Path) -> Manifest:
    try:
        text = (folder / MANIFEST).read_text()
    except (OSError, UnicodeDecodeError):
        _refuse_bundle(folder)
        raise UserError(f"{folder} is not an engine: it has no readable {MANIFEST}") from None
    try:
        return from_json(Manifest, text)
    except UserError as error:
        raise UserError(f"{folder} is not an engine: {MANIFEST} is {error}") from None


def _refuse_bundle(path: Path) -> None:
    """A device bundle, folder or archive, is not taken for an engine that was measured."""
    from prunedeploy.engines.bundle_record import is_bundle, refusal

    if is_bundle(path):
        raise UserError(refusal(path))


def _plain(name: str, folder: Path) -> str:
    # a manifest is data from strangers: it must not name files outside its folder
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{folder} is not an engine: its manifest names {name}")
    return name


def _specs(source: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from prunedeploy.graph import model as models

    return models.specs(models.load(source))
