"""Passes edit models, and all but those of ``precision`` are exact. Each has a file of its own.

``default()`` has them in the order they run.

``LowerOpset``, ``RaiseOpset``, ``ToFloat16``, ``Quantise``, ``RoundWeights``, ``RepackBlocks``
and ``RecordTwoFour`` are not among the default ones: they are for targets that need them, or at the
user's word.
"""

from __future__ import annotations

from prunedeploy.passes._pass import Pass, PassError, run
from prunedeploy.passes.blocks.repack_blocks import RepackBlocks
from prunedeploy.passes.opset import LowerOpset
from prunedeploy.passes.opset.raise_opset import RaiseOpset
from prunedeploy.passes.precision.quantise import Quantise
from prunedeploy.passes.precision.record_two_four import RecordTwoFour
from prunedeploy.passes.precision.round_weights import RoundWeights
from prunedeploy.passes.precision.to_float16 import ToFloat16
from prunedeploy.passes.shrink import ShrinkChannels
from prunedeploy.passes.simplify.fold_batchnorm import FoldBatchNorm
from prunedeploy.passes.simplify.fold_constants import FoldConstants
from prunedeploy.passes.simplify.fuse_layernorm import FuseLayerNorm
from prunedeploy.passes.simplify.group_norm import PlainGroupNorm
from prunedeploy.passes.simplify.merge_channels import MergeChannels
from prunedeploy.passes.simplify.remove_dead_branches import RemoveDeadBranches
from prunedeploy.passes.simplify.remove_identity import RemoveIdentity
from prunedeploy.passes.simplify.scatter_branches import ScatterBranches
from prunedeploy.passes.simplify.select_before_split import SelectBeforeSplit
from prunedeploy.passes.simplify.simplify_gathers import SimplifyGathers
from prunedeploy.passes.simplify.simplify_reshapes import SimplifyReshapes
from prunedeploy.passes.simplify.split_shapes import SplitShapes
from prunedeploy.passes.simplify.tabulate_maps import TabulateMaps


def before_cuts(zero_threshold: float = 0.0, *, larger: bool = True) -> tuple[Pass, ...]:
    """The passes that run before channels are cut; ``larger`` is that of ``FoldConstants``."""
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
    """The passes to run once no channel can be cut, where ``target`` gains by them."""
    return (ScatterBranches(target, zero_threshold),)


def default(zero_threshold: float = 0.0, target: str = "host") -> tuple[Pass, ...]:
    """All passes in order; weights up to ``zero_threshold`` count as zero (analysis/zero.py)."""
    cut = ShrinkChannels(zero_threshold)
    return (*before_cuts(zero_threshold), cut, *after_cuts(zero_threshold, target))


DEFAULT = default()

__all__ = [
    "DEFAULT", "FoldBatchNorm", "FoldConstants", "FuseLayerNorm", "LowerOpset", "MergeChannels",
    "Pass", "PassError", "PlainGroupNorm", "Quantise", "RaiseOpset", "RecordTwoFour",
    "RemoveDeadBranches", "RemoveIdentity", "RepackBlocks", "RoundWeights", "ScatterBranches",
    "SelectBeforeSplit", "ShrinkChannels", "SimplifyGathers", "SimplifyReshapes", "SplitShapes",
    "TabulateMaps", "ToFloat16", "after_cuts", "before_cuts", "default", "run",
]  # fmt: skip
