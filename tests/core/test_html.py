"""Results as tables in notebooks: whole numbers, and names that are no markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from prunedeploy.core import html
from prunedeploy.core.measurements import BenchResult, Measurement
from prunedeploy.core.records import Difference, Engine, Manifest, Ratio, ShrinkResult, TensorSpec


class Parsed(HTMLParser):
    """The cells of a table in order, and all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_names_are_no_markup() -> None:
    text = html.table("<script>", ("", "a&b"), [("x\x1b[31m", "</td>")], "<b>")
    parsed = Parsed(text)
    assert "<script>" in parsed.cells
    assert "</td>" in parsed.cells
    assert "x\\x1b[31m" in parsed.cells
    assert "<script>" not in text


def test_a_shrunk_network(shrunk: ShrinkResult) -> None:
    cells = Parsed(shrunk._repr_html_()).cells
    at = cells.index("parameters")
    assert cells[at + 1 : at + 4] == ["592", "148", "4.00x"]
    assert cells[-1].startswith("largest difference 2e-07")
    nothing = replace(shrunk.after, macs=0)
    assert "-" in Parsed(replace(shrunk, after=nothing)._repr_html_()).cells


def _measured(name: str, milliseconds: int) -> Measurement:
    difference = Difference(0.0, 2e-7, 1e-5, 8)
    samples = (10**6 * milliseconds,) * 3
    return Measurement(name, "ort", "CPU", "0" * 64, 1, 2, samples, 0, difference)


def test_measurements() -> None:
    result = BenchResult(
        _measured("dense", 8), (_measured("small", 2),), (Ratio(4.0, 3.9, 4.1),), {}
    )
    cells = Parsed(result._repr_html_()).cells
    at = cells.index("small")
    assert cells[at + 1 : at + 4] == ["2", "2e-07", "4.00x (3.90 to 4.10)"]
    assert cells[-1] == "batch 1, threads 2, 3 runs in turn"


def test_an_engine() -> None:
    spec = TensorSpec("input", "float32", ("batch", 3))
    manifest = Manifest("sparse", "host", {}, "", None, None, (spec,), (), {}, None, (1, 16))
    cells = Parsed(Engine(Path("net.engine"), manifest, "")._repr_html_()).cells
    assert cells[0] == "net.engine"
    assert {"1, 16", "input: float32 ['batch', 3]", "never compared"} <= set(cells)
