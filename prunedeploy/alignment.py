"""Which dead channels to keep, and what to do with constants under padding: what is fastest.

For this machine the ways are measured, in turn as ``bench`` measures, and one that keeps more than
the smallest is taken only if its 95 % interval says that it is faster. For another machine a small
model of cost decides: multiply-accumulates with both channel counts rounded up to the target's
multiple, since engines compute in such blocks; every element that a map adds costs ``ADDED``.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from prunedeploy import artifact, targets
from prunedeploy import model as models
from prunedeploy.bench import interleave
from prunedeploy.files import sha256
from prunedeploy.passes import ShrinkChannels
from prunedeploy.passes.shrink.align import reason
from prunedeploy.passes.shrink.layers import layer
from prunedeploy.passes.shrink.settings import Borders
from prunedeploy.statistics import ratio
from prunedeploy.targets import Target
from prunedeploy.types import Array, Note, PassResult, Ratio

ROUNDS, WARMUP = 60, 5
ADDED = 16.0  # multiply-accumulates in the time that one element is loaded, added and stored

INTO: dict[Borders, str] = {"map": "as a map", "channel": "in one channel"}


@dataclass(frozen=True)
class Way:
    """One way to shrink, what it led to, and its file."""

    align: int
    borders: Borders
    file: Path
    parameters: int
    kept: int  # dead channels that stay for the sake of the multiple
    model: ir.Model


def choose(
    program: ir.Model,
    target: Target,
    feeds: Mapping[str, Array],
    zero_threshold: float,
    say: Callable[[str], None],
) -> tuple[ShrinkChannels, PassResult]:
    """The pass to run on ``program``, and what speaks for it as a result of notes alone.

    Args:
        program: ready for ShrinkChannels; it is not changed.
        target: the machine that engines will run on.
        feeds: inputs to measure with.
        zero_threshold: of the pass.
        say: told what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        ways = _ways(program, target.multiple, zero_threshold, Path(folder))
        if len(ways) == 1:
            chosen, note = ways[0], "no dead channel whose keeping could pay"
        elif targets.why_not_here(target) is None and _has_ort():
            say(f"measuring {len(ways)} ways to align channels")
            chosen, note = decide(ways, _measured(ways, feeds))
        else:
            chosen, note = _modelled(ways, target)
    align = ShrinkChannels(zero_threshold, chosen.align, chosen.borders)
    return align, PassResult(False, (Note(target.name, "info", note, 0),))


def _has_ort() -> bool:
    return importlib.util.find_spec("onnxruntime") is not None


def _ways(program: ir.Model, multiple: int, zero_threshold: float, folder: Path) -> list[Way]:
    """Those that lead to different models, the fewest parameters first; of equals the map."""
    found: dict[str, Way] = {}
    for borders in INTO:
        for align in dict.fromkeys((1, multiple)):
            model = program.clone()
            result = ShrinkChannels(zero_threshold, align, borders)(model)
            models.infer_shapes(model)
            file = folder / f"{borders}{align}.onnx"
            models.save(model, file)
            why = reason(align)
            kept = sum(note.count for note in result.notes if note.reason == why)
            parameters = models.stats(file).parameters
            way = Way(align, borders, file, parameters, kept, model)
            found.setdefault(sha256(file), way)
    return sorted(found.values(), key=lambda way: way.parameters)


def _measured(ways: list[Way], feeds: Mapping[str, Array]) -> list[Ratio]:
    """How many times faster than the first each of the others is, on this machine."""
    with ExitStack() as stack:
        engines = [
            artifact.build(way.file, "host", "ort", way.file.with_suffix(".engine")) for way in ways
        ]
        threads = targets.cores()
        sessions = [
            stack.enter_context(artifact.open(engine, threads, shared=True)) for engine in engines
        ]
        samples = interleave(sessions, feeds, ROUNDS, WARMUP)
    return [ratio(samples[0], times) for times in samples[1:]]


def decide(ways: list[Way], ratios: list[Ratio]) -> tuple[Way, str]:
    """The fastest of the ways that are certainly faster than the first; else the first.

    ``ratios`` are those of the others to the first, which has the fewest parameters.
    """
    pairs = list(zip(ratios, ways[1:], strict=True))
    faster = [pair for pair in pairs if pair[0].low > 1]
    found, way = max(faster or pairs, key=lambda pair: pair[0].value)
    how = f"{_words(way, ways)} is {found.value:.2f} times "
    interval = f"({found.low:.2f} to {found.high:.2f}, measured)"
    if faster:
        return way, f"{way.kept} dead channels kept: {how}faster {interval}"
    return ways[0], f"{_words(ways[0], ways).rstrip(',')}: {how}as fast {interval}"


def _words(way: Way, ways: list[Way]) -> str:
    """What is particular about it among ``ways``."""
    up = f"rounding up to {way.align}" if way.align > 1 else "keeping no dead channel"
    choice = len({other.borders for other in ways}) > 1
    return f"{up}, constants under zero padding {INTO[way.borders]}," if choice else up


def _modelled(ways: list[Way], target: Target) -> tuple[Way, str]:
    """The cheapest way by the model of cost; of equals the smallest."""
    costs = [cost(way.model, target.multiple) for way in ways]
    best = min(range(len(ways)), key=lambda i: costs[i])
    others = "; ".join(
        f"{_words(way, ways)} costs {costs[i] / costs[best]:.2f} times as much"
        for i, way in enumerate(ways)
        if i != best
    )
    way = ways[best]
    return way, (
        f"{way.kept} dead channels kept: {_words(way, ways)} is cheapest in blocks of "
        f"{target.multiple} channels; {others} (modelled, not measured)"
    )


def cost(model: ir.Model, multiple: int) -> float:
    """Multiply-accumulates of one sample, channels rounded up, and ``ADDED`` for each addition."""
    total = 0.0
    for node in model.graph:
        found = layer(node)
        if found is not None and (macs := models.node_macs(node)):
            rows, width = found.rows().shape[:2]
            up = multiple if found.groups == 1 else 1
            total += macs * _padded(rows, multiple) * _padded(width, up)
        elif node.op_type == "Add" and node.outputs[0].shape is not None:
            sizes = [d for d in list(node.outputs[0].shape)[1:] if isinstance(d, int)]
            total += ADDED * math.prod(sizes)
    return total


def _padded(count: int, multiple: int) -> float:
    """How many times as many there are once they fill whole blocks."""
    return -(-count // multiple) * multiple / max(count, 1)
