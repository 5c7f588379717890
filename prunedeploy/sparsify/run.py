"""A method at work: its options, the steps that it takes, and the report at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify import masks as masking
from prunedeploy.sparsify.budgets import BUDGETS, Budget
from prunedeploy.sparsify.channels import channels
from prunedeploy.sparsify.sparsifier import Sparsifier, unit_sparsity
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Batches, Keep, Masks, Score, Units, weights

Kind = Literal["scattered", "channels", "blocks"]


@dataclass(frozen=True)
class MethodSettings:
    """How much is to go, and the method's own options, each of which has a default."""

    sparsity: float  # share of units removed, in [0, 1)
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UserError(f"the sparsity is {self.sparsity:g}: it has to be in [0, 1)")


@dataclass(frozen=True)
class Detection:
    """What the time of pruning was told by: the values measured, and what they had to fall to.

    ``measured`` says what they are; ``epochs`` is how many epochs lie between two of them.
    """

    measured: str
    values: tuple[float, ...]
    limit: float
    epochs: float = 1.0


@dataclass(frozen=True)
class MethodReport:
    """What a method left: shares in [0, 1], and optimizer steps of all its trainings together.

    ``detection`` says how the method found its time, where it looked for one.
    """

    masks: Masks
    weight_sparsity: float
    unit_sparsity: float
    steps: int
    notes: tuple[str, ...]
    detection: Detection | None = None


@dataclass(frozen=True)
class Method:
    """A method by its name; ``kind`` says of which units its sparsity counts."""

    name: str
    paper: str
    kind: Kind
    run: Callable[[Trainer, MethodSettings], MethodReport]


class Holder(Protocol):
    """What holds masks while an optimizer steps."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin."""

    def detach(self) -> None:
        """End."""


class Run:
    """The trainer under a method.

    Args:
        defaults: the method's options; others are refused.

    Raises:
        UserError: an option that the method does not have.
    """

    def __init__(
        self, trainer: Trainer, settings: MethodSettings, defaults: Mapping[str, Any]
    ) -> None:
        unknown = settings.options.keys() - defaults.keys()
        if unknown:
            known = ", ".join(defaults) or "none"
            raise UserError(f"the method has no option {min(unknown)!r}; it has {known}")
        self.trainer, self.settings = trainer, settings
        self.options: dict[str, Any] = {**defaults, **settings.options}
        self.density = 1 - settings.sparsity
        self.steps = 0
        self.notes: list[str] = []

    def at(self, share: float) -> int:
        """The step at that share of the whole training."""
        return round(share * self.trainer.steps)

    def train(
        self,
        until: int | None = None,
        held: Holder | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """Train up to step ``until``, by default the last, while ``held`` holds its masks."""
        before = self.trainer.step
        if held is not None:
            held.attach(self.trainer.optimizer)
        try:
            self.trainer.run(until, on_step)
        finally:
            if held is not None:
                held.detach()
        self.steps += max(0, self.trainer.step - before)

    def go_back(self, share: float) -> None:
        """Repeat the last ``share`` of the learning rates with the weights as they are.

        Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020.
        """
        self.trainer.step = self.at(1 - share)
        self.trainer.optimizer.state.clear()

    def units(self, kind: Kind) -> Units:
        """Single weights of the inner layers, or coupled channels."""
        if kind == "scattered":
            return weights(self.trainer.module)
        if kind == "channels":
            return channels(self.trainer.module, (1, *self.trainer.data.inputs.shape[1:]))
        raise UserError(f"units are scattered or channels, not {kind!r}")

    def batches(self) -> Batches:
        """Training data for scores: ``options["batches"]`` of them."""
        return self.trainer.batches(self.options["batches"], self.trainer.settings.batch)

    def sparsifier(
        self, units: Units, score: Score, budget: str | Budget = "global", batches: Batches = ()
    ) -> Sparsifier:
        """A sparsifier that the method prunes by itself."""
        chosen: Budget = choose(BUDGETS, budget, "budget") if isinstance(budget, str) else budget
        return Sparsifier(self.trainer.module, units, score, budget=chosen, batches=batches)

    def report(
        self, masks: Masks, keep: Keep | None = None, detection: Detection | None = None
    ) -> MethodReport:
        """Apply the masks to the plain weights, and say what is left.

        Without ``keep`` units are the single weights that have masks.
        """
        masking.apply(self.trainer.module, masks)
        share = unit_sparsity(masks if keep is None else keep)
        if keep is not None and self._too_few(keep):
            self.notes.append(
                f"{share:.1%} of the units are gone, not {self.settings.sparsity:.1%}: every group"
                " keeps one"
            )
        zeros = masking.weight_sparsity(self.trainer.module)
        return MethodReport(masks, zeros, share, self.steps, tuple(self.notes), detection)

    def _too_few(self, keep: Keep) -> bool:
        """Whether more units stay than the nearest whole number to the share."""
        total = sum(each.numel() for each in keep.values())
        return sum(int(each.sum()) for each in keep.values()) > max(1, round(self.density * total))


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry of that name.

    Raises:
        UserError: there is none; the message has those that there are.
    """
    if name not in table:
        raise UserError(f"no {what} is called {name!r}: use {', '.join(table)}")
    return table[name]


def shuffled(keep: Keep, seed: int) -> Keep:
    """As many units of each group, others: what a criterion knows beyond its budget is lost.

    Frankle et al., "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?", 2021.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: each[torch.randperm(len(each), generator=generator)] for name, each in keep.items()
    }
