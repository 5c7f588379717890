"""One network with channels dead by construction: what every tool is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from peers.ledger import Ledger, randomise, signed_constants


class Described(Protocol):
    """A module that writes its own structure down and says which of its channels die."""

    def describe(self, s: Ledger, image: Tensor) -> Tensor | None:
        """Enter all layers; the numbers that die, None for a fraction of all."""
        ...


@dataclass(frozen=True)
class Case:
    """A network in one regime. ``removable`` weights are known by construction."""

    name: str
    regime: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    removable: int

    @property
    def slug(self) -> str:
        """A file name."""
        words = f"{self.name}.{self.regime}"
        return "".join(letter if letter.isalnum() or letter == "." else "_" for letter in words)


@dataclass(frozen=True)
class Spec:
    """How to make the cases of one network, the same in every process.

    ``regimes`` are the ones that make sense for it. ``nothing`` says that no weight can go, though
    rows are zero: what reads them makes something else of the zero in every position.
    """

    name: str
    factory: Callable[[], nn.Module]
    regimes: tuple[str, ...] = ("clean",)
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),)
    nothing: bool = False
    tokens: int = 0  # of the vocabulary, where the inputs are numbers of tokens

    def inputs(self, seed: int = 7) -> tuple[Tensor, ...]:
        """The same for every tool."""
        random = torch.Generator().manual_seed(seed)
        if self.tokens:
            return tuple(torch.randint(self.tokens, s, generator=random) for s in self.shapes)
        return tuple(torch.randn(shape, generator=random) for shape in self.shapes)

    def case(self, regime: str, fraction: float = 0.3) -> Case:
        """The network with random weights and dead channels."""
        torch.manual_seed(3)
        random = torch.Generator().manual_seed(3)
        module, inputs = self.factory().eval(), self.inputs()
        randomise(module, inputs, random)
        ledger = Ledger(module)
        image = ledger.new(inputs[0].shape[1], mortal=False)
        chosen = module.describe(ledger, image)
        everything = torch.zeros(ledger.total, dtype=torch.bool)
        if regime == "independent":
            dead = ledger.independent(fraction, random)
        else:
            dead = ledger.choose(fraction, random) if chosen is None else everything.clone()
            if chosen is not None:
                dead[chosen] = True
            _kill(ledger, dead, regime, random)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        removable = 0 if self.nothing else ledger.weights(everything) - ledger.weights(dead)
        return Case(self.name, regime, module, inputs, removable)


def _kill(ledger: Ledger, dead: Tensor, regime: str, random: torch.Generator) -> None:
    if regime == "columns":
        ledger.zero_readers(dead)
        return
    constants = torch.zeros(ledger.total)
    if regime == "beta":
        constants = signed_constants(ledger.total, random)
    if regime == "negative beta":
        constants = -signed_constants(ledger.total, random).abs()
    ledger.zero_writers(dead, constants, 1e-41 if regime == "denormal" else 0.0)


def is_weight(shape: tuple[int, ...]) -> bool:
    """Whether it is counted: at least two axes longer than one."""
    return sum(size > 1 for size in shape) > 1
