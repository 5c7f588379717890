"""Targets that are not at hand: their bundles written and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy.cli import show
from prunedeploy.cli.progress import working
from prunedeploy.cli.tables import size

if TYPE_CHECKING:
    from prunedeploy.bundle.record import Written
    from prunedeploy.types import Array


def is_elsewhere(target: str) -> bool:
    """Whether engines for ``target`` come about on another machine."""
    from prunedeploy import targets

    return targets.why_not_here(targets.by_name(target)) is not None


def inputs_of(model: Path, file: Path | None) -> dict[str, Array] | None:
    """The arrays in ``file`` by the names of the model's inputs."""
    from prunedeploy import model as models
    from prunedeploy.cli import arrays

    return None if file is None else arrays.read(file, models.specs(models.load(model))[0])


def write(
    model: Path,
    target: str,
    output: Path | None,
    baseline: Path | None,
    batch: tuple[int, ...],
    threads: int,
    file: Path | None,
    archive: bool,
    json: bool,
) -> None:
    """Write a bundle and say what it is."""
    import prunedeploy as api

    with working(f"reading {model}") as progress:
        found = api.write_bundle(
            *(model, target, output, baseline, progress),
            batch=batch,
            threads=threads,
            inputs=inputs_of(model, file),
            archive=archive,
        )
    show.result(found, bundle, json)


def bundle(written: Written) -> None:
    """What is in it, and that it is no engine."""
    found = written.bundle
    print(f"{written.path}: device bundle for {found.target}, not an engine: nothing is measured")
    if written.path.is_file():
        print(f"  {size(written.path.stat().st_size)}, unpack it with tar xzf {written.path}")
    for each in found.models:
        print(f"  {each.file}: opset {each.opset}, {show.difference(each.difference)}")
    if sparse := found.sparse:
        how = f"compiled with {sparse.compiler}" if sparse.compiled else "as C sources"
        least = f", needs glibc {sparse.glibc}" if sparse.glibc else ""
        print(f"  sparse engine for {found.arch} ({sparse.isa}), {how}{least}")
    for note in found.notes:
        print(f"  {note}")
    print("  on the device: sh build.sh && python3 bench.py, or here: --remote user@host")
