"""Scores of units, one file a criterion: larger is more worth keeping.

A criterion of single weights ranks channels too, by the gate c of a channel: a factor, 1, of all
that its layers write. As that factor scales rows and biases, what a score says of c is a sum over
these.
"""

from __future__ import annotations

from collections.abc import Mapping

from prunedeploy.sparsify.scores.crop import crop
from prunedeploy.sparsify.scores.filters import filters
from prunedeploy.sparsify.scores.gamma import gamma
from prunedeploy.sparsify.scores.grasp import grasp
from prunedeploy.sparsify.scores.magnitude import magnitude
from prunedeploy.sparsify.scores.random import random
from prunedeploy.sparsify.scores.snap import snap
from prunedeploy.sparsify.scores.snip import snip
from prunedeploy.sparsify.scores.taylor import taylor
from prunedeploy.sparsify.units import Score

__all__ = ["SCORES"]

SCORES: Mapping[str, Score] = {
    "magnitude": magnitude,
    "random": random,
    "snip": snip,
    "snap": snap,
    "grasp": grasp,
    "crop": crop,
    "taylor": taylor,
    "filters": filters,
    "gamma": gamma,
}
