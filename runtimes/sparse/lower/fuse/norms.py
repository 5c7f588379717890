"""Normalisations written out in single operators, recognised.

x / sqrt(mean(x^2) + epsilon) * scale          RMS normalisation
(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias
"""

from __future__ import annotations

from prunedeploy.runtimes.sparse.lower.graph import Graph


def recognise(graph: Graph) -> None:
    """Replace each by one operator."""
