"""GraSP: Wang et al., "Picking Winning Tickets Before Training", ICLR 2020."""

from __future__ import annotations

from prunedeploy.sparsify.methods._at_start import prune_first
from prunedeploy.sparsify.run import Method
from prunedeploy.sparsify.scores.grasp import grasp

METHODS = (Method("grasp", "Wang et al., ICLR 2020", "scattered", prune_first("scattered", grasp)),)
