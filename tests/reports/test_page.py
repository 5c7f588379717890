"""HTML reports: whole without anything else, well-formed figures, names that stay text."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from prunedeploy.core.records import (
    Accuracy,
    BenchResult,
    Difference,
    Measurement,
    Profile,
    Ratio,
    StepTime,
)
from prunedeploy.reports.headline import headline
from prunedeploy.reports.page import page
from prunedeploy.reports.report import report

HOSTILE = '<script>alert(1)</script>"&'


def measurement(name: str, milliseconds: int, runtime: str = "ort") -> Measurement:
    return Measurement(
        name=name,
        runtime=runtime,
        provider="CPUExecutionProvider",
        model_sha256="0" * 64,
        batch=1,
        threads=2,
        samples_ns=(milliseconds * 10**6,) * 10,
        peak_memory_bytes=12_300_000,
        difference=Difference(1e-7, 2e-7, 1e-5, 8, "output"),
        accuracy=Accuracy(1000, 915, 3),
    )


def step(name: str, seconds: float, weights: int, nonzeros: int) -> StepTime:
    return StepTime(name, "conv", "", seconds, 2 * nonzeros, 4, weights, nonzeros, kernel="jit")


@pytest.fixture
def timed() -> BenchResult:
    steps = (step("first", 1e-3, 100, 90), step(HOSTILE, 3e-3, 1000, 100), step("add", 0, 0, 0))
    return BenchResult(
        baseline=measurement("dense.onnx", 8),
        candidates=(measurement(HOSTILE, 4), measurement("sparse", 2, "sparse")),
        ratios=(Ratio(2.0, 1.9, 2.1), Ratio(4.0, 3.8, 4.2)),
        environment={"cpu": "A Processor"},
        profiles=(Profile("sparse", 1, 2, 10, steps),),
    )


class Elements(HTMLParser):
    """Counts the elements, and collects what a page would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loaded += [str(value) for key, value in attrs if key in ("src", "href")]


def test_the_headline_is_of_the_fastest(timed):
    wanted = "4.00x faster, the same predictions on 997 of 1,000 images, largest difference 2e-07"
    assert headline(timed) == wanted
    alone = dataclasses.replace(timed.candidates[0], accuracy=None)
    slower = dataclasses.replace(timed, candidates=(alone,), ratios=(Ratio(0.5, 0.4, 0.6),))
    assert headline(slower) == (
        "slower: 0.50x the speed, the same outputs on 8 random inputs, largest difference 2e-07"
    )
    rounded = dataclasses.replace(
        alone, difference=dataclasses.replace(alone.difference, tolerance=1e-2)
    )
    wide = dataclasses.replace(slower, candidates=(rounded,))
    assert "outputs within the tolerance on 8 random inputs" in headline(wide)


def test_a_page_is_whole_by_itself(timed):
    text = page("# Report\n\n| a | b |\n|---|---:|\n| x | 1 |\n", [timed], ["prunedeploy bench e"])
    elements = Elements(text)
    assert elements.loaded == []
    assert "script" not in elements.count
    assert (elements.count["h1"], elements.count["figure"], elements.count["table"]) == (1, 3, 1)
    assert "<title>4.00x faster" in text
    assert "prefers-color-scheme: dark" in text
    assert "<pre>prunedeploy bench e</pre>" in text
    assert "8 ms to 2 ms: the sparse runtime against ONNX Runtime" in text


def test_a_busy_machine_is_named(timed):
    assert "Caution" not in page("", [dataclasses.replace(timed, busy=0.1)])
    text = page("", [dataclasses.replace(timed, busy=0.62)])
    assert "Caution:</strong> other programs took 62% of the processors" in text


def test_figures_show_the_numbers(timed):
    drawings = re.findall(r"<svg.*?</svg>", page("", [timed]), re.DOTALL)
    trees = [ElementTree.fromstring(each) for each in drawings]
    bars = [float(tree.find("rect").get("width")) for tree in trees[:3]]  # type: ignore[union-attr, arg-type]
    assert bars == pytest.approx([100 / 4.2, 200 / 4.2, 400 / 4.2], abs=0.01)
    strip = next(tree for tree in trees if tree.get("class") == "strip")
    widths = [float(rect.get("width", "nan")) for rect in strip.iter("rect")]
    assert widths == pytest.approx([250, 750, 0])
    opacities = [float(rect.get("fill-opacity", "nan")) for rect in strip.iter("rect")]
    assert opacities[0] > opacities[1]  # 90 % and 10 % of the weights are not zero


def test_names_of_files_stay_text(timed, shrunk):
    text = page(report([shrunk, timed]), [timed], [HOSTILE])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4


def test_the_ending_chooses(folder, shrunk, timed):
    text = report([shrunk, timed], "report.html")
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert text.startswith("# Report")
    report([shrunk], "report.HTM")
    assert "<title>Report</title>" in (folder / "report.HTM").read_text()
