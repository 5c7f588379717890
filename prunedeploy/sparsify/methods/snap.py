"""SNAP: Verdenius et al., "Pruning via Iterative Ranking of Sensitivity Statistics", 2020."""

from __future__ import annotations

from prunedeploy.sparsify.methods._at_start import prune_first
from prunedeploy.sparsify.run import Method
from prunedeploy.sparsify.scores.snap import snap

METHODS = (Method("snap", "Verdenius et al., 2020", "channels", prune_first("channels", snap)),)
