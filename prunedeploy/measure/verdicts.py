"""Whether engines compute the same before they are timed: on random inputs, on images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from prunedeploy.core import measurements
from prunedeploy.core.errors import UnknownOperatorError, UserError
from prunedeploy.core.measurements import Accuracy
from prunedeploy.core.records import Array, Difference, Engine, TensorSpec
from prunedeploy.engines.request import Progress
from prunedeploy.measure.labelled import Labelled
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.reference.stable_inputs import has_discrete, stable_feeds
from prunedeploy.reference.verify import (
    OtherShapeError,
    Tolerance,
    against_noise,
    compare,
    worst,
)
from prunedeploy.runtimes.api import Session
from prunedeploy.runtimes.ort.cpu import payload

Outputs = dict[str, Array]
Feeds = Mapping[str, Array]

MIN_COMPARED = 8  # random inputs that every candidate is compared on
DATA_BATCH = 50  # labelled images computed together, where the engine leaves it open


class OtherOutputsError(UserError):
    """An engine computes other values than the baseline, or was never compared."""


def verdicts(
    engines: Sequence[Engine],
    sessions: Sequence[Session],
    inputs: tuple[TensorSpec, ...],
    batch: int,
    seed: int,
    images: Labelled | None,
    progress: Progress,
) -> Iterable[tuple[Difference, measurements.Accuracy | None]]:
    """Compare all engines on random inputs, and on ``images`` where there are some.

    Returns:
        For each how far its outputs are from the baseline's, and its accuracy on ``images``.

    Raises:
        OtherOutputsError: one computes other values than the baseline, the first of them.
        OtherShapeError: one has other outputs, or of other shapes.
    """
    progress("comparing outputs")
    differences = _differences(engines, sessions, inputs, batch, seed)
    accuracies: list[Accuracy | None] = [None] * len(engines)
    if images is not None:
        progress(f"computing {len(images.labels)} labelled images")
        accuracies, differences = _on_data(engines, sessions, images, differences)
    return zip(differences, accuracies, strict=True)


def _outputs(session: Session, batches: Iterable[Mapping[str, Array]]) -> Outputs:
    """All batches' outputs, one after the other along axis 0."""
    runs = [session.run(feeds) for feeds in batches]
    return {k: np.concatenate([np.atleast_1d(run[k]) for run in runs]) for k in runs[0]}


def _differences(
    engines: Sequence[Engine],
    sessions: Sequence[Session],
    inputs: tuple[TensorSpec, ...],
    batch: int,
    seed: int,
) -> list[Difference]:
    """The difference of every candidate from the baseline, and of that from its model.

    Where rounding may decide outputs, they are compared on inputs on which it does not.
    """
    seeds = range(seed, seed - (-MIN_COMPARED // batch))
    batches = [random_feeds(inputs, batch, each) for each in seeds]
    dense = _outputs(sessions[0], batches)
    try:
        return _compare_all(engines, sessions, batches, dense)
    except (OtherOutputsError, OtherShapeError):
        if not has_discrete(dense):
            raise
        drawn = [stable_feeds(sessions[0].run, inputs, batch, each) for each in seeds]
        batches = [feeds for feeds in drawn if feeds is not None]
        if not batches:
            raise
    return _compare_all(engines, sessions, batches, _outputs(sessions[0], batches))


def _compare_all(
    engines: Sequence[Engine], sessions: Sequence[Session], batches: Sequence[Feeds], dense: Outputs
) -> list[Difference]:
    differences = [_refuse_other(engines[0], engines[0].manifest.difference)]
    for engine, session in zip(engines[1:], sessions[1:], strict=True):
        difference = _compare(engine, dense, _outputs(session, batches))
        if not difference.passed:
            exact = _against_rounding(engines[0], sessions[0], engine, session, batches)
            difference = difference if exact is None else exact
        differences.append(_refuse_other(engine, difference))
    return differences


def _against_rounding(
    baseline: Engine, dense: Session, engine: Engine, session: Session, batches: Sequence[Feeds]
) -> Difference | None:
    """The difference from the baseline's model in float64, which tells what rounding explains.

    None where the baseline has no model that the reference can compute in float64.
    """
    if baseline.manifest.runtime != "ort":
        return None
    allowed = _tolerance(engine)
    with payload(baseline) as (model, weights):
        if weights:  # in files of their own: too large for float64
            return None
        try:
            return worst(
                [
                    against_noise(model, feeds, dense.run(feeds), session.run(feeds), allowed)
                    for feeds in batches
                ]
            )
        except UnknownOperatorError:
            return None


def _on_data(
    engines: Sequence[Engine],
    sessions: Sequence[Session],
    images: Labelled,
    differences: Sequence[Difference],
) -> tuple[list[Accuracy | None], list[Difference]]:
    """Accuracy of every engine on all images, and the differences with those on them."""
    first = images.spec.shape[0]
    size = first if isinstance(first, int) else min(DATA_BATCH, len(images.labels))
    accuracies: list[Accuracy | None] = []
    worst = [differences[0]]
    dense: Outputs = {}
    for index, (engine, session) in enumerate(zip(engines, sessions, strict=True)):
        outputs = _outputs(session, images.batches(size))
        outputs = {name: array[: len(images.labels)] for name, array in outputs.items()}
        dense = dense or outputs
        if index:
            here = _refuse_other(engine, _compare(engine, dense, outputs))
            worst.append(_worse(differences[index], here))
        predictions = _predictions(outputs)
        _check_labels(images, max(a.shape[1] for a in outputs.values() if a.ndim == 2))
        accuracies.append(_accuracy(_predictions(dense), predictions, images.labels))
    return accuracies, worst


def _compare(
    engine: Engine, dense: Mapping[str, Array], outputs: Mapping[str, Array]
) -> Difference:
    """Compare with the tolerance that the engine was built under: float16 has a larger one."""
    return compare(dense, outputs, _tolerance(engine))


def _tolerance(engine: Engine) -> Tolerance:
    built = engine.manifest.difference
    return None if built is None else built.tolerances or built.tolerance


def _refuse_other(engine: Engine, difference: Difference | None) -> Difference:
    if difference is None or not difference.passed:
        how = (
            f"{difference.where} differs by {difference.max_rel:.2g} of its range, "
            f"{difference.tolerance:.0e} is allowed"
            if difference
            else "it was never compared"
        )
        what = f"{engine.path} does not compute what its baseline does: {how}; not timed"
        raise OtherOutputsError(what)
    return difference


def _worse(one: Difference, other: Difference) -> Difference:
    """The larger difference, over the samples of both."""
    larger = other if other.share > one.share else one
    return dataclasses.replace(
        larger,
        max_abs=max(one.max_abs, other.max_abs),
        samples=one.samples + other.samples,
        changed_predictions=one.changed_predictions + other.changed_predictions,
    )


def _predictions(outputs: Outputs) -> Array:
    """The largest class by the first output of shape [samples, classes].

    Raises:
        UserError: no output has that shape.
    """
    for array in outputs.values():
        if array.ndim == 2 and array.shape[1] > 1:
            return np.asarray(array.argmax(1))
    raise UserError("labelled data needs an output of shape batch x classes: there is none")


def _check_labels(images: Labelled, classes: int) -> None:
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"labels run from {low} to {high}, the network has {classes} classes")


def _accuracy(dense: Array, predictions: Array, labels: Array) -> Accuracy:
    correct = np.count_nonzero(predictions == labels)
    return Accuracy(len(labels), int(correct), int(np.count_nonzero(predictions != dense)))
