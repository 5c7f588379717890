"""SNIP: Lee et al., "Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019."""

from __future__ import annotations

from prunedeploy.sparsify.methods._at_start import prune_first
from prunedeploy.sparsify.run import Method
from prunedeploy.sparsify.scores.snip import snip

METHODS = (Method("snip", "Lee et al., ICLR 2019", "scattered", prune_first("scattered", snip)),)
