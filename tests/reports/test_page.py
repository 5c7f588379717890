"""HTML reports: whole without anything else, well-formed figures, names that stay text."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from prunedeploy.core.measurements import Accuracy, BenchResult, Measurement, Profile, StepTime
from prunedeploy.core.records import Difference, Ratio, RuntimeChoice, RuntimeTime
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
    assert "every runtime" not in text
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


def test_a_page_shows_the_runtimes_that_were_compared(timed):
    times = (RuntimeTime("sparse", 1, 2, 1e-3), RuntimeTime("ort", 1, 2, 4e-3))
    text = page("# Report\n", [timed], choice=RuntimeChoice("measured", "sparse", times))
    assert "The shrunk network in every runtime, measured, 2 threads" in text
    assert "1 ms, taken" in text
    assert 'width="25.00"' in text  # a fourth as fast
    assert "every runtime" not in page("", [timed], choice=RuntimeChoice("measured", "ort", ()))


# -- as a real browser lays it out: light and dark, narrow and wide -------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
#: what the browser made of the page; the page itself has no script
MEASURE = """<script>
const box = (x) => x.getBoundingClientRect();
const all = (what) => [...document.querySelectorAll(what)];
const seen = (what) => all(what).filter((x) => box(x).width * box(x).height);
document.body.dataset.found = JSON.stringify({
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  back: getComputedStyle(document.body).backgroundColor,
  text: getComputedStyle(document.body).color,
  bars: seen('.bar').length,
  steps: seen('.step').length,
  tables: seen('table').length,
  title: box(document.querySelector('h1')).height,
  outside: all('h1, p, .row, figcaption').filter((x) => box(x).right > innerWidth + 1).length,
});
</script>"""
LIGHT, DARK = 1, 0  # Blink's numbers of preferred colour schemes


@pytest.fixture(scope="module")
def browser() -> str:
    if not BROWSER:
        pytest.skip("no Chromium is installed")
    return BROWSER


def laid_out(browser: str, page: Path, width: int, scheme: int) -> dict[str, Any]:
    """What the browser measures of ``page`` in a window of ``width`` pixels."""
    probe = page.with_name("probe.html")
    probe.write_text(page.read_text().replace("</body>", f"{MEASURE}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    done = subprocess.run(
        [
            browser,
            *options,
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={scheme}",
            "--dump-dom",
            str(probe),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    measured: dict[str, Any] = json.loads(unescape(found.group(1)))
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1600])
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_all_is_there_and_nothing_sticks_out(
    browser: str, timed: BenchResult, tmp_path: Path, width: int, scheme: int
) -> None:
    page = tmp_path / "report.html"
    report([timed], page, commands=["prunedeploy bench " + "a-long-name/" * 40])
    found = laid_out(browser, page, width, scheme)
    assert found["needed"] <= found["width"], "the page scrolls sideways"
    assert found["outside"] == 0
    assert found["bars"] >= len(timed.candidates)
    steps = [step for profile in timed.profiles for step in profile.steps]
    assert found["steps"] == sum(step.seconds > 0 for step in steps)
    assert found["tables"] >= 1
    assert found["title"] > 0
    assert found["back"] == ("rgb(255, 255, 255)" if scheme == LIGHT else "rgb(13, 17, 23)")
    assert found["text"] != found["back"]
