"""Engines that were built, and the outputs they computed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy.cli.show.next_steps import print_choice
from prunedeploy.cli.show.placements import print_placement
from prunedeploy.cli.show.verdicts import cross_checks, difference
from prunedeploy.cli.tables import say
from prunedeploy.core.records import Engine
from prunedeploy.engines.sizes import each_engine
from prunedeploy.runtimes.hybrid.engine import read_placement

if TYPE_CHECKING:
    from prunedeploy.cli.arrays import RunResult


def print_engine(built: Engine) -> None:
    """Print where the engine is, what is in it, and how far it is from its model."""
    manifest = built.manifest
    say(f"{built.path}: {manifest.runtime} engine for {manifest.target}")
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    say(f"  made with {versions}")
    for line in manifest.found:
        say(f"  {line}")
    for spec in manifest.inputs:
        say(f"  takes {spec.name}: {spec.dtype} {_shape(spec.shape)}")
    for spec in manifest.outputs:
        say(f"  gives {spec.name}: {spec.dtype} {_shape(spec.shape)}")
    if manifest.batches:
        sizes = ", ".join(map(str, manifest.batches))
        say(f"  for batches of {sizes}, {manifest.threads} threads, {manifest.isa}")
    if manifest.sizes:
        say(f"  for the sizes {', '.join(size.folder for size in manifest.sizes)}")
    if manifest.runtime == "hybrid":
        for each in each_engine(built):
            print_placement(read_placement(each))
    if manifest.difference is None:
        say("  never compared with its model, so never to be timed")
    else:
        say(f"  largest difference from its model: {difference(manifest.difference)}")
        checks = () if manifest.cross_check is None else (manifest.cross_check,)
        say(f"  the reference {cross_checks(checks)}")
    print_choice(manifest.choice)
    if manifest.baseline is not None and manifest.difference is not None:
        say()
        say(f"next: prunedeploy bench {shlex.quote(str(built.path))} -o result.json")


def print_project(project: dict[str, str]) -> None:
    """Print where the C project is, or those of several sizes, and how to build it."""
    path = Path(project["path"])
    for folder in sorted(file.parent for file in path.rglob("Makefile")):
        say(f"{folder}: C sources; build them with: make -C {shlex.quote(str(folder))}")


def _shape(dims: Iterable[int | str]) -> str:
    return " x ".join(map(str, dims))


def print_outputs(done: RunResult) -> None:
    """Print the file, and every output in it."""
    for spec in done.outputs:
        say(f"{done.output}: {spec.name} {spec.dtype} {_shape(spec.shape)}")
