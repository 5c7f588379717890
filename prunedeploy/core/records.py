"""The frozen records that pass between the steps; no import is heavier than NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core import html
from prunedeploy.core.note_codes import NoteCode

# Of manifests: it changes with every field that is added or changes its meaning. 1 had no number.
MANIFEST_FORMAT = 3

EARLIER = "earlier"  # key of a field's metadata


def earlier(value: object) -> dict[str, object]:
    """Metadata of a required field that files written earlier do not have: what it counts as."""
    return {EARLIER: value}


Array = NDArray[np.generic]
Dim = int | str  # a fixed size, or the name of a dynamic one


@dataclass(frozen=True)
class InputRange:
    """The range of an input's elements, bounds included: one number for all, or one a channel.

    Channels are the indices of axis 1. A bound may be infinite.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class InputSample:
    """How random inputs are drawn for a network, where its shapes and types do not say enough.

    Attributes:
        sizes: one an axis, for what the shape leaves open; 0 where that is the batch. Several,
            where the values that inputs take in turn need different ones.
        values: numbers that the network compares the input with, and their neighbours.
        count: the input's numbers are indices below this; 0 where they are none.
        words: texts that the network knows; empty where it is not one of texts.
        floats: "normal" for N(0, 1); "positive" for its absolute values; "coarse" for numbers that
            four neighbours on each of the last two axes share, as in images.
    """

    sizes: tuple[tuple[int, ...], ...] = ()
    values: tuple[float, ...] = ()
    count: int = 0
    words: tuple[str, ...] = ()
    floats: Literal["normal", "positive", "coarse"] = "normal"


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of one input or output of a model.

    ``range`` is what an input was stated to lie within when the model was shrunk: outside it the
    model is not known to compute what the original does. ``sample`` says how random inputs for it
    are drawn (see ``prunedeploy.reference.fitting``).
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    range: InputRange | None = None
    sample: InputSample = InputSample()


@dataclass(frozen=True)
class Note:
    """A remark of a pass on one node, layer or value: what it did there, or why it refused.

    ``code`` is what programs read, ``reason`` the same for people. ``count`` is how many channels,
    nodes or weights the note concerns, whichever the pass counts, and ``of`` of how many, 0 where
    that says nothing. ``figures`` are the numbers in the reason, with their unit in the name.
    """

    code: NoteCode = field(metadata=earlier("unclassified"))
    where: str
    status: Literal["taken", "refused", "info"]
    reason: str
    count: int = 0
    of: int = 0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reason:
    """The reason of a refusal: the code for programs, the text for people."""

    code: NoteCode
    text: str


@dataclass(frozen=True)
class PassResult:
    """The result of one run of a pass; ``changed`` is False when the graph is as it was."""

    changed: bool
    notes: tuple[Note, ...] = ()


FLOAT32_TOLERANCE = 1e-5  # the tolerance of float32, which prunedeploy.reference.verify justifies


@dataclass(frozen=True)
class Difference:
    """The difference of a candidate's outputs from the reference's, over ``samples`` inputs.

    ``max_rel`` is relative to the range of the reference's output (see
    ``prunedeploy.reference.verify``, which also holds the tolerances and their justification).
    Where outputs may differ by different amounts, ``tolerances`` has them all, and ``max_rel`` is
    that of the output ``where`` that took most of what it may, ``tolerance`` what that is.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    samples: int
    where: str = ""
    changed_predictions: int = 0
    tolerances: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when the candidate computes what the reference computes."""
        return self.max_rel <= self.tolerance  # False for NaN, as it must be

    @property
    def verdict(self) -> str:
        """What it means: outputs are called the same where float32's rounding is all that any may
        differ by."""
        if not self.passed:
            return "NOT the same outputs"
        widest = max(self.tolerance, *self.tolerances.values(), 0.0)
        return "same outputs" if widest <= FLOAT32_TOLERANCE else "within the tolerance"

    @property
    def share(self) -> float:
        """The share of the tolerance that the difference takes, 1 for all of it."""
        if not self.tolerance:
            return float("inf") if self.max_rel else 0.0
        return self.max_rel / self.tolerance


@dataclass(frozen=True)
class CrossCheck:
    """The agreement of a second oracle with the reference interpreter about a model.

    ``oracle`` names it, with its version, where it agrees, ``difference`` is then the largest, in
    parts of an output's range; empty where it could not be asked, for ``reason``. Where the two
    disagree there is no record: nothing is written.
    """

    model: str
    oracle: str
    reason: str = ""
    difference: float = 0.0


@dataclass(frozen=True)
class ModelStats:
    """Size of a model: stored weights, those that are not zero, multiply-accumulates, bytes.

    ``macs`` are those of Conv, ConvTranspose, Gemm and MatMul for one sample, zeros included.
    """

    parameters: int
    nonzero: int
    macs: int
    file_bytes: int


@dataclass(frozen=True)
class RuntimeTime:
    """Seconds of a run of ``batch`` inputs in one runtime, on ``threads`` threads: the median of a
    measurement, or a prediction.
    """

    runtime: str
    batch: int
    threads: int
    seconds: float


@dataclass(frozen=True)
class RefusedRuntime:
    """A runtime that was not chosen because it has no engine of the model, and why."""

    runtime: str
    reason: str


@dataclass(frozen=True)
class RuntimeChoice:
    """The choice of an engine's runtime, where the user named none.

    ``times`` are of every runtime that can compute the model; empty where only one can. Of an
    engine for several sizes they are sums over its ``sizes``.
    """

    kind: Literal["measured", "predicted"]
    runtime: str
    times: tuple[RuntimeTime, ...]
    refused: tuple[RefusedRuntime, ...] = ()
    sizes: int = 1


@dataclass(frozen=True)
class EngineSize:
    """One of several sizes that an engine was built for.

    ``folder``, in the engine's, is an engine of its own, for inputs of ``shapes``, by their names;
    its name says the size, as in ``1x128``.
    """

    folder: str
    shapes: dict[str, tuple[Dim, ...]]


@dataclass(frozen=True)
class Manifest:
    """The record beside every engine: what it is, what it was made from, and with what.

    ``files`` maps each file of the engine to its sha256; ``versions`` each library that took
    part to its version. ``model_sha256`` is the model the engine was built from, ``baseline``
    the dense model it is to be compared with (a path, relative to the engine where possible).
    ``batches`` are the batch sizes it was built for, empty where it takes any, ``threads`` how many
    it was cut for; ``arch`` and ``isa`` are what compiled code in it needs. ``choice`` is how its
    runtime was chosen, None where it was named. ``found`` is what was put right in the model before
    it was built. ``sizes`` are those that it was built for, each with an engine of its own; empty
    for an engine of one size. ``format_version`` is ``MANIFEST_FORMAT`` of the version that wrote
    it.
    """

    runtime: str
    target: str
    files: dict[str, str]
    model_sha256: str
    baseline: str | None
    baseline_sha256: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: dict[str, str]
    difference: Difference | None  # None: never compared, so never to be timed
    batches: tuple[int, ...] = ()
    threads: int = 0
    arch: str = ""
    isa: str = ""
    choice: RuntimeChoice | None = None
    found: tuple[str, ...] = ()
    cross_check: CrossCheck | None = None  # of the reference that ``difference`` is from
    sizes: tuple[EngineSize, ...] = ()
    format_version: int = field(default=MANIFEST_FORMAT, metadata=earlier(1))


@dataclass(frozen=True)
class Engine:
    """A directory with a manifest and a runtime's payload: the unit that is deployed."""

    path: Path
    manifest: Manifest
    sha256: str  # of the manifest, and through it of every file

    def _repr_html_(self) -> str:
        known, checked = self.manifest, self.manifest.difference
        rows = [
            ("runtime", known.runtime),
            ("target", known.target),
            ("batches", ", ".join(map(str, known.batches)) or "any"),
            *(("size", size.folder) for size in known.sizes),
            *(("input", f"{x.name}: {x.dtype} {list(x.shape)}") for x in known.inputs),
            *(("output", f"{x.name}: {x.dtype} {list(x.shape)}") for x in known.outputs),
            ("difference", f"{checked.max_rel:.2g}" if checked else "never compared"),
        ]
        return html.table(str(self.path), ("", ""), rows)


@dataclass(frozen=True)
class PassReport:
    """One pass of a pipeline run: its result, how long it took, and the numbers after it."""

    name: str
    result: PassResult
    seconds: float
    difference: Difference | None  # against the model before the pass; None when unchanged


@dataclass(frozen=True)
class Ratio:
    """The speed relative to the baseline, with a 95 % interval (1.0 is equal)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ShrinkVariant:
    """One of the variants of a network that shrink compared: all compute the same.

    ``kind`` is "original" for the network as it came, "uncut" where no channel is cut. Of a "cut"
    one ``align`` is the multiple of output channels that dead ones were kept for (1 for none),
    ``kept`` how many, ``borders`` what took over constants under zero padding, and ``scattered``
    says whether branches of constant rows were computed narrow. ``speed`` is relative to the
    original, measured in ONNX Runtime on one thread; else ``cost`` is, by a model of the target.
    """

    kind: Literal["original", "uncut", "cut"]
    align: int = 1
    borders: str = ""
    kept: int = 0
    scattered: bool = False
    parameters: int = 0
    speed: Ratio | None = None
    cost: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class NextStep:
    """The command to go on with, and what it should bring on ``target``: predicted, not measured.

    ``low`` and ``high`` are the speed of ``runtime`` relative to ONNX Runtime on the dense network.
    They are equal where layers were looked at one by one, which also gives ``seconds`` of a run on
    ``threads`` threads; else they are estimated from the ``share`` of multiply-accumulates (of
    weights, where those are not known) that is left. Without a runtime there is no prediction, and
    ``why`` may say why not.
    """

    command: str
    target: str
    runtime: str = ""
    threads: int = 0
    seconds: float = 0.0
    low: float = 0.0
    high: float = 0.0
    share: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class ShrinkResult:
    """The result of ``prunedeploy.shrink``. ``dense`` is the exported model before the passes.

    ``mean`` and ``std`` are how pixels in [0, 1] are normalised before they reach the network,
    where its recipe says; 0 and 1 for one that brings its own normalisation. Where
    ``input_ranges`` names an input, the two models are the same within that range only. ``align``
    is the multiple of channels that dead ones were kept for, 1 for none; ``variants`` are those
    that it was chosen among, empty where it was given. ``unvarying`` names the outputs that are the
    same for every input, because the network was pruned too far.
    """

    source: Path
    model: Path
    dense: Path
    model_sha256: str
    dense_sha256: str
    arch: str | None
    found: tuple[str, ...]  # what the checkpoint held: wrappers, masks, prefixes, dtype
    before: ModelStats
    after: ModelStats
    difference: Difference  # the shrunk model against the dense one
    passes: tuple[PassReport, ...]
    seconds: float
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_ranges: dict[str, InputRange] = field(default_factory=dict)
    align: int = 1
    variants: tuple[ShrinkVariant, ...] = ()
    next_step: NextStep | None = None  # by the command line
    pt: Path | None = None  # the torch.export program, where one was asked for
    state_dict: Path | None = None  # the sliced state_dict with its plan, likewise
    cross_checks: tuple[CrossCheck, ...] = ()  # of the reference, before the passes and after them
    unvarying: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [
            (what, f"{before:,}", f"{after:,}", f"{before / after:.2f}x" if after else "-")
            for what, before, after in (
                ("parameters", self.before.parameters, self.after.parameters),
                ("non-zeros", self.before.nonzero, self.after.nonzero),
                ("MACs, one sample", self.before.macs, self.after.macs),
                ("bytes", self.before.file_bytes, self.after.file_bytes),
            )
        ]
        note = f"largest difference {self.difference.max_rel:.2g} of the output range, "
        note += f"{self.difference.tolerance:.2g} is allowed"
        return html.table(str(self.model), ("", "before", "after", "ratio"), rows, note)
