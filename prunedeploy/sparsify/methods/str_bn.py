"""STR-BN: trained thresholds on the scales of BatchNorm, so that whole channels go.

Kusupati, "Adapting Unstructured Sparsity Techniques for Structured Sparsity": Y = gamma' (X + beta)
with gamma' thresholded; what g(s) is the report leaves open. A channel of a residual sum counts
once it is zero in every BatchNorm that writes it, and a BatchNorm keeps its largest scale.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.methods._thresholds import OPTIONS, start, train_with
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.scores.members import named, scales
from prunedeploy.sparsify.soft_threshold import SoftThresholds
from prunedeploy.sparsify.sparsifier import unit_sparsity
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Group, Keep, masks_of


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: see ``_thresholds``."""
    this = Run(trainer, settings, OPTIONS)
    units = this.units("channels")
    groups = {group.name: _scaled(trainer, group) for group in units}
    names = list(dict.fromkeys(m.parameter for group in groups.values() for m in group.members))
    layers = [trainer.module.get_submodule(name.rpartition(".")[0]) for name in names]
    thresholds = SoftThresholds(layers, start(this))

    def keep() -> Keep:
        alive = {name: each.float() for name, each in zip(names, thresholds.alive(), strict=True)}
        return {name: _alive(group, alive) for name, group in groups.items()}

    train_with(this, thresholds, lambda: unit_sparsity(keep()))
    kept = keep()
    thresholds.fold()
    return this.report(masks_of(units, kept), kept)


def _scaled(trainer: Trainer, group: Group) -> Group:
    """The scales of a group of channels."""
    norms = scales(trainer.module, group)
    if norms is None:
        raise UserError(f"no BatchNorm scales the channels of {group.name}: take another method")
    return named(norms, "weight")


def _alive(group: Group, alive: Mapping[str, Tensor]) -> Tensor:
    return group.gather(alive) > 0


METHODS = (Method("str_bn", "Kusupati, 2020", "channels", run),)
