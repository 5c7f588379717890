"""Figures of a report as inline SVG and HTML: speeds as bars, layers as a strip, densities."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from prunedeploy.core.measurements import BenchResult, Profile, StepTime
from prunedeploy.core.records import Ratio, RuntimeChoice
from prunedeploy.core.statistics import summary

MAX_NAMED = 10  # steps that are named below the strip
MAX_BARS = 60  # layers whose density is drawn


def speeds(bench: BenchResult) -> str:
    """A bar for each engine, as long as its speed; a whisker covers the 95 % interval."""
    ratios = (Ratio(1.0, 1.0, 1.0), *bench.ratios)
    longest = max(ratio.high for ratio in ratios)
    rows = []
    for ratio, measured in zip(ratios, (bench.baseline, *bench.candidates), strict=True):
        text = f"{summary(measured).p50:.3g} ms"
        text += f", {ratio.value:.2f}x" if measured is not bench.baseline else ", dense baseline"
        bar = _bar(ratio.value / longest, "bar" if measured is not bench.baseline else "base")
        whisker = _line(ratio.low / longest, ratio.high / longest)
        rows.append(_row(measured.name, bar + whisker, text))
    size = f" at {bench.size}" if bench.size else ""
    return _figure(f"Speed relative to the dense baseline{size} (longer is faster)", rows)


def runtimes(choice: RuntimeChoice) -> str:
    """A bar for each runtime that was raced while building, as long as its speed."""
    threads = max((each.threads for each in choice.times), default=0)
    times = [each for each in choice.times if each.threads == threads]
    rows = []
    for batch in dict.fromkeys(each.batch for each in times):
        group = sorted((x for x in times if x.batch == batch), key=lambda each: each.seconds)
        for each in group:
            taken = each.runtime == choice.runtime
            text = f"{1e3 * each.seconds:.3g} ms{', taken' * taken}"
            bar = _bar(group[0].seconds / each.seconds, "bar" if taken else "base")
            rows.append(_row(f"{each.runtime}, batch {batch}", bar, text))
    if not rows:
        return ""
    sizes = f", sums of {choice.sizes} sizes" if choice.sizes > 1 else ""
    caption = f"The shrunk network in every runtime, {choice.kind}, {threads} threads{sizes}"
    return _figure(f"{caption} (longer is faster)", rows)


def layers(profile: Profile) -> str:
    """The network as a strip: a step is as wide as its time, and as dark as it is dense."""
    total = sum(step.seconds for step in profile.steps)
    if not total:
        return ""
    at, parts = 0.0, []
    for step in profile.steps:
        width = 1000 * step.seconds / total
        title = escape(f"{step.name}: {1e3 * step.seconds:.3f} ms, {step.seconds / total:.1%}")
        parts.append(
            f'<rect class="step" x="{at:.2f}" y="0" width="{width:.2f}" height="40" '
            f'fill-opacity="{0.25 + 0.75 * _density(step):.2f}"><title>{title}</title></rect>'
        )
        at += width
    strip = f'<svg class="strip" viewBox="0 0 1000 40" preserveAspectRatio="none">{"".join(parts)}'
    slowest = sorted(profile.steps, key=lambda step: -step.seconds)[:MAX_NAMED]
    rows = [
        _row(
            step.name,
            _bar(step.seconds / slowest[0].seconds, "bar"),
            f"{1e3 * step.seconds:.3f} ms, {step.seconds / total:.1%}",
        )
        for step in slowest
    ]
    caption = (
        f"Where the time of {profile.name} goes: {len(profile.steps)} steps in their order, "
        f"{1e3 * total:.3g} ms; the {len(slowest)} slowest below"
    )
    return _figure(caption, [f"{strip}</svg>", *rows])


def densities(profile: Profile) -> str:
    """A bar for each layer with weights: the share of them that is not zero."""
    weighted = [step for step in profile.steps if step.weights][:MAX_BARS]
    if not weighted:
        return ""
    rows = [
        _row(
            step.name,
            _bar(_density(step), "bar"),
            f"{_density(step):.1%} of {step.weights:,} in {step.kernel or step.kind}",
        )
        for step in weighted
    ]
    drawn = _figure("Weights that are not zero, layer by layer", rows)
    return f"<details><summary>Density of {len(weighted)} layers</summary>{drawn}</details>"


def _density(step: StepTime) -> float:
    return step.nonzeros / step.weights if step.weights else 1.0


def _figure(caption: str, rows: Iterable[str]) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{''.join(rows)}</figure>"


def _row(name: str, drawing: str, text: str) -> str:
    svg = f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{drawing}</svg>'
    name, text = escape(name), escape(text)
    return f'<div class="row"><span title="{name}">{name}</span>{svg}<span>{text}</span></div>'


def _bar(share: float, kind: str) -> str:
    return f'<rect class="{kind}" x="0" y="1" width="{100 * share:.2f}" height="8"/>'


def _line(low: float, high: float) -> str:
    return f'<path class="whisker" d="M{100 * low:.2f} 5H{100 * high:.2f}"/>'
