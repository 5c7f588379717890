"""CroP: Rachwan et al., "Winning the Lottery Ahead of Time", ICML 2022; weights and channels."""

from __future__ import annotations

from prunedeploy.sparsify.methods._at_start import prune_first
from prunedeploy.sparsify.run import Method
from prunedeploy.sparsify.scores.crop import crop

PAPER = "Rachwan et al., ICML 2022"
METHODS = (
    Method("crop_u", PAPER, "scattered", prune_first("scattered", crop)),
    Method("crop_s", PAPER, "channels", prune_first("channels", crop)),
)
