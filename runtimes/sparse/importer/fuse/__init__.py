"""Fewer operators that compute the same: each module one rewriting of the graph, in this order."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.importer.fuse import (
    affine,
    chains,
    epilogue,
    lift,
    moves,
    norms,
    parallel,
    products,
)
from prunedeploy.runtimes.sparse.importer.fuse import elementwise as maps
from prunedeploy.runtimes.sparse.importer.graph import Graph


def fuse(graph: Graph) -> None:
    """Rewrite ``graph`` in place."""
    graph.prune()
    chains.straighten(graph)
    moves.fold(graph)
    affine.fold(graph)
    maps.merge(graph)
    maps.simplify(graph)
    norms.recognise(graph)
    products.absorb(graph)
    maps.simplify(graph)
    lift.lift(graph)
    epilogue.fold(graph)
    parallel.join(graph)
    graph.prune()
