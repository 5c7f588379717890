"""One engine in its folder: built, held against its model, put on record."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.core.records import Array, Difference, Engine, Manifest, TensorSpec
from prunedeploy.reference import second_oracle
from prunedeploy.runtimes.api import BuildOptions, OpenOptions, Runtime

if TYPE_CHECKING:
    from prunedeploy.reference.verify import Tolerance

#: levels of ``BuildOptions.accuracy_level`` above 0, by the runtimes that have such
ACCURACY_LEVELS = {"sparse": (1, 2)}
NEAR = 0.65  # of what outputs may differ by: beyond that another input, or float64, may exceed it

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Order:
    """An engine to be built: of which model, for whom, where it will lie, beside what dense one.

    ``within`` is how far its outputs may be from the model's in float64, in parts of their range,
    where that is less than ``verify`` allows.
    """

    source: Path
    target: targets.Target
    builder: Runtime
    place: Path
    dense: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    within: float | None = None


def fill(folder: Path, order: Order, options: BuildOptions) -> Manifest:
    """Write an engine's files to ``folder`` and compare it with its model, where that can be.

    An engine that is nearly too far from its model, or further than ``order.within``, is built
    again with less rounding, by runtimes that know how.

    Raises:
        UserError: the runtime cannot build it; it computes something else than its model.
    """
    source = _ready(order, options)
    manifest, allowed = _built(folder, order, options, source)
    if not order.builder.computes:
        return manifest
    if reason := targets.why_not_here(order.target):
        options.tell(f"never compared with its model: {reason.partition(';')[0]}")
        return manifest
    options.tell("comparing its outputs with the reference's")
    reference = _Reference(order)
    runs = (reference.on(size) for size in _sizes(manifest, False))
    cross_check = second_oracle.check_all(order.source, runs, str(order.source))
    difference = _difference(folder, order, manifest, allowed, reference)
    near = min(order.within or math.inf, NEAR * difference.tolerance)
    for level in ACCURACY_LEVELS.get(order.builder.name, ()):
        if difference.max_rel <= near:
            break
        options.tell(f"outputs differ by {difference.max_rel:.1e}: building with less rounding")
        before = manifest.files
        manifest, allowed = _built(folder, order, replace(options, accuracy_level=level), source)
        if manifest.files != before:  # else no layer had such a form
            difference = _difference(folder, order, manifest, allowed, reference)
    _check(difference, order)
    return replace(manifest, difference=difference, cross_check=cross_check)


@dataclass(frozen=True)
class _Source:
    """What runtimes may differ by on a model, by its values' types, and what was put right."""

    tolerance: Tolerance
    found: tuple[str, ...]


def _ready(order: Order, options: BuildOptions) -> _Source:
    """What is to be known of the model before anything is built; refuses random outputs."""
    from prunedeploy.graph import model as models
    from prunedeploy.graph import preparation
    from prunedeploy.reference import randomness
    from prunedeploy.reference.verify import tolerances_of

    program = models.load(order.source)
    found = preparation.notes(program)
    for note in found:
        options.tell(f"{order.source}: {note}")
    randomness.refuse_random(program)
    return _Source(tolerances_of(program), found)


def model_sha256(path: Path) -> str:
    """With the weights in files beside it; no hash at all where one of them is gone."""
    from prunedeploy.graph import model  # imports onnx, which opening an engine does not need

    try:
        return model.sha256(path)
    except FileNotFoundError:
        return ""


def _built(
    folder: Path, order: Order, options: BuildOptions, source: _Source
) -> tuple[Manifest, Tolerance]:
    """The record of a fresh engine, not compared yet, and what it may differ by."""
    from prunedeploy.reference.verify import tolerance_of

    payload = order.builder.build(order.source, order.target, folder, options)
    dense = order.dense
    manifest = Manifest(
        runtime=order.builder.name,
        target=order.target.name,
        files={name: sha256(folder / name) for name in payload.files},
        model_sha256=model_sha256(order.source),
        baseline=os.path.relpath(dense.resolve(), order.place.resolve()) if dense else None,
        baseline_sha256=model_sha256(dense) if dense else None,
        inputs=order.inputs,
        outputs=order.outputs,
        versions=_versions() | order.builder.versions() | payload.versions,
        difference=None,
        batches=payload.batches,
        threads=payload.threads,
        arch=payload.arch,
        isa=payload.isa,
        found=source.found,
    )
    return manifest, tolerance_of(payload.precision) if payload.precision else source.tolerance


def precision_of(source: Path) -> str:
    """The precision less than float32 that the model computes in, empty for no such model."""
    from prunedeploy.graph import model as models
    from prunedeploy.reference.verify import precision_of

    return precision_of(models.load(source))


class _Reference:
    """The model's outputs on random inputs, computed once a batch however often it is built."""

    def __init__(self, order: Order) -> None:
        from prunedeploy.reference.evaluate import Evaluator

        self._evaluator = Evaluator(order.source, float64=order.within is not None)
        self._inputs = order.inputs
        self._known: dict[int, tuple[Feeds, Feeds]] = {}

    def on(self, size: int) -> tuple[Feeds, Feeds]:
        """Inputs for a batch of ``size``, and what the model gives for them."""
        from prunedeploy.reference.verify import random_feeds

        if size not in self._known:
            feeds = random_feeds(self._inputs, size)
            self._known[size] = feeds, self._evaluator.run(feeds)
        return self._known[size]


def _difference(
    folder: Path, order: Order, manifest: Manifest, allowed: Tolerance, reference: _Reference
) -> Difference:
    """How far the engine is from the model in the reference, in float64 for ``order.within``."""
    from prunedeploy.reference.verify import TOLERANCE, compare

    tolerance = TOLERANCE["float32"] if order.within is not None else allowed
    with order.builder.open(Engine(folder, manifest, ""), OpenOptions()) as session:
        differences = [
            compare(wanted, session.run(feeds), tolerance)
            for size in _sizes(manifest, getattr(session, "cuts", False))
            for feeds, wanted in [reference.on(size)]
        ]
    # NaN is the worst of all
    worst = max(differences, key=lambda x: (x.max_rel != x.max_rel, x.share))
    return replace(
        worst,
        samples=sum(x.samples for x in differences),
        changed_predictions=sum(x.changed_predictions for x in differences),
    )


def _check(difference: Difference, order: Order) -> None:
    """Refuse an engine that is too far from its model."""
    if difference.passed and not difference.max_rel <= (order.within or math.inf):
        raise UserError(
            f"the {order.builder.name} engine rounds more than {order.within:.2g} of the range: "
            f"{difference.where} is off by {difference.max_rel:.2g}; nothing was written"
        )
    if not difference.passed:
        raise UserError(
            f"the {order.builder.name} engine computes something else than {order.source}: "
            f"{difference.where} differs by {difference.max_rel:.2g} of its range, "
            f"{difference.tolerance:.2g} is allowed; nothing was written"
        )


def _sizes(manifest: Manifest, cuts: bool) -> tuple[int, ...]:
    """The batches to compare: every one it was built for, and one in pieces where it does that."""
    if not manifest.batches:
        return (2,)
    pieces = [2 * min(manifest.batches)] if cuts else []
    return tuple(sorted({*manifest.batches, *pieces}))


def _versions() -> dict[str, str]:
    names = ("prunedeploy", "onnx", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
