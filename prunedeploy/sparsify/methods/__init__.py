"""Methods that train: each from its paper, one file a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Masks, masks_of, weights


@dataclass(frozen=True)
class MethodSettings:
    sparsity: float
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodReport:
    masks: Masks
    weight_sparsity: float
    unit_sparsity: float
    steps: int
    notes: tuple[str, ...]
    detection: tuple[float, ...] = ()


@dataclass(frozen=True)
class Method:
    name: str
    paper: str
    kind: str
    run: Callable[[Trainer, MethodSettings], MethodReport]


def _dense(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    trainer.run()
    return MethodReport({}, 0.0, 0.0, trainer.step, ())


def _magnitude(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    trainer.run()
    units = weights(trainer.module)
    values = {n: p.detach().abs() for n, p in trainer.module.named_parameters()}
    scores = {group.name: group.gather(values) for group in units}
    flat = torch.cat(list(scores.values()))
    cut = flat.kthvalue(max(1, int(len(flat) * settings.sparsity))).values
    masks = masks_of(units, {name: each > cut for name, each in scores.items()})
    trainer.step = 0

    def hold(*_: object) -> None:
        with torch.no_grad():
            for name, parameter in trainer.module.named_parameters():
                if name in masks:
                    parameter.mul_(masks[name])

    hold()
    handle = trainer.optimizer.register_step_post_hook(hold)
    trainer.run()
    handle.remove()
    kept = sum(int(mask.sum()) for mask in masks.values()) / units.count
    return MethodReport(masks, 1 - kept, 1 - kept, 2 * trainer.steps, ())


METHODS = {
    "dense": Method("dense", "", "scattered", _dense),
    "omp": Method("omp", "", "scattered", _magnitude),
}
