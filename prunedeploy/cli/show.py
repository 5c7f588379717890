"""How results look: tables for people, one JSON document for machines."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from prunedeploy.cli.show_next import choice, next_step
from prunedeploy.cli.tables import count, ratio, share, size, table
from prunedeploy.core.records import (
    BenchResult,
    CrossCheck,
    Difference,
    Engine,
    Note,
    PassReport,
    Profile,
    ShrinkResult,
)
from prunedeploy.graph.input_range import claim
from prunedeploy.prediction import text as forecasts

if TYPE_CHECKING:
    from prunedeploy.cli.arrays import RunResult
    from prunedeploy.engines.self_check import Check
    from prunedeploy.graph.layers import Layer
    from prunedeploy.inspection.block_report import LayerBlocks
    from prunedeploy.inspection.inspect import Inspection
    from prunedeploy.targets import Target

T = TypeVar("T")

_TOP_REASONS = 5  # of each kind, shown without --verbose
_SOME_OF = re.compile(r"^\d+ of \d+ ")


def result(value: T, human: Callable[[T], None], as_json: bool) -> None:
    """Print ``value``: with ``human``, or as one JSON document."""
    if not as_json:
        human(value)
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: Any = {"type": type(value).__name__, **dataclasses.asdict(value)}
    else:
        plain = value
    print(json.dumps(plain, indent=1, default=str))


# -- inspect -------------------------------------------------------------------------------------


def inspection(found: Inspection) -> None:
    """Layers, totals, outlook. BatchNorm scales are listed where one of them is zero."""
    from prunedeploy.graph.layers import is_normalisation

    arch = f", {found.arch}" if found.arch else ""
    print(f"{found.source}: {found.kind}{arch}")
    for line in found.found:
        print(f"  {line}")
    layers = [x for x in found.layers if not is_normalisation(x) or x.pattern.dead_outputs]
    headers = (
        "layer",
        "op",
        "shape",
        "density",
        "dead out",
        "dead in",
        "2:4",
        "in blocks",
        "largest",
    )
    print()
    table(headers, map(_layer_row, layers), left=frozenset({0, 1, 2}))
    print()
    _totals(found)
    print()
    table(
        ("for", "what the zeros are worth (from counts, not measured)"),
        ((x.engine, x.gain) for x in found.outlook),
        left=frozenset({0, 1}),
    )
    if found.blocks:
        print()
        _blocks(found.blocks)
    if found.hints:
        print()
        print(
            f"constant on these {found.hints[0].samples:,} samples, though not proved for others:"
        )
        for hint in found.hints:
            print(f"  {len(hint.channels)} of {hint.of} channels that {hint.reader} reads")
    next_step(found.next_step)


def _blocks(found: Sequence[LayerBlocks]) -> None:
    from prunedeploy.inspection.block_report import outlook

    headers = (
        "layer",
        "matrix",
        "blocks",
        "of non-zeros",
        "fill",
        "faster with blocks (predicted)",
    )
    rows = (
        (
            each.name,
            f"{each.rows}x{each.columns}",
            str(each.blocks),
            f"{each.share:.1%}",
            f"{each.fill:.1%}" if each.blocks else "",
            "" if each.gain is None else f"{each.gain:.2f}x",
        )
        for each in found
    )
    table(headers, rows, left=frozenset({0, 1}))
    if text := outlook(found):
        print()
        print(text)


def _layer_row(layer: Layer) -> tuple[str, ...]:
    p = layer.pattern
    return (
        layer.name,
        layer.op,
        "x".join(map(str, layer.shape)) + (f"/{layer.groups}" if layer.groups > 1 else ""),
        share(p.density),
        f"{p.dead_outputs}/{p.outputs}",
        f"{p.dead_inputs}/{p.inputs}",
        share(p.two_four),
        share(p.block_share) if p.blocks else "-",
        "x".join(map(str, p.largest_block)) if p.blocks else "-",
    )


def _totals(found: Inspection) -> None:
    t = found.totals
    rows = [
        ("parameters", count(t.parameters)),
        ("weights of the layers", count(t.weights)),
        ("non-zero weights", f"{count(t.nonzero)} ({share(t.density)})"),
        ("dead output channels", f"{count(t.dead_outputs)} of {count(t.outputs)}"),
        ("dead input channels", f"{count(t.dead_inputs)} of {count(t.inputs)}"),
        ("zero BatchNorm scales", count(t.dead_scales)),
    ]
    if t.macs is not None:
        rows.append(("MACs, one sample", count(t.macs)))
        rows.append(("MACs of non-zero weights", count(t.nonzero_macs)))
    if t.tiny:
        bound = f"smaller than {found.zero_below:.3g}, counted as zero"
        rows.append(("denormal weights", f"{count(t.tiny)} ({bound})"))
    if t.nonfinite:
        rows.append(("NaN or infinite weights", count(t.nonfinite)))
    table(("total", ""), rows, left=frozenset({0, 1}))


# -- shrink --------------------------------------------------------------------------------------


def shrinking(done: ShrinkResult, verbose: bool) -> None:
    """Before and after, the difference, what was found, what each pass took and refused."""
    arch = f" ({done.arch})" if done.arch else ""
    print(f"{done.source}{arch} -> {done.model} in {done.seconds:.1f} s")
    for line in done.found:
        print(f"  {line}")
    for what, path in (("torch program", done.pt), ("state_dict and plan", done.state_dict)):
        if path is not None:
            print(f"  {what} -> {path}")
    before, after = done.before, done.after
    rows = [
        _change("parameters", before.parameters, after.parameters),
        _change("non-zeros", before.nonzero, after.nonzero),
        _change("MACs, one sample", before.macs, after.macs),
        (
            "file",
            size(before.file_bytes),
            size(after.file_bytes),
            ratio(before.file_bytes, after.file_bytes),
        ),
    ]
    print()
    table(("", "before", "after", "ratio"), rows)
    print()
    print(f"largest difference from {done.dense}: {difference(done.difference)}")
    print(f"the reference {cross_checks(done.cross_checks)}")
    if done.input_ranges:
        print(f"the same network {claim(done.input_ranges)}")
    print()
    rows = [(x.name, _outcome(x), f"{x.seconds:.2f} s") for x in done.passes]
    table(("pass", "", "time"), rows, left=frozenset({0, 1}))
    for status, title in (("taken", "taken"), ("refused", "refused"), ("info", "notes")):
        _notes(
            title, [n for x in done.passes for n in x.result.notes if n.status == status], verbose
        )
    next_step(done.next_step)


def _outcome(report: PassReport) -> str:
    if report.name == "choose-variant":
        return "compared"
    return "changed" if report.result.changed else "nothing to do"


def _change(what: str, before: int, after: int) -> tuple[str, ...]:
    return what, count(before), count(after), ratio(before, after)


def difference(found: Difference) -> str:
    """The relative difference beside its tolerance, and what that means."""
    verdict = "same outputs" if found.passed else "NOT the same outputs"
    where = f", at {found.where}" if found.where else ""
    return (
        f"{found.max_rel:.2g} of the output range (tolerance {found.tolerance:.2g}, "
        f"{found.samples} inputs{where}): {verdict}"
    )


def cross_checks(found: Sequence[CrossCheck]) -> str:
    """Whether a second oracle agrees with what was compared with."""
    alone = [each for each in found if not each.oracle]
    if not found or alone:
        reason = f" ({alone[0].model}: {alone[0].reason})" if alone else ""
        return f"was not held against ONNX Runtime{reason}"
    return f"agrees with {found[0].oracle}, within {max(x.difference for x in found):.2g}"


def _notes(title: str, notes: list[Note], verbose: bool) -> None:
    """The reasons with the most channels; every single place with ``verbose``."""
    if not notes:
        return
    print()
    print(f"{title}:")
    if verbose:
        for note in notes:
            print(f"  {note.where}: {note.reason}" + (f" ({note.count:,})" if note.count else ""))
        return
    reasons = _by_reason(notes)
    for reason in reasons[:_TOP_REASONS]:
        print(f"  {reason}")
    if len(reasons) > _TOP_REASONS:
        print(f"  and {len(reasons) - _TOP_REASONS} more: see --verbose")


def _by_reason(notes: Iterable[Note]) -> list[str]:
    """Every reason once, with the sum of its counts and the number of places, most first."""
    counts: dict[str, list[int]] = defaultdict(list)
    for note in notes:
        # "21 of 64 output channels" here and "5 of 16 output channels" there are one reason
        counts[_SOME_OF.sub("", note.reason)].append(note.count)
    ordered = sorted(counts.items(), key=lambda item: (-sum(item[1]), -len(item[1]), item[0]))
    return [f"{reason} ({_how_many(sum(of), len(of))})" for reason, of in ordered]


def _how_many(total: int, places: int) -> str:
    where = f"{places} place{'s' if places > 1 else ''}"
    return f"{total:,} in {where}" if total else where


# -- build, bench, run, targets --------------------------------------------------------------------


def engine(built: Engine) -> None:
    """Where the engine is, what is in it, and whether it computes what its model computes."""
    manifest = built.manifest
    print(f"{built.path}: {manifest.runtime} engine for {manifest.target}")
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    print(f"  made with {versions}")
    for line in manifest.found:
        print(f"  {line}")
    for spec in manifest.inputs:
        print(f"  takes {spec.name}: {spec.dtype} {_shape(spec.shape)}")
    for spec in manifest.outputs:
        print(f"  gives {spec.name}: {spec.dtype} {_shape(spec.shape)}")
    if manifest.batches:
        sizes = ", ".join(map(str, manifest.batches))
        print(f"  for batches of {sizes}, {manifest.threads} threads, {manifest.isa}")
    if manifest.difference is None:
        print("  never compared with its model, so never to be timed")
    else:
        print(f"  largest difference from its model: {difference(manifest.difference)}")
        found = () if manifest.cross_check is None else (manifest.cross_check,)
        print(f"  the reference {cross_checks(found)}")
    choice(manifest.choice)
    if manifest.baseline is not None and manifest.difference is not None:
        print()
        print(f"next: prunedeploy bench {shlex.quote(str(built.path))} -o result.json")


def project(found: dict[str, str]) -> None:
    """Where the C project is, and what to do with it."""
    print(f"{found['path']}: C sources; build them with: make -C {found['path']}")


def _shape(dims: Iterable[int | str]) -> str:
    return " x ".join(map(str, dims))


def benchmark(done: BenchResult) -> None:
    """The baseline and every candidate, a line each."""
    import numpy as np

    rows = []
    for i, m in enumerate((done.baseline, *done.candidates)):
        p50, p90, p99 = np.percentile(np.array(m.samples_ns) / 1e6, (50, 90, 99))
        gain = done.ratios[i - 1] if i else None
        right = f"{m.accuracy.correct / m.accuracy.samples:.2%}" if m.accuracy else "-"
        changed = count(m.accuracy.changed_predictions) if m.accuracy else "-"
        rows.append(
            (
                m.name if i else f"{m.name} (baseline)",
                f"{m.runtime}/{m.provider}",
                *(f"{ms:.3f}" for ms in (p50, p90, p99)),
                f"{1e9 * m.batch * len(m.samples_ns) / sum(m.samples_ns):,.1f}",
                f"{gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}]" if gain else "1",
                size(m.peak_memory_bytes),
                f"{m.difference.max_rel:.1e}",
                right,
                changed,
            )
        )
    headers = ("engine", "runs on", "p50 ms", "p90 ms", "p99 ms", "inputs/s", "faster [95 %]")
    table(
        (*headers, "peak memory", "difference", "accuracy", "changed"),
        rows,
        left=frozenset({0, 1}),
    )
    base = done.baseline
    print()
    print(
        f"{done.kind}: batch {base.batch}, threads {base.threads or 'left to the runtime'}, "
        f"{len(base.samples_ns)} runs of each in turn"
    )
    for forecast, m in zip(done.predicted, (base, *done.candidates), strict=False):
        if forecast is not None:
            p50 = float(np.median(m.samples_ns)) / 1e6
            off = forecasts.error(forecast, p50)
            print(f"{m.name}: {forecasts.line(forecast)}, {off} of the measured p50")
    for found in done.profiles:
        _profile(found)


def _profile(found: Profile) -> None:
    """A line a step: its time and its share of all, and what it computes in it."""
    total = sum(step.seconds for step in found.steps)
    rows = [
        (
            step.name,
            step.choice or step.kind,
            f"{1e3 * step.seconds:.3f}",
            share(step.seconds / total) if total else "-",
            f"{1e-9 * step.flops / step.seconds:.1f}" if step.flops and step.seconds else "-",
            f"{1e-9 * step.bytes / step.seconds:.1f}" if step.seconds else "-",
            share(step.nonzeros / step.weights) if step.weights else "-",
        )
        for step in found.steps
    ]
    print()
    table(
        ("step", "computed as", "ms", "share", "GFLOP/s", "GB/s", "non-zero"),
        rows,
        left=frozenset({0, 1}),
    )
    print()
    print(
        f"{found.name}: batch {found.batch}, threads {found.threads}, "
        f"{1e3 * total:.3f} ms in {len(found.steps)} steps, medians of {found.rounds} runs; "
        "GFLOP/s are of weights that are not zero"
    )


def run_outputs(done: RunResult) -> None:
    """What was written where."""
    for spec in done.outputs:
        print(f"{done.output}: {spec.name} {spec.dtype} {_shape(spec.shape)}")


@dataclasses.dataclass(frozen=True)
class Targets:
    """The table of targets, and what the self-check of this machine came to."""

    targets: tuple[Target, ...]
    checks: tuple[Check, ...]


def targets(found: Targets) -> None:
    """The machines, then PASS or FAIL for every runtime of this one and what bars the others."""
    rows = [
        (
            " ".join((row.name, *(f"({alias})" for alias in row.aliases))),
            row.what,
            row.arch,
            ", ".join(row.isa) or "-",
            row.compute_capability or "-",
            ", ".join(row.runtimes),
        )
        for row in found.targets
    ]
    headers = ("target", "machine", "arch", "isa", "compute", "runtimes, best first")
    table(headers, rows, left=frozenset(range(6)))
    print()
    checks = [(x.target, x.runtime, x.status, x.reason) for x in found.checks]
    table(("target", "runtime", "check", "reason"), checks, left=frozenset(range(4)))
