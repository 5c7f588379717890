"""Passes: model to model, exact. One a file; ``default()`` has them in the order they run."""

from __future__ import annotations

from prunedeploy.passes._pass import Pass, PassError, run
from prunedeploy.passes.fold_batchnorm import FoldBatchNorm
from prunedeploy.passes.fold_constants import FoldConstants
from prunedeploy.passes.remove_identity import RemoveIdentity
from prunedeploy.passes.shrink import ShrinkChannels
from prunedeploy.passes.simplify_reshapes import SimplifyReshapes

DEFAULT: tuple[Pass, ...] = (
    RemoveIdentity(),
    FoldConstants(),
    FoldBatchNorm(),
    SimplifyReshapes(),
    ShrinkChannels(),
)

__all__ = [
    "DEFAULT",
    "FoldBatchNorm",
    "FoldConstants",
    "Pass",
    "PassError",
    "RemoveIdentity",
    "ShrinkChannels",
    "SimplifyReshapes",
    "run",
]
