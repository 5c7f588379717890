"""CroPit: CroP in rounds, ranked again in each, all before training."""

from __future__ import annotations

from prunedeploy.sparsify.methods._at_start import prune_first
from prunedeploy.sparsify.methods.crop import PAPER
from prunedeploy.sparsify.run import Method
from prunedeploy.sparsify.schedules import cropit_rounds
from prunedeploy.sparsify.scores.crop import crop

METHODS = (
    Method("cropit_u", PAPER, "scattered", prune_first("scattered", crop, cropit_rounds)),
    Method("cropit_s", PAPER, "channels", prune_first("channels", crop, cropit_rounds)),
)
