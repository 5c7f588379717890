"""Passes: model to model, exact. One a file; ``default()`` has them in the order they run.

``LowerOpset``, ``ToFloat16``, ``Quantise``, ``RoundWeights``, ``RepackBlocks`` and
``RecordTwoFour`` are not among the default ones: they are for targets that need them, or at the
user's word.
"""

from __future__ import annotations

from prunedeploy.passes._pass import Pass, PassError, run
from prunedeploy.passes.fold_batchnorm import FoldBatchNorm
from prunedeploy.passes.fold_constants import FoldConstants
from prunedeploy.passes.fuse_layernorm import FuseLayerNorm
from prunedeploy.passes.group_norm import PlainGroupNorm
from prunedeploy.passes.merge_channels import MergeChannels
from prunedeploy.passes.opset import LowerOpset
from prunedeploy.passes.quantise import Quantise
from prunedeploy.passes.record_two_four import RecordTwoFour
from prunedeploy.passes.remove_dead_branches import RemoveDeadBranches
from prunedeploy.passes.remove_identity import RemoveIdentity
from prunedeploy.passes.repack_blocks import RepackBlocks
from prunedeploy.passes.round_weights import RoundWeights
from prunedeploy.passes.scatter_branches import ScatterBranches
from prunedeploy.passes.select_before_split import SelectBeforeSplit
from prunedeploy.passes.shrink import ShrinkChannels
from prunedeploy.passes.simplify_gathers import SimplifyGathers
from prunedeploy.passes.simplify_reshapes import SimplifyReshapes
from prunedeploy.passes.split_shapes import SplitShapes
from prunedeploy.passes.tabulate_maps import TabulateMaps
from prunedeploy.passes.to_float16 import ToFloat16


def before_cuts(zero_threshold: float = 0.0, *, larger: bool = True) -> tuple[Pass, ...]:
    """What runs before channels are cut; ``larger`` is that of ``FoldConstants``."""
    return (
        RemoveIdentity(),
        FoldConstants(larger),
        SplitShapes(),
        TabulateMaps(),
        FoldBatchNorm(),
        SimplifyGathers(),
        SimplifyReshapes(),
        SelectBeforeSplit(),
        FuseLayerNorm(),
        PlainGroupNorm(),
        RemoveDeadBranches(zero_threshold),
        MergeChannels(),
    )


def after_cuts(zero_threshold: float = 0.0, target: str = "host") -> tuple[Pass, ...]:
    """What is left once no channel can be cut, and worth doing only where ``target`` gains."""
    return (ScatterBranches(target, zero_threshold),)


def default(zero_threshold: float = 0.0, target: str = "host") -> tuple[Pass, ...]:
    """The passes in order; weights up to ``zero_threshold`` count as zero (``shrink/zero.py``)."""
    cut = ShrinkChannels(zero_threshold)
    return (*before_cuts(zero_threshold), cut, *after_cuts(zero_threshold, target))


DEFAULT = default()

__all__ = [
    "DEFAULT",
    "FoldBatchNorm",
    "FoldConstants",
    "FuseLayerNorm",
    "LowerOpset",
    "MergeChannels",
    "Pass",
    "PassError",
    "PlainGroupNorm",
    "Quantise",
    "RecordTwoFour",
    "RemoveDeadBranches",
    "RemoveIdentity",
    "RepackBlocks",
    "RoundWeights",
    "ScatterBranches",
    "SelectBeforeSplit",
    "ShrinkChannels",
    "SimplifyGathers",
    "SimplifyReshapes",
    "SplitShapes",
    "TabulateMaps",
    "ToFloat16",
    "after_cuts",
    "before_cuts",
    "default",
    "run",
]
