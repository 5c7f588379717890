"""Results of ``shrink`` and ``bench`` as one report. Nothing is timed here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import atomic_path, from_json, read_text
from prunedeploy.core.markdown import Row, cell, markdown
from prunedeploy.core.measurements import BenchResult, Measurement
from prunedeploy.core.records import (
    Difference,
    Note,
    PassReport,
    Ratio,
    RuntimeChoice,
    ShrinkResult,
)
from prunedeploy.core.statistics import summary
from prunedeploy.core.text import printable, printable_lines
from prunedeploy.graph.input_range import claim
from prunedeploy.prediction import text as forecasts
from prunedeploy.prediction.record import Prediction
from prunedeploy.remote.record import RemoteResult
from prunedeploy.reports.device import forecast_section, remote_section
from prunedeploy.reports.headline import unvarying
from prunedeploy.reports.page import page

Result = BenchResult | ShrinkResult | RemoteResult | Prediction
Measured = BenchResult | RemoteResult | Prediction
MAX_NAMED = 3  # named of one refusal; the others are counted


def report(
    results: Sequence[str | Path | Result],
    output: str | Path | None = None,
    *,
    commands: Sequence[str] = (),
    choice: RuntimeChoice | None = None,
) -> str:
    """Put results into one report: models shrunk, measurements, predictions, refusals.

    Measurements and predictions of a shrunk model stand under its result; others stand alone.

    Args:
        results: records, or JSON files that ``shrink``, ``bench`` (with ``--remote`` too) and
            ``predict`` wrote.
        output: a file to write as well: an HTML page with figures where its name ends in
            ``.html``, the Markdown otherwise.
        commands: the command lines that an HTML page shows.
        choice: how the runtime was chosen, for an HTML page to show.

    Returns:
        The report in Markdown.

    Raises:
        UserError: none given, a file is missing or holds something else, or ``output`` cannot
            be written.

    Example:
        >>> import prunedeploy
        >>> done = prunedeploy.shrink("net.onnx", "small.onnx", align=1)
        >>> "parameters" in prunedeploy.report([done], "report.html")
        True
    """
    if isinstance(results, (str, Path)):
        results = [results]
    if not results:
        raise UserError("nothing to report: name the JSON files that shrink and bench wrote")
    if output is not None and any(_same_file(x, output) for x in results):
        raise UserError(f"{output} is one of the results: name another file to write")
    read_all = [x if isinstance(x, Result) else read(Path(x)) for x in results]
    records = [y for x in read_all for y in (x.each_size if isinstance(x, BenchResult) else (x,))]
    shrunk = [x for x in records if isinstance(x, ShrinkResult)]
    others = [x for x in records if not isinstance(x, ShrinkResult)]
    parts = ["# Report"]
    for result in shrunk:
        own = [x for x in others if _belongs(x, result)]
        parts += [
            _shrunk(result),
            _noted(result.passes, "taken", "Removed and simplified", "what"),
            *map(_section, own),
            _noted(result.passes, "refused", "Left as it was", "why"),
            _noted(result.passes, "info", "Compared", "what"),
        ]
    parts += [_section(x) for x in others if not any(_belongs(x, result) for result in shrunk)]
    text = printable_lines("\n\n".join(part for part in parts if part) + "\n")
    if output is not None:
        measured = [x for x in records if isinstance(x, BenchResult)]
        is_page = Path(output).suffix.lower() in (".html", ".htm")
        with atomic_path(Path(output)) as file:
            file.write_text(
                page(text, measured, commands, choice) if is_page else text, encoding="utf-8"
            )
    return text


def _same_file(result: str | Path | Result, output: str | Path) -> bool:
    return isinstance(result, str | Path) and os.path.realpath(result) == os.path.realpath(output)


def read(path: Path) -> Result:
    """The record in a JSON file, by the type that it says it has.

    Raises:
        UserError: missing, unreadable, or neither a shrink nor a bench result.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}") from None
    try:
        data = _shown(json.loads(text))
        text = json.dumps(data)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON, or is cut short: write it again") from None
    kind = str(data.get("type")) if isinstance(data, dict) else ""
    records: tuple[type[Result], ...] = (ShrinkResult, BenchResult, RemoteResult, Prediction)
    record = next((each for each in records if each.__name__ == kind), None)
    if record is None:
        raise UserError(f"{path} is not a result of shrink or bench: name one that is")
    try:
        result = from_json(record, text)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if isinstance(result, BenchResult) and not _whole(result):
        raise UserError(f"cannot read {path}: it lacks samples or ratios; measure again")
    return result


def _shown(value: Any) -> Any:
    """The content of a file, each text of which is one line that only shows characters."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _shown(item) for key, item in value.items()}
    return value


def _whole(bench: BenchResult) -> bool:
    if not all(map(_whole, bench.others)):
        return False
    measured = (bench.baseline, *bench.candidates)
    return all(m.samples_ns for m in measured) and len(bench.ratios) == len(bench.candidates)


def _belongs(other: Measured, result: ShrinkResult) -> bool:
    if isinstance(other, BenchResult):
        known = {candidate.model_sha256 for candidate in other.candidates}
    else:
        known = {other.model_sha256}
    return result.model_sha256 in known


def _section(other: Measured) -> str:
    match other:
        case BenchResult():
            return _timed(other)
        case RemoteResult():
            return remote_section(other)
        case Prediction():
            return forecast_section(other)


def _shrunk(result: ShrinkResult) -> str:
    before, after = result.before, result.after
    rows = [
        (what, f"{old:,}", f"{new:,}", _share(new, old))
        for what, old, new in (
            ("parameters", before.parameters, after.parameters),
            ("non-zero parameters", before.nonzero, after.nonzero),
            ("MACs of one input, zeros included", before.macs, after.macs),
            ("file, bytes", before.file_bytes, after.file_bytes),
        )
    ]
    rows.append(("model, sha256", result.dense_sha256[:12], result.model_sha256[:12], ""))
    arch = f" ({result.arch})" if result.arch else ""
    before_name, after_name = result.dense.name, result.model.name
    if before_name == after_name:  # optimize names what it writes like the ONNX file that it reads
        after_name = f"{result.model.parent.name}/{after_name}"
    lines = [
        f"## {cell(result.source.name + arch)}",
        f"`{before_name}` is the network as it was trained, `{after_name}` what was shrunk "
        "from it.",
        markdown(("", "dense", "shrunk", "shrunk / dense"), rows),
        f"Largest difference of the two: {_difference(result.difference)}.",
    ]
    if result.unvarying:
        lines.append(f"**Warning:** {cell(unvarying(result.unvarying))}.")
    if result.input_ranges:
        lines.append(f"The two are the same network {cell(claim(result.input_ranges))}.")
    if result.found:
        lines.append("In the checkpoint: " + "; ".join(map(cell, result.found)) + ".")
    return "\n\n".join(lines)


def _timed(bench: BenchResult) -> str:
    everything = (bench.baseline, *bench.candidates)
    ratios: tuple[Ratio | None, ...] = (None, *bench.ratios)
    first = bench.baseline
    rows: list[Row] = [
        ("p50, ms", *(f"{summary(m).p50:.3f}" for m in everything)),
        ("p90, ms", *(f"{summary(m).p90:.3f}" for m in everything)),
        ("p99, ms", *(f"{summary(m).p99:.3f}" for m in everything)),
        ("inputs per second", *(f"{summary(m).throughput:,.1f}" for m in everything)),
        ("times faster, by the medians", *("1" if r is None else _ratio(r) for r in ratios)),
        ("peak memory, MB", *(f"{m.peak_memory_bytes / 1e6:.1f}" for m in everything)),
        ("largest difference", *map(_relative, everything)),
        ("runtime, and what really computed", *(f"{m.runtime}, {m.provider}" for m in everything)),
        ("model, sha256", *(m.model_sha256[:12] for m in everything)),
    ]
    if any(bench.predicted):
        rows.append(("predicted beforehand, ms", *_predicted(bench)))
    if any(m.accuracy for m in everything):
        rows += [
            ("accuracy", *map(_accuracy, everything)),
            ("changed predictions", *map(_changed, everything)),
        ]
    headers = ("", f"{first.name} (dense baseline)", *(m.name for m in bench.candidates))
    cores = f"{first.threads} thread{'s' if first.threads != 1 else ''}"
    return "\n\n".join(
        (
            f"### Speed, {bench.kind}" + (f", {cell(bench.size)}" if bench.size else ""),
            f"Batch {first.batch}, {cores}, {len(first.samples_ns)} rounds in which every engine "
            "ran in turn on the same inputs; the interval of a ratio covers 95 %. Differences: of "
            "the baseline from the reference evaluator, of the others from the baseline, relative "
            "to the range of the output.",
            markdown(headers, rows),
            "Taken on: " + "; ".join(f"{k} {cell(v)}" for k, v in bench.environment.items()) + ".",
        )
    )


def _predicted(bench: BenchResult) -> tuple[str, ...]:
    """The forecast of each in its band, and how far it lies from the median that was measured."""
    everything = (bench.baseline, *bench.candidates)
    predicted = (*bench.predicted, *(None,) * (len(everything) - len(bench.predicted)))
    return tuple(
        "" if x is None else f"{forecasts.band(x)}: {forecasts.error(x, summary(m).p50)}"
        for x, m in zip(predicted, everything, strict=False)
    )


def _noted(passes: Sequence[PassReport], status: str, title: str, what: str) -> str:
    """Every reason of a pass once: how many channels or nodes it concerns, and where first."""
    by_reason: dict[tuple[str, str], list[Note]] = {}
    for done in passes:
        for note in done.result.notes:
            if note.status == status:
                by_reason.setdefault((done.name, note.reason), []).append(note)
    if not by_reason:
        return ""
    rows = [
        (name, reason, f"{sum(note.count for note in notes):,}", _listed([n.where for n in notes]))
        for (name, reason), notes in by_reason.items()
    ]
    table = markdown(("pass", what, "how many", "where"), rows, texts=(0, 1, 3))
    return f"### {title}\n\n{table}"


def _listed(where: Sequence[str]) -> str:
    shown = ", ".join(where[:MAX_NAMED])
    return shown if len(where) <= MAX_NAMED else f"{shown} and {len(where) - MAX_NAMED} more"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _difference(difference: Difference) -> str:
    verdict = "passed" if difference.passed else "FAILED"
    changed = f", {difference.changed_predictions} changed predictions"
    return (
        f"{difference.max_rel:.2g} of the output's range over {difference.samples} inputs{changed} "
        f"(allowed {difference.tolerance:.0e}: {verdict})"
    )


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _relative(measured: Measurement) -> str:
    return f"{measured.difference.max_rel:.1e}"


def _accuracy(measured: Measurement) -> str:
    accuracy = measured.accuracy
    return f"{accuracy.correct / accuracy.samples:.2%} of {accuracy.samples:,}" if accuracy else ""


def _changed(measured: Measurement) -> str:
    return str(measured.accuracy.changed_predictions) if measured.accuracy else ""
