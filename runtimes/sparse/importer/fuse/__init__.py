"""Fewer operators that compute the same: each module is one rewriting of the graph."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.importer.fuse import (
    affine,
    chains,
    elementwise,
    epilogue,
    lift,
    moves,
    norms,
    parallel,
    products,
    quantised,
)
from prunedeploy.runtimes.sparse.importer.graph import Graph


def fuse(graph: Graph) -> None:
    """Rewrite ``graph`` in place."""
    graph.prune()
    quantised.fuse(graph)
    chains.straighten(graph)
    moves.fold(graph)
    affine.fold(graph)
    elementwise.merge(graph)
    elementwise.simplify(graph)
    norms.recognise(graph)
    products.absorb(graph)
    elementwise.simplify(graph)
    lift.lift(graph)
    epilogue.fold(graph)
    parallel.join(graph)
    graph.prune()
