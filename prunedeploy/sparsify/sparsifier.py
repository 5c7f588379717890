"""Make a network sparse inside of anybody's training loop, by hooks on the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.budgets import Budget, overall
from prunedeploy.sparsify.masks import Held, weight_sparsity
from prunedeploy.sparsify.schedules import Schedule, never
from prunedeploy.sparsify.units import Batches, Keep, Masks, Score, Units, masks_of


@dataclass(frozen=True)
class Sparsified:
    """What ``finish`` left: the shares of units and of weights of layers that are zero."""

    masks: Masks
    unit_sparsity: float
    weight_sparsity: float
    steps: int


class Sparsifier:
    """Ranks units, chooses, and holds the masks, at the steps that the schedule names.

    It counts optimizer steps, so gradients may be accumulated over several batches, and a step that
    a GradScaler skips is none. What is masked once stays masked.

    Args:
        module: the network, whose ``state_dict`` stays that of plain weights.
        units: what is kept or removed together, of ``units.weights``, ``channels.channels``, ...
        score: how units are ranked; one of ``scores.SCORES``.
        schedule: the share that stays, at a step; see ``schedules``.
        budget: how scores and a share become a choice; see ``budgets``.
        batches: of normalised inputs and labels, for scores that need gradients.

    Example:
        >>> import torch
        >>> from prunedeploy.sparsify.schedules import cubic
        >>> from prunedeploy.sparsify.scores.magnitude import magnitude
        >>> from prunedeploy.sparsify.units import weights
        >>> network = torch.nn.Linear(100, 10)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> units = weights(network)
        >>> sparsifier = Sparsifier(network, units, magnitude, cubic(0, 8, every=2, density=0.1))
        >>> sparsifier.attach(optimizer)
        >>> for _ in range(10):
        ...     network(torch.randn(4, 100)).square().mean().backward()
        ...     optimizer.step()
        >>> sparsifier.finish().unit_sparsity
        0.9
    """

    def __init__(
        self,
        module: nn.Module,
        units: Units,
        score: Score,
        schedule: Schedule = never,
        budget: Budget = overall,
        batches: Batches = (),
    ) -> None:
        self.module, self.units, self.score = module, units, score
        self.schedule, self.budget, self.batches = schedule, budget, batches
        self.step = 0
        self.keep: Keep = {group.name: torch.ones(group.count, dtype=torch.bool) for group in units}
        self._held = Held(module, {})
        self._handles: list[RemovableHandle] = []

    @property
    def masks(self) -> Masks:
        """The masks in force, by parameter."""
        return self._held.masks

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin: what the schedule says of step 0 is done now."""
        self.detach()
        if self.step == 0:
            self._prune()
        self._held.apply()
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._held.mask_gradients()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]

    def prune(self, density: float) -> None:
        """Rank now, and keep that share of the units."""
        scores = self.score(self.module, self.units, self.batches)
        gone = {
            name: each.masked_fill(~self.keep[name], -math.inf) for name, each in scores.items()
        }
        chosen = self.budget(gone, self.units, density)
        self.set_keep({name: chosen[name] & self.keep[name] for name in chosen})

    def set_keep(self, keep: Keep) -> None:
        """Hold another choice from now on."""
        self.keep = dict(keep)
        device = next(self.module.parameters()).device
        masks = masks_of(self.units, self.keep)
        self._held.masks = {name: mask.to(device) for name, mask in masks.items()}
        self._held.apply()

    def state_dict(self) -> dict[str, Any]:
        """The step and the choice; save it beside the module's and the optimizer's."""
        return {"step": self.step, "keep": {name: each.clone() for name, each in self.keep.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, before or after ``attach``.

        Raises:
            UserError: the state is of other units.
        """
        keep: Mapping[str, Tensor] = state["keep"]
        counts = {name: len(each) for name, each in keep.items()}
        if counts != {group.name: group.count for group in self.units}:
            raise UserError("the sparsifier's state is of another network or of other units")
        self.step = int(state["step"])
        self.set_keep({name: each.clone() for name, each in keep.items()})

    def detach(self) -> None:
        """Let go of the optimizer; ``attach`` goes on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def finish(self) -> Sparsified:
        """Let go of the optimizer; the module has plain weights with zeros in their places."""
        self.detach()
        self._held.apply()
        return Sparsified(
            self.masks, unit_sparsity(self.keep), weight_sparsity(self.module), self.step
        )

    def _after_step(self) -> None:
        self._held.apply()
        self.step += 1
        self._prune()

    def _prune(self) -> None:
        density = self.schedule(self.step)
        if density is not None:
            self.prune(density)


def unit_sparsity(keep: Keep) -> float:
    """The share of units that do not stay, in [0, 1]."""
    total = sum(each.numel() for each in keep.values())
    return 1 - sum(int(each.sum()) for each in keep.values()) / total if total else 0.0
