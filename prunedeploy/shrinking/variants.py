"""Which variant of a shrunk network is the fastest: how many dead channels to keep, and the like.

Fewer channels are not always faster. Stock runtimes compute channels in blocks, and leave their
blocked kernels where a layer has an odd number of them; constants that meet zero padding become a
table that is added, or one more channel; rows of constants can be gathered instead of computed.
All these variants are the same network. For this machine they are measured in ONNX Runtime, on one
thread, in turn with the network as it came (``prunedeploy.runtimes.timing``); for another machine a
model of cost decides (``variant_cost``). The network as it came is one of the variants, so what is
taken is never slower than that.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256
from prunedeploy.core.records import Array, Note, ShrinkVariant
from prunedeploy.core.statistics import ratio
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.passes import FoldConstants, Pass, ScatterBranches, ShrinkChannels
from prunedeploy.passes.analysis.settings import Borders
from prunedeploy.runtimes.timing import interleave
from prunedeploy.shrinking.variant_cost import READ_IN, cost
from prunedeploy.targets import Target

STEP = "choose-variant"  # the name of the choice among the reports of passes
ROUNDS, WARMUP = 60, 3
SECONDS = 2.5  # that one comparison takes at most, beside warming up and three rounds
QUIET = 20  # percentile of the times that decides: other programs make runs longer, never shorter
MEASURED = 6  # variants beside the original that are measured: the best by the model of cost
SAME = 1.02  # times the time of the fastest: variants within that count as equally fast
GROWN = 1.01  # times the size of another: up to that two models count as equally large
LARGE = 2**28  # bytes of weights; of larger models fewer variants are made

Kind = Literal["original", "uncut", "cut"]
ORDER: tuple[Kind, ...] = ("cut", "uncut", "original")


@dataclass(frozen=True)
class Choice:
    """The variant of a network that was chosen.

    ``steps`` are the passes that cut, in order, ``align`` the multiple of channels that dead ones
    are kept for. ``original`` says that the network should stay as it came, because every other
    variant is slower. ``variants`` are all that were compared.
    """

    steps: tuple[Pass, ...]
    align: int
    original: bool
    variants: tuple[ShrinkVariant, ...]


@dataclass(frozen=True)
class _Candidate:
    """A variant with its model, the passes that lead to it, its file, and how long it takes.

    ``time`` is in nanoseconds where it was measured, else in units of the model of cost.
    """

    variant: ShrinkVariant
    model: ir.Model
    steps: tuple[Pass, ...]
    file: Path
    time: float = 0.0


@dataclass(frozen=True)
class Judge:
    """Compares variants of one network for one machine.

    ``feeds`` are inputs to measure with, for a batch of one; ``progress`` is called at each step.
    """

    target: Target
    feeds: Mapping[str, Array]
    progress: Callable[[str], None]

    @property
    def measures(self) -> bool:
        """True where the target is this machine, and ONNX Runtime is installed."""
        installed = importlib.util.find_spec("onnxruntime") is not None
        return installed and targets.why_not_here(self.target) is None

    def choose(self, original: ir.Model, prepared: ir.Model, zero_threshold: float) -> Choice:
        """The variant to take; the models are not changed.

        Args:
            original: the network as it came.
            prepared: the same after the passes that run before channels are cut.
            zero_threshold: up to what size weights count as zero.
        """
        with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
            folder = Path(name)
            first = _candidate("original", original, (), folder)
            others = [_candidate("uncut", prepared, (), folder)]
            others += _cuts(prepared, self.target, zero_threshold, folder)
            compared = self._compared([first, *self._few(first, others)])
            best = _best(compared)
            if best.variant.kind == "original" and len(compared) > 1:
                # it gives up what the passes did: not for one measurement that went wrong
                other = _best(compared[1:])
                best = _best(self._compared([first, other]))
            if best.steps and (gathered := self._gathered(best, zero_threshold, folder)):
                again = self._compared([first, best, gathered])
                compared = [*(x for x in compared if x.file not in (first.file, best.file)), *again]
                best = _best(again)
        return Choice(
            steps=best.steps,
            align=max(best.variant.align, 1),
            original=best.variant.kind == "original",
            variants=tuple(replace(x.variant, chosen=x.file == best.file) for x in compared),
        )

    def folds_larger(self, model: ir.Model) -> bool:
        """True where folding constants pays although ``model`` grows by it."""
        folded = model.clone()
        FoldConstants()(folded)
        if models.weight_bytes(folded) <= GROWN * models.weight_bytes(model):
            return True
        self.progress("comparing the network with constants folded and not")
        small = model.clone()
        FoldConstants(larger=False)(small)
        with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
            pair = [_candidate("uncut", each, (), Path(folder)) for each in (small, folded)]
            return _best(self._compared(pair)).file == pair[1].file

    def _few(self, first: _Candidate, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """The candidates that differ; where they are measured, the cheapest ones by the model."""
        known = {sha256(first.file)}
        different = []
        for each in candidates:
            digest = sha256(each.file)
            if digest not in known:
                known.add(digest)
                different.append(each)
        if not self.measures:
            return different
        costs = {id(each): cost(each.model, self.target) for each in different}
        ranked = sorted(different, key=lambda x: (costs[id(x)], x.variant.parameters))
        return ranked[:MEASURED]

    def _gathered(self, best: _Candidate, zero_threshold: float, folder: Path) -> _Candidate | None:
        """``best`` with branches computed narrow and scattered; None where there are none."""
        step = ScatterBranches(self.target.name, zero_threshold)
        model = best.model.clone()
        if not step(model).changed:
            return None
        candidate = _candidate("cut", model, (*best.steps, step), folder, best.variant)
        return replace(candidate, variant=replace(candidate.variant, scattered=True))

    def _compared(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """The candidates with their speeds relative to the first one, or their costs."""
        if len(candidates) > 1 and self.measures:
            self.progress(f"measuring {len(candidates)} variants of the network")
            try:
                return _measured(candidates, self.feeds)
            except UserError:  # a network that the runtime does not take
                pass
        costs = [cost(each.model, self.target) for each in candidates]
        return [
            replace(each, variant=replace(each.variant, cost=own / (costs[0] or 1.0)), time=own)
            for each, own in zip(candidates, costs, strict=True)
        ]


def note(target: Target, choice: Choice) -> Note:
    """A note on the choice, and on the variant that keeps no dead channel."""
    best = next(each for each in choice.variants if each.chosen)
    plain = next(
        (x for x in choice.variants if x.kind == "cut" and x.align == 1 and not x.chosen), None
    )
    text = f"{_what(best)}: {_pace(best)}"
    if best.kind == "original" and plain is not None:
        text = f"{_what(best)}: {_what(plain)} would be {_pace(plain)}"
    elif plain is not None:
        text = f"{text}; {_what(plain)} {_pace(plain)}"
    how = "measured in ONNX Runtime on one thread"
    if best.speed is None:
        how = f"by a model of cost for {target.name}"
    return Note("variant-chosen", target.name, "info", f"{text} ({how})", best.kept)


def _what(variant: ShrinkVariant) -> str:
    if variant.kind == "original":
        return "the network stays as it came"
    if variant.kind == "uncut":
        return "no channel is cut"
    kept = f"{variant.kept:,} dead channels kept, for multiples of {variant.align}"
    return kept if variant.kept else "no dead channel kept"


def _pace(variant: ShrinkVariant) -> str:
    if variant.speed is not None:
        speed = variant.speed
        return f"{speed.value:.2f}x the speed of the original ({speed.low:.2f} to {speed.high:.2f})"
    return f"{variant.cost:.2f} of the original's cost" if variant.cost else "alone"


def _candidate(
    kind: Kind,
    model: ir.Model,
    steps: tuple[Pass, ...],
    folder: Path,
    like: ShrinkVariant | None = None,
) -> _Candidate:
    """A variant in a file of its own."""
    model = model.clone()  # it shares the weights
    shapes.infer_shapes(model)
    file = folder / f"{sum(1 for _ in folder.iterdir())}.onnx"
    models.save(model, file)
    base = like or ShrinkVariant(kind)
    variant = replace(base, parameters=models.stats(file).parameters)
    return _Candidate(variant, model, steps, file)


def _cuts(
    prepared: ir.Model, target: Target, zero_threshold: float, folder: Path
) -> Iterator[_Candidate]:
    """Channels cut, with dead ones kept for several multiples, constants in a map or a channel."""
    multiples = dict.fromkeys((1, READ_IN, target.multiple // 2, target.multiple))
    aligns = [each for each in multiples if each == 1 or READ_IN <= each <= target.multiple]
    borders: tuple[Borders, ...] = ("map", "channel")
    if models.weight_bytes(prepared) > LARGE:
        aligns, borders = aligns[:2], borders[:1]
    for border in borders:
        for align in aligns:
            step = ShrinkChannels(zero_threshold, align, border)
            model = prepared.clone()
            result = step(model)
            kept = sum(note.count for note in result.notes if note.code == "aligned-channels")
            like = ShrinkVariant("cut", align=align, borders=border, kept=kept)
            yield _candidate("cut", model, (step,), folder, like)


def _measured(candidates: Sequence[_Candidate], feeds: Mapping[str, Array]) -> list[_Candidate]:
    """The candidates with their times and their speeds relative to the first one, measured in ONNX
    Runtime on one thread.

    Raises:
        UserError: the runtime cannot open one of them, or not run it on ``feeds``.
    """
    from prunedeploy.runtimes.api import OpenOptions
    from prunedeploy.runtimes.ort.cpu import OrtSession

    with ExitStack() as stack:
        sessions = []
        for each in candidates:
            specs = models.specs(each.model)
            session = OrtSession(each.file, *specs, OpenOptions(threads=1, shared=True))
            sessions.append(stack.enter_context(session))
        samples = interleave(sessions, feeds, ROUNDS, WARMUP, seconds=SECONDS)
    return [
        replace(
            each,
            variant=replace(each.variant, speed=ratio(samples[0], times)),
            time=float(np.percentile(times, QUIET)),
        )
        for each, times in zip(candidates, samples, strict=True)
    ]


def _best(compared: Sequence[_Candidate]) -> _Candidate:
    """The smallest candidate among the fastest ones; a cut one among equally small ones."""
    fastest = min(each.time for each in compared)
    equal = [each for each in compared if each.time <= SAME * fastest]
    fewest = min(each.variant.parameters for each in equal)
    small = [each for each in equal if each.variant.parameters <= GROWN * fewest]
    return min(small, key=lambda x: (ORDER.index(x.variant.kind), x.variant.parameters))
