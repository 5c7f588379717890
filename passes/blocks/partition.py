"""Rows into parts that share columns, by the hypergraph partitioner Mt-KaHyPar (extra ``regroup``).

A row is a vertex, a column a hyperedge over the rows that are not zero there; what is made small is
the number of parts that each column touches. The preset is the deterministic one: the same mask,
number of parts and seed give the same parts, whatever the number of threads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.passes.blocks.blocks import Ints, Mask

IMBALANCE = 0.1
MAX_EDGES = 1536  # of more columns a sample decides: time grows with them, the parts hardly change


def partition(mask: Mask, parts: int, seed: int = 0) -> list[Ints]:
    """The rows of ``mask`` [rows, columns] in ``parts`` parts of about equal size, in order.

    Raises:
        UserError: the partitioner is not installed.
    """
    rows = mask.shape[0]
    if parts < 2 or rows <= parts:
        return [np.arange(rows)] if rows else []
    shared = np.flatnonzero(mask.sum(0) > 1)
    if not shared.size:
        return [np.array(part, np.int64) for part in np.array_split(np.arange(rows), parts)]
    if shared.size > MAX_EDGES:
        chosen = np.random.default_rng(seed).choice(shared.size, MAX_EDGES, replace=False)
        shared = shared[np.sort(chosen)]
    order = np.random.default_rng(seed).permutation(rows)  # its own seed hardly changes a thing
    edges = [np.flatnonzero(mask[order, column]).tolist() for column in shared]
    library, pool = _library()
    context = pool.context_from_preset(library.PresetType.DETERMINISTIC)
    context.logging = False
    context.set_partitioning_parameters(parts, IMBALANCE, library.Objective.KM1)
    library.set_seed(seed)
    graph = pool.create_hypergraph(context, rows, len(edges), edges)
    part_of = np.empty(rows, np.int64)
    part_of[order] = graph.partition(context).get_partition()
    return [rows for part in range(parts) if (rows := np.flatnonzero(part_of == part)).size]


@functools.cache
def _library() -> tuple[Any, Any]:
    """The module, and its threads, which can be started once a process."""
    try:
        import mtkahypar
    except ImportError as error:
        raise UserError("regrouping needs mtkahypar: pip install 'prunedeploy[regroup]'") from error
    return mtkahypar, mtkahypar.initialize(1)
