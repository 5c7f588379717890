"""The frozen records of what was measured, and of what was predicted for the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunedeploy.core import html
from prunedeploy.core.records import Difference, Ratio


@dataclass(frozen=True)
class Accuracy:
    """Top-1 on labelled data, and on how many inputs the prediction is not the baseline's."""

    samples: int
    correct: int
    changed_predictions: int


@dataclass(frozen=True)
class Measurement:
    """Raw wall-clock samples of one engine, with what is needed to believe them.

    There is no measurement without a difference from the reference: an engine that was not
    verified has no speed. ``samples_ns`` holds one entry a run of ``batch`` inputs, in order.
    """

    name: str
    runtime: str
    provider: str
    model_sha256: str
    batch: int
    threads: int
    samples_ns: tuple[int, ...]
    peak_memory_bytes: int
    difference: Difference
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class StepTime:
    """One step of a compiled engine: the median of its times, and what it has to do.

    ``flops`` are those of non-zero weights; ``bytes`` all that it reads and writes, once.
    ``choice`` is how the runtime computes it, ``cycles`` what its cost model says that the busiest
    thread needs, 0 where it has no say. For a layer with weights, ``kernel`` names what computes
    it, ``stored`` is the type of its weights, ``dense`` says whether zeros are stored.
    """

    name: str
    kind: str
    choice: str
    seconds: float
    flops: int
    bytes: int
    weights: int
    nonzeros: int
    cycles: float = 0.0
    kernel: str = ""
    stored: str = "float32"
    dense: bool = False


@dataclass(frozen=True)
class Profile:
    """Where the time of an engine goes; a batch that is computed in pieces has the steps of all."""

    name: str
    batch: int
    threads: int
    rounds: int
    steps: tuple[StepTime, ...]


@dataclass(frozen=True)
class Forecast:
    """The predicted time of a run of ``batch`` inputs, in seconds; it is never a measurement.

    ``low`` and ``high`` are the band that it lies in as far as the model's error is known.
    """

    runtime: str
    precision: str
    batch: int
    threads: int
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchResult:
    """One interleaved run: the dense baseline and every candidate, in turn.

    ``predicted`` is what a model of the machine says of the baseline and of each candidate.
    ``busy`` is the share of the processors' time that other programs took just before, None if not
    known. Where engines were measured at several sizes, ``size`` is this one's, and ``others`` are
    the results at the others.
    """

    baseline: Measurement
    candidates: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]  # one a candidate
    environment: dict[str, str]
    kind: Literal["measured"] = "measured"
    profiles: tuple[Profile, ...] = ()
    predicted: tuple[Forecast | None, ...] = ()
    busy: float | None = None
    size: str = ""
    others: tuple[BenchResult, ...] = ()

    @property
    def each_size(self) -> tuple[BenchResult, ...]:
        """The results at all sizes, this one first."""
        return (self, *self.others)

    def _repr_html_(self) -> str:
        return "".join(each._html() for each in self.each_size)

    def _html(self) -> str:
        rows = [(self.baseline.name, *_figures(self.baseline), "1")]
        for each, ratio in zip(self.candidates, self.ratios, strict=True):
            speed = f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
            rows.append((each.name, *_figures(each), speed))
        headers = ("engine", "median, ms", "difference", "speed (95 %)")
        one = self.baseline
        note = f"batch {one.batch}, threads {one.threads}, {len(one.samples_ns)} runs in turn"
        note += f", size {self.size}" if self.size else ""
        return html.table("measured", headers, rows, note)


def _figures(measured: Measurement) -> tuple[str, str]:
    median = float(np.median(measured.samples_ns)) / 1e6
    return f"{median:.3g}", f"{measured.difference.max_rel:.1g}"
