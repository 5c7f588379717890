"""Patterns: which weights of a layer are kept or removed together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify.budgets import BUDGETS
from prunedeploy.sparsify.units import Keep, Masks, Scope, Units, blocks, masks_of, weights

BLOCK = 8  # rows that share a column: what the sparse runtime computes as a small dense product


@dataclass(frozen=True)
class Pattern:
    """``units`` of a network's layers; ``fixed`` is the only density there is, 0 where any is."""

    name: str
    units: Callable[[nn.Module, Scope | None], Units]
    fixed: float = 0.0


PATTERNS: Mapping[str, Pattern] = {
    pattern.name: pattern
    for pattern in (
        Pattern("scattered", weights),
        Pattern("blocks", lambda module, scope: blocks(module, BLOCK, 1, scope)),
        Pattern("1x4", lambda module, scope: blocks(module, 1, 4, scope)),
        Pattern("2:4", weights, 0.5),
    )
}


def chosen(
    pattern: Pattern, units: Units, scores: Mapping[str, Tensor], density: float, budget: str
) -> Masks:
    """The masks of the layers for a share of units that stays.

    Args:
        pattern: what ``units`` are of.
        units: of the layers.
        scores: of single weights, by parameter and of its shape, larger is kept longer.
        density: share of all units.
        budget: a name of ``budgets.BUDGETS``.

    Raises:
        UserError: the pattern has another density.
    """
    if pattern.fixed:
        if abs(density - pattern.fixed) > 1e-9:
            raise UserError(
                f"the pattern {pattern.name} keeps {pattern.fixed:.0%} of the weights, "
                f"not {density:.0%}: take --density {pattern.fixed:g}"
            )
        budget = pattern.name
    ranked = {group.name: group.gather(scores) for group in units}
    keep: Keep = BUDGETS[budget](ranked, units, density)
    return masks_of(units, keep)
