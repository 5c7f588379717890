"""Tables of rows: means over seeds, differences to dense with their intervals, and rank orders.

A difference is paired: the dense network of the same seed, data and schedule. Over three and more
seeds its interval is Student's t of the differences; over fewer, a bootstrap of the test examples
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993). The p values of all differences in
one table are corrected together (Holm, Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from prunedeploy.core.errors import MissingExtra
from prunedeploy.core.records import Array
from prunedeploy.sparsify.recipe import Recipe
from prunedeploy.sparsify.row import DENSE, Row

CONFIDENCE = 0.95
RESAMPLES = 4000
MIN_SEEDS = 3  # for an interval over seeds
EQUAL = 1e-9  # differences that are all the same have no deviation to go by
DENSE_METHOD = "dense"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; ``low`` and ``high`` are NaN where one value says nothing."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The difference of accuracies to the dense network, and how sure it is.

    ``p`` is of no difference, ``holm`` the same corrected for all comparisons of the table. ``how``
    is "t" over ``seeds`` pairs, or "bootstrap" over test examples.
    """

    difference: Interval
    p: float
    holm: float
    how: str
    seeds: int


@dataclass(frozen=True)
class Cell:
    """The rows of one configuration: those that differ in the seed, or in the machine alone."""

    recipe: Recipe
    rows: tuple[Row, ...]
    accuracy: Interval
    compared: Comparison | None

    @property
    def trainings(self) -> tuple[Row, ...]:
        """One row a seed."""
        return tuple({row.recipe.seed: row for row in self.rows}.values())

    def mean(self, value: Callable[[Row], float | None]) -> float | None:
        """The mean over seeds of what rows have; None where none has it."""
        values = [x for row in self.trainings if (x := value(row)) is not None]
        return float(np.mean(values)) if values else None

    def latency(self, target: str, runtime: str, batch: int) -> float | None:
        """The median over seeds of milliseconds on a target; None where none was deployed."""
        values = [
            x.milliseconds
            for row in self.rows
            if row.deployed is not None and row.deployed.target == target
            if (x := row.latency(runtime, batch)) is not None
        ]
        return float(np.median(values)) if values else None

    def fastest(self, target: str, batch: int) -> tuple[str, float] | None:
        """The runtime that is fastest on a target, and its milliseconds."""
        names = {x.runtime for row in self.rows if row.deployed for x in row.deployed.latencies}
        times = [(t, name) for name in names - {DENSE} if (t := self.latency(target, name, batch))]
        return (min(times)[1], min(times)[0]) if times else None


def cells(rows: Sequence[Row]) -> tuple[Cell, ...]:
    """The configurations of ``rows`` in their order, each compared with its dense network.

    Raises:
        MissingExtra: SciPy is not installed.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_configuration(row), []).append(row)
    dense = {_training(row): row for row in rows if row.recipe.method.name == DENSE_METHOD}
    made = [_cell(tuple(group), dense) for group in groups.values()]
    corrected = iter(holm([x.compared.p for x in made if x.compared is not None]))
    return tuple(
        replace(each, compared=replace(each.compared, holm=next(corrected)))
        if each.compared is not None
        else each
        for each in made
    )


def _cell(rows: tuple[Row, ...], dense: dict[str, Row]) -> Cell:
    cell = Cell(rows[0].recipe, rows, Interval(math.nan, math.nan, math.nan), None)
    accuracies = [row.outcome.accuracy for row in cell.trainings]
    pairs = [(row, dense[_training(row)]) for row in cell.trainings if _training(row) in dense]
    compared = None
    if pairs and cell.recipe.method.name != DENSE_METHOD:
        compared = compare(pairs)
    return replace(cell, accuracy=interval(accuracies), compared=compared)


def interval(values: Sequence[float]) -> Interval:
    """The mean with Student's interval; without one of fewer than three values."""
    mean = float(np.mean(values))
    if len(values) < MIN_SEEDS:
        return Interval(mean, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = error * float(library().t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def compare(pairs: Sequence[tuple[Row, Row]], seed: int = 0) -> Comparison:
    """The difference of the first of each pair to the second; ``seed`` is of the resampling."""
    differences = [one.outcome.accuracy - other.outcome.accuracy for one, other in pairs]
    if len(pairs) >= MIN_SEEDS and np.ptp(differences) > EQUAL:
        p = float(library().ttest_1samp(differences, 0.0).pvalue)
        return Comparison(interval(differences), p, p, "t", len(pairs))
    by_example = np.mean(
        [one.outcome.bits.astype(float) - other.outcome.bits for one, other in pairs], axis=0
    )
    difference, p = bootstrap(by_example, seed)
    return Comparison(difference, p, p, "bootstrap", len(pairs))


def bootstrap(values: Array, seed: int = 0) -> tuple[Interval, float]:
    """The mean of ``values`` [N] with its percentile interval, and p of a mean of zero."""
    random = np.random.default_rng(seed)
    means = np.array(
        [values[random.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    )
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (float(beyond) + 1) / (RESAMPLES + 1))
    return Interval(float(values.mean()), float(low), float(high)), p


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected so that one false claim among all has the probability of the smallest."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of two columns: 1 for the same order of ``count`` configurations."""

    first: str
    second: str
    tau: float
    p: float
    count: int


def agreements(columns: dict[str, Sequence[float | None]]) -> tuple[Agreement, ...]:
    """Kendall's tau of each pair of columns, over the configurations that have both."""
    pairs = []
    for (first, x), (second, y) in combinations(columns.items(), 2):
        both = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
        if len(both) < MIN_SEEDS:
            continue
        tau, p = library().kendalltau(*zip(*both, strict=True))
        pairs.append(Agreement(first, second, float(tau), float(p), len(both)))
    return tuple(pairs)


def _configuration(row: Row) -> str:
    """What rows of one configuration share: all but the seed and the machine."""
    recipe = row.recipe
    plain = replace(recipe, train=replace(recipe.train, seed=0), deploy=None)
    return f"{plain} {row.data_sha256}"


def _training(row: Row) -> str:
    """What a row shares with its dense network: all but the method and the machine."""
    recipe = row.recipe
    return f"{recipe.network} {recipe.train} {row.data_sha256}"


def library() -> Any:
    """The module scipy.stats.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtra("SciPy, which computes intervals,", "sweep") from None
    return stats
