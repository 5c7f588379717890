"""Builds one engine into a given folder and compares its outputs with its model's."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy import targets
from prunedeploy.core.errors import UnknownOperatorError, UserError
from prunedeploy.core.files import sha256
from prunedeploy.core.progress import Notice
from prunedeploy.core.records import Array, CrossCheck, Difference, Engine, Manifest
from prunedeploy.engines.request import BuildRequest
from prunedeploy.engines.sources import model_sha256
from prunedeploy.reference import second_oracle
from prunedeploy.runtimes.api import BuildOptions, OpenOptions

if TYPE_CHECKING:
    from prunedeploy.reference.source_model import SourceModel
    from prunedeploy.reference.verify import Tolerance

#: accuracy levels above 0 of the runtimes that have some: each rounds less and is slower
ACCURACY_LEVELS = {"sparse": (1, 2), "hybrid": (1, 2)}
#: An engine is built again at the next level where the difference on the random inputs exceeds this
#: share of the tolerance: on another input, or compared in float64, it might exceed all of it.
REBUILD_SHARE = 0.65

Feeds = dict[str, Array]


def build_verified(folder: Path, request: BuildRequest, options: BuildOptions) -> Manifest:
    """Write an engine's files to ``folder``; compare it with its model if this machine can run it.

    An engine whose difference is close to the tolerance, or above ``request.within``, is built
    again at the next accuracy level, by runtimes that have some.

    Returns the manifest, which is not written: the caller adds what it knows and writes it.

    Raises:
        UserError: the runtime cannot build it; it computes something else than its model.
    """
    from prunedeploy.reference.source_model import load_source  # imports onnx
    from prunedeploy.reference.verify import own_tolerance

    source = load_source(request.source, options.progress)
    manifest, allowed = _build_payload(folder, request, options, source)
    if not request.runtime.computes:
        return manifest
    if reason := targets.why_not_here(request.target):
        options.progress(Notice(f"never compared with its model: {reason.partition(';')[0]}"))
        return manifest
    options.progress("comparing its outputs with the reference's")
    reference = _Reference(request)
    difference = _stable_difference(folder, request, manifest, allowed, reference, options)
    if reference.own:
        options.progress(Notice(f"ONNX Runtime is compared with itself only: {reference.own}"))
        cross_check = CrossCheck(str(request.origin), "", reference.own)
        allowed = allowed or own_tolerance(source.program)
    else:
        runs = (run for size in _sizes(manifest, False) for run in reference.on(size))
        cross_check = second_oracle.check_all(request.source, runs, str(request.origin))
    limit = min(request.within or math.inf, REBUILD_SHARE * difference.tolerance)
    for level in ACCURACY_LEVELS.get(request.runtime.name, ()):
        if difference.max_rel <= limit:
            break
        options.progress(f"outputs differ by {difference.max_rel:.1e}: building with less rounding")
        before = manifest.files
        manifest, allowed = _build_payload(
            folder, request, replace(options, accuracy_level=level), source
        )
        if manifest.files != before:  # else no layer had such a form
            difference = _difference(folder, request, manifest, allowed, reference)
    if not difference.passed and request.within is None and not reference.own:
        options.progress("comparing with float64: rounding may explain the difference")
        difference = _difference(folder, request, manifest, allowed, reference, noise=True)
    _check(difference, request)
    return replace(manifest, difference=difference, cross_check=cross_check)


def _build_payload(
    folder: Path, request: BuildRequest, options: BuildOptions, source: SourceModel
) -> tuple[Manifest, Tolerance]:
    """Build the payload; return its manifest, without a difference yet, and its tolerance."""
    from prunedeploy.reference.verify import tolerance_of

    payload = request.runtime.build(request.source, request.target, folder, options)
    dense = request.dense
    manifest = Manifest(
        runtime=request.runtime.name,
        target=request.target.name,
        files={name: sha256(folder / name) for name in payload.files},
        model_sha256=model_sha256(request.origin),
        baseline=os.path.relpath(os.path.realpath(dense), os.path.realpath(request.output))
        if dense
        else None,
        baseline_sha256=model_sha256(dense) if dense else None,
        inputs=request.inputs,
        outputs=request.outputs,
        versions=versions() | request.runtime.versions() | payload.versions,
        difference=None,
        batches=payload.batches,
        threads=payload.threads,
        arch=payload.arch,
        isa=payload.isa,
        found=source.notes,
    )
    return manifest, tolerance_of(payload.precision) if payload.precision else source.tolerance


def narrow_precision(source: Path) -> str:
    """The precision below float32 that the model in file ``source`` computes in; "" for none."""
    from prunedeploy.graph import model as models
    from prunedeploy.reference.verify import precision_of

    return precision_of(models.load(source))


class _Reference:
    """The reference's outputs on random inputs, computed once for each batch size.

    The reference is the interpreter. A model with an operator that only ONNX Runtime knows has
    ONNX Runtime itself, with its graph optimisations off; ``own`` then says why, and is "" else.
    """

    def __init__(self, request: BuildRequest) -> None:
        from prunedeploy.reference.evaluate import Evaluator

        self.own = ""
        try:
            self._run = Evaluator(request.source, float64=request.within is not None).run
        except UnknownOperatorError as error:
            run = second_oracle.opened(request.source)
            if isinstance(run, second_oracle.NotAvailable) or request.within is not None:
                raise
            self.own = str(error).partition(",")[0]
            self._run = partial(_outputs, run)
        self._inputs = request.inputs
        self._known: dict[int, list[tuple[Feeds, Feeds]]] = {}

    @property
    def why_unstable(self) -> str:
        """What to add to a message where no inputs are found on which rounding decides nothing."""
        from prunedeploy.reference.stable_inputs import has_discrete

        if not any(has_discrete(outputs) for runs in self._known.values() for _, outputs in runs):
            return ""
        return (
            ": on all random inputs that were tried rounding alone decides it, so that nothing can"
            " be compared; export the network without its last selection"
        )

    def take_stable(self) -> bool:
        """Take inputs on which rounding decides no output; False where none can be found.

        Nor are any looked for where all outputs are floats of one shape: rounding moves those a
        little, which the tolerance allows for.
        """
        from prunedeploy.reference.drawing import turns
        from prunedeploy.reference.stable_inputs import has_discrete, stable_feeds

        if not any(has_discrete(outputs) for runs in self._known.values() for _, outputs in runs):
            return False
        runs: dict[int, list[tuple[Feeds, Feeds]]] = {}
        for size in self._known:
            each = [
                stable_feeds(self._run, self._inputs, size, x) for x in range(turns(self._inputs))
            ]
            runs[size] = [(feeds, self._run(feeds)) for feeds in each if feeds is not None]
            if not runs[size]:
                return False
        self._known = runs
        return True

    def on(self, size: int) -> list[tuple[Feeds, Feeds]]:
        """Random inputs for a batch of ``size``, and the model's outputs for them.

        Raises:
            UserError: the model cannot run on them, or an output has no finite number.
        """
        from prunedeploy.reference.drawing import random_feeds, turns
        from prunedeploy.reference.fitting import refuse_incomparable

        if size not in self._known:
            drawn = [random_feeds(self._inputs, size, turn) for turn in range(turns(self._inputs))]
            self._known[size] = [(feeds, self._run(feeds)) for feeds in drawn]
            for _, outputs in self._known[size]:
                refuse_incomparable(outputs, self._inputs)
        return self._known[size]


def _outputs(run: second_oracle.Run, feeds: Mapping[str, Array]) -> Feeds:
    outputs = run(feeds)
    if isinstance(outputs, second_oracle.NotAvailable):
        raise UserError(outputs.reason)
    return outputs


def _stable_difference(
    folder: Path,
    request: BuildRequest,
    manifest: Manifest,
    allowed: Tolerance,
    reference: _Reference,
    options: BuildOptions,
) -> Difference:
    """The difference, on other random inputs where rounding decides outputs on the first ones.

    Raises:
        UserError: the outputs are of another shape than the reference's.
    """
    from prunedeploy.reference.verify import OtherShapeError

    def difference() -> Difference:
        return _difference(folder, request, manifest, allowed, reference)

    try:
        first = difference()
    except OtherShapeError as error:
        if not reference.take_stable():
            raise UserError(f"{error}{reference.why_unstable}") from None
    else:
        if first.passed or not reference.take_stable():
            return first
    options.progress(
        Notice("on the first random inputs rounding decides outputs: others are taken")
    )
    return difference()


def _difference(
    folder: Path,
    request: BuildRequest,
    manifest: Manifest,
    allowed: Tolerance,
    reference: _Reference,
    *,
    noise: bool = False,
) -> Difference:
    """The largest difference from the reference over all batch sizes (float64 with ``within``).

    With ``noise``, what rounding alone may explain is allowed (see ``verify.against_noise``).
    """
    from prunedeploy.reference.verify import TOLERANCE, against_noise, compare, worst

    def judged(feeds: Feeds, wanted: Feeds, outputs: Feeds) -> Difference:
        if noise:
            return against_noise(request.source, feeds, wanted, outputs, tolerance)
        return compare(wanted, outputs, tolerance)

    tolerance = TOLERANCE["float32"] if request.within is not None else allowed
    with request.runtime.open(Engine(folder, manifest, ""), OpenOptions()) as session:
        differences = [
            judged(feeds, wanted, session.run(feeds))
            for size in _sizes(manifest, getattr(session, "cuts", False))
            for feeds, wanted in reference.on(size)
        ]
    return worst(differences)


def _check(difference: Difference, request: BuildRequest) -> None:
    """Refuse an engine that is too far from its model."""
    name = request.runtime.name
    if difference.passed and not difference.max_rel <= (request.within or math.inf):
        raise UserError(
            f"the {name} engine rounds more than {request.within:.2g} of the range: "
            f"{difference.where} is off by {difference.max_rel:.2g}; nothing was written"
        )
    if not difference.passed:
        raise UserError(
            f"the {name} engine computes something else than {request.origin}: "
            f"{difference.where} differs by {difference.max_rel:.2g} of its range, "
            f"{difference.tolerance:.2g} is allowed; nothing was written"
        )


def _sizes(manifest: Manifest, cuts: bool) -> tuple[int, ...]:
    """The batch sizes to compare: all it was built for, and one that the session has to cut."""
    if not manifest.batches:
        return (2,)
    cut = [2 * min(manifest.batches)] if cuts else []
    return tuple(sorted({*manifest.batches, *cut}))


def versions() -> dict[str, str]:
    """The versions of Python and of what every build takes, by name."""
    names = ("prunedeploy", "onnx", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
