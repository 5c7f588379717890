"""Prints what ``shrink`` did: sizes, passes, and what they took and refused."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence

from prunedeploy.cli.show.next_steps import print_next_step
from prunedeploy.cli.show.verdicts import cross_checks, difference
from prunedeploy.cli.tables import WIDTH, count, ratio, say, size, table
from prunedeploy.core.records import Note, PassReport, ShrinkResult
from prunedeploy.graph.input_range import claim
from prunedeploy.reports.headline import unvarying

MAX_REASONS = 5  # of each kind, shown without --verbose


def print_shrinking(done: ShrinkResult, verbose: bool) -> None:
    """Print sizes before and after, the difference, and what each pass took and refused."""
    before, after = done.before, done.after
    say(
        f"{_factor(before.parameters, after.parameters)} the parameters, "
        f"{_factor(before.macs, after.macs)} the operations, "
        + ("WARNING: constant outputs" if done.unvarying else done.difference.verdict)
    )
    say()
    arch = f" ({done.arch})" if done.arch else ""
    say(f"{done.source}{arch} -> {done.model} in {done.seconds:.1f} s")
    for line in done.found:
        say(f"  {line}")
    for what, path in (("torch program", done.pt), ("state_dict and plan", done.state_dict)):
        if path is not None:
            say(f"  {what} -> {path}")
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
    say()
    table(("", "before", "after", "ratio"), rows)
    say()
    say(f"largest difference from {done.dense}:")
    say(f"  {difference(done.difference)}")
    say(f"the reference {cross_checks(done.cross_checks)}")
    if done.input_ranges:
        say(f"the same network {claim(done.input_ranges)}")
    print_unvarying(done)
    say()
    _print_passes(done.passes)
    for status, title in (("taken", "taken"), ("refused", "refused"), ("info", "notes")):
        _print_notes(
            title, [n for x in done.passes for n in x.result.notes if n.status == status], verbose
        )
    print_next_step(done.next_step)


def _factor(before: int, after: int) -> str:
    """The share that is left, in percent."""
    return f"{after / before:.0%}" if before else "100%"


def _print_passes(passes: Sequence[PassReport]) -> None:
    """Print the passes that did something, and the names of the others in one paragraph."""
    idle = [each.name for each in passes if not _outcome(each)]
    rows = [(x.name, _outcome(x), f"{x.seconds:.2f} s") for x in passes if _outcome(x)]
    if rows:
        table(("pass", "", "time"), rows, left=frozenset({0, 1}))
    if idle:
        text = f"nothing to do for {', '.join(idle)}"
        say(*textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def print_unvarying(done: ShrinkResult) -> None:
    """Print a warning where outputs no longer depend on the input."""
    if warning := unvarying(done.unvarying):
        say(*textwrap.wrap(f"WARNING: {warning}.", WIDTH, subsequent_indent="  "))


def _outcome(report: PassReport) -> str:
    """What a pass did; empty where it had nothing to do."""
    if any(note.code == "variant-chosen" for note in report.result.notes):
        return "compared"
    return "changed" if report.result.changed else ""


def _change(what: str, before: int, after: int) -> tuple[str, ...]:
    return what, count(before), count(after), ratio(before, after)


def _print_notes(title: str, notes: list[Note], verbose: bool) -> None:
    """Print the reasons with the most channels; every single place with ``verbose``."""
    if not notes:
        return
    say()
    say(f"{title}:")
    if verbose:
        for note in notes:
            part = f" of {note.of:,}" if note.of else ""
            amount = f" ({note.count:,}{part})" if note.count else ""
            say(f"  {note.where}: {note.reason}{amount}")
        return
    reasons = _by_reason(notes)
    for reason in reasons[:MAX_REASONS]:
        say(*textwrap.wrap(reason, WIDTH, initial_indent="  ", subsequent_indent="    "))
    if len(reasons) > MAX_REASONS:
        say(f"  and {len(reasons) - MAX_REASONS} more: see --verbose")


def _by_reason(notes: Iterable[Note]) -> list[str]:
    """Every reason once, with the sum of its counts and the number of places, most first."""
    counts: dict[str, list[int]] = defaultdict(list)
    for note in notes:
        counts[note.reason].append(note.count)
    ordered = sorted(counts.items(), key=lambda item: (-sum(item[1]), -len(item[1]), item[0]))
    return [f"{reason}{_how_many(sum(of), len(of))}" for reason, of in ordered]


def _how_many(total: int, places: int) -> str:
    where = f"{places} place{'s' if places > 1 else ''}"
    if total:
        return f" ({total:,} in {where})"
    return f" ({where})" if places > 1 else ""
