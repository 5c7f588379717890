"""Writes a device bundle: all that another machine needs to build and to measure engines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnx_ir as ir

from prunedeploy import targets
from prunedeploy.bundle import archive as archives
from prunedeploy.bundle import models as model_files
from prunedeploy.bundle import sparse as sparse_part
from prunedeploy.bundle.readme import readme
from prunedeploy.core.errors import (
    CompilerError,
    OutputError,
    UnsupportedModelError,
    UserError,
    naming_file,
)
from prunedeploy.core.files import atomic_directory, atomic_path, sha256, to_json
from prunedeploy.core.log import logged
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.core.text import printable_lines
from prunedeploy.engines import bundle_record, sources
from prunedeploy.engines.bundle_record import MANIFEST, Tensor
from prunedeploy.engines.request import Progress, build_options
from prunedeploy.engines.verified_build import versions
from prunedeploy.graph import model as models
from prunedeploy.graph.fixed_shapes import sized
from prunedeploy.graph.several_sizes import AllSizes, one_size
from prunedeploy.prediction.predict import predict_all
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.source_model import load_source
from prunedeploy.runtimes.api import BuildOptions, check_feeds
from prunedeploy.targets import Target

KIND = "device bundle: nothing in it was built or measured on the device"
RUNS = 4  # batches of random inputs to record, where no inputs are given
# what ``_write`` takes
Parts = tuple[Path, Path | None, Target, BuildOptions, Mapping[str, Array] | None]
DEVICE_FILES = ("build.sh", "bench.py", "state.py", "trt.py")


class BundleOptions(TypedDict, total=False):
    """Arguments of ``write_bundle`` that other functions hand on."""

    baseline: str | Path | None
    batch: int | Sequence[int]
    inputs: Mapping[str, Array] | None
    archive: bool


def write_bundle(
    model: str | Path | None = None,
    target: str = "jetson-nano",
    output: str | Path | None = None,
    baseline: str | Path | None = None,
    progress: Progress | None = None,
    *,
    batch: int | Sequence[int] = (),
    threads: int = 0,
    inputs: Mapping[str, Array] | None = None,
    archive: bool = False,
    shapes: AllSizes | None = None,
) -> bundle_record.Written:
    """Write what ``target`` needs to build and to measure engines of ``model`` itself.

    Args:
        model: an ONNX file; the newest result of ``shrink`` in the current folder when None.
        target: a name of ``targets.TARGETS``.
        output: the folder, ``<model>.<target>.bundle`` in the current one when None; a name that
            ends in .tar.gz makes an archive.
        baseline: the dense model to measure beside it; when None, the one that ``shrink`` recorded.
        progress: called with one line of text for each step.
        batch: batch sizes of the sparse engine; the largest is measured.
        threads: how many the sparse engine will mostly run with; 0 for all cores of the target.
        inputs: inputs to record the outputs of and to measure with, random ones when None.
        archive: write an archive, whatever ``output`` is called.
        shapes: sizes of inputs that the model and its baseline leave open, by their names.

    Returns:
        The folder or archive, and the record in it, which says what is missing.

    Raises:
        UserError: no such model or target; the target can have nothing of it; ``output`` is there
            and is not a bundle.

    Example:
        >>> import prunedeploy
        >>> prunedeploy.write_bundle("net.onnx", "jetson-nano").path.name
        'net.jetson-nano.bundle'
    """
    progress = logged(progress)
    stated = one_size(shapes, "a device bundle")
    source = sources.model_file(model, progress)
    machine = targets.by_name(target)
    output_path = Path(
        output
        or f"{source.stem}.{machine.name}{bundle_record.FOLDER}{bundle_record.ARCHIVE * archive}"
    )
    packed = archive or output_path.name.endswith(bundle_record.ARCHIVE)
    _refuse_to_replace(output_path)
    options = build_options(batch, threads, "none", progress)
    dense = sources.dense_file(source, baseline, progress)
    progress(f"writing {output_path}")
    with naming_file(source), ExitStack() as stack:
        source = stack.enter_context(sized(source, stated))
        dense = stack.enter_context(sized(dense, stated)) if dense is not None else None
        return _write_to(output_path, packed, (source, dense, machine, options, inputs))


def _write_to(output_path: Path, packed: bool, what: Parts) -> bundle_record.Written:
    """The bundle as a folder or, ``packed``, as an archive."""
    if not packed:
        with atomic_directory(output_path) as folder:
            bundle = _write(folder, *what)
        return bundle_record.Written(output_path, bundle, sha256(output_path / MANIFEST))
    with atomic_path(output_path) as file:
        folder = file.with_name(f"{file.name}.folder")
        try:
            folder.mkdir()
            bundle = _write(folder, *what)
            archives.pack(folder, file, output_path.name.removesuffix(bundle_record.ARCHIVE))
            digest = sha256(folder / MANIFEST)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return bundle_record.Written(output_path, bundle, digest)


def _write(
    folder: Path,
    source: Path,
    dense: Path | None,
    machine: Target,
    options: BuildOptions,
    given: Mapping[str, Array] | None,
) -> bundle_record.Bundle:
    """The bundle's files into ``folder``."""
    original = load_source(source, options.progress)
    inputs, outputs = original.inputs, original.outputs
    batch = _batch(inputs, options.batches)
    feeds = dict(given) if given is not None else verify.random_feeds(inputs, RUNS * batch)
    feeds = check_feeds(inputs, feeds)
    runs = _runs(inputs, feeds, batch)
    options.progress("computing the outputs that it is to be compared with")
    recorded = Evaluator(source).run(feeds)
    tensors = _record(folder / "check", inputs, outputs, feeds, recorded)
    originals = {"model": source} | ({"baseline": dense} if dense is not None else {})
    written, notes = model_files.write(originals, machine, folder, feeds, options.progress)
    sparse, why = _sparse(folder / "sparse", source, machine, replace(options, batches=(batch,)))
    plans = model_files.plans(written, tensors[0], machine, batch)
    if sparse is None and not plans:
        raise UserError(
            f"there is nothing that {machine.name} could run: {'; '.join((*notes, *why))}"
        )
    for name in DEVICE_FILES:
        shutil.copyfile(sparse_part.DEVICE / name, folder / name)
    (folder / "build.sh").chmod(0o755)
    options.progress("predicting how long it will take there")
    predicted, _ = predict_all(source, machine.name, batch=batch, threads=options.threads)
    bundle = bundle_record.Bundle(
        kind=KIND,
        target=machine.name,
        arch=machine.arch,
        system=machine.toolchain.name if machine.toolchain is not None else "",
        model=source.name,
        model_sha256=models.sha256(source),
        baseline_sha256=models.sha256(dense) if dense is not None else None,
        batch=batch,
        runs=runs,
        inputs=tensors[0],
        outputs=tensors[1],
        tolerances={"float32": _tolerance(original.program), **verify.NARROW_TOLERANCE},
        models=written,
        plans=plans,
        sparse=sparse,
        notes=(*notes, *why),
        versions=versions(),
        files={},
        predicted=tuple(x.forecast for x in predicted),
        missing=tuple(_missing(machine, sparse, plans)),
    )
    (folder / "README.md").write_text(printable_lines(readme(bundle)))
    names = sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file())
    bundle = replace(bundle, files={name: sha256(folder / name) for name in names})
    (folder / MANIFEST).write_text(to_json(bundle))
    hashes = {**bundle.files, MANIFEST: sha256(folder / MANIFEST)}
    (folder / "SHA256SUMS").write_text("".join(f"{x}  {name}\n" for name, x in hashes.items()))
    return bundle


def _tolerance(program: ir.Model) -> float:
    """The tolerance of the model: it may compute in a narrower type than its float32 outputs."""
    usual = verify.TOLERANCE["float32"]
    return verify.NARROW_TOLERANCE.get(verify.precision_of(program), usual)


def _sparse(
    folder: Path, source: Path, machine: Target, options: BuildOptions
) -> tuple[bundle_record.SparsePart | None, tuple[str, ...]]:
    """The sparse engine, or why the runtime cannot compute the model.

    Raises:
        CompilerError: the compiler that is here for the target does not work: that is not for the
            device to find out.
    """
    if "sparse" not in machine.runtimes:
        return None, ()
    try:
        part = sparse_part.write(source, machine, folder, options)
    except CompilerError as error:
        raise CompilerError(f"no sparse engine for {machine.name}: {error}") from error
    except UserError as error:
        shutil.rmtree(folder, ignore_errors=True)
        why = error.reason if isinstance(error, UnsupportedModelError) else str(error)
        return None, (f"no sparse engine: {why}",)
    return part, (part.why,) if part.why else ()


def _missing(
    machine: Target, sparse: bundle_record.SparsePart | None, plans: Sequence[bundle_record.Plan]
) -> Iterator[str]:
    """The parts that the target can have and the bundle lacks."""
    if "sparse" in machine.runtimes and sparse is None:
        yield "sparse engine"
    with_trt = machine.toolchain is not None and "tensorrt" in machine.runtimes
    if with_trt and not any((x.of, x.precision) == ("model", "float32") for x in plans):
        yield "float32 model"


def _batch(inputs: tuple[TensorSpec, ...], wanted: tuple[int, ...]) -> int:
    """The one batch size that is measured."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if isinstance(first, str):
        return max(wanted, default=1)
    if set(wanted) - {first}:
        raise UserError(f"the model takes batches of {first} only: leave out --batch")
    return first


def _runs(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Array], batch: int) -> int:
    """How many batches the inputs are."""
    if not inputs or not inputs[0].shape or isinstance(inputs[0].shape[0], int):
        return 1
    samples = len(feeds[inputs[0].name])
    if samples % batch:
        raise UserError(f"{samples} inputs are no multiple of the batch of {batch}: give others")
    return samples // batch


def _record(
    folder: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    feeds: Mapping[str, Array],
    recorded: Mapping[str, Array],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Write inputs and outputs as .npy files, and the table of them that the runner reads."""
    folder.mkdir()
    lines: list[str] = []
    described: list[tuple[Tensor, ...]] = []
    for what, specs, arrays in (("input", inputs, feeds), ("output", outputs, recorded)):
        tensors = []
        for index, spec in enumerate(specs):
            if set(spec.name) & set("\t\n"):
                raise UserError(f"{what} {spec.name!r} has a tab or a line break in its name")
            name = f"{what}_{index}.npy"
            np.save(folder / name, np.ascontiguousarray(arrays[spec.name]))
            lines.append(f"{what}\t{spec.name}\t{name}\n")
            tensors.append(Tensor(spec.name, spec.dtype, spec.shape, f"check/{name}"))
        described.append(tuple(tensors))
    (folder / "tensors.txt").write_text("".join(lines))
    return described[0], described[1]


def _refuse_to_replace(path: Path) -> None:
    """Refuse to replace anything but a bundle of ours in which the device left nothing."""
    if path.is_symlink():
        raise OutputError(f"cannot write {path}: it is a symbolic link; name the folder itself")
    if not path.exists():
        return
    try:
        ours = {
            MANIFEST,
            "SHA256SUMS",
            *(x.partition("/")[0] for x in bundle_record.read(path).bundle.files),
        }
    except UserError:
        raise OutputError(
            f"cannot write {path}: what is there is not a bundle; name another"
        ) from None
    if path.is_dir() and (strange := sorted({x.name for x in path.iterdir()} - ours)):
        raise OutputError(
            f"cannot write {path}: {strange[0]} in it is not the bundle's "
            "and would be lost; move it away"
        )
