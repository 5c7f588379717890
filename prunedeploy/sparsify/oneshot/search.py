"""The largest share of units that costs no more than it may."""

from __future__ import annotations

from collections.abc import Callable

from prunedeploy.sparsify.units import Masks

HALVINGS = 14  # of the interval in which a share is searched


def searched(
    masks_at: Callable[[float], Masks], cost: Callable[[Masks], float], wanted: float
) -> Masks:
    """The masks of the largest share that cost no more than ``wanted``, or the cheapest.

    Args:
        masks_at: of a share in (0, 1].
        cost: which grows with the share.
        wanted: in the unit of ``cost``.

    Example:
        >>> import torch
        >>> masks = searched(lambda share: {"w": torch.arange(10) < 10 * share},
        ...                  lambda masks: float(masks["w"].sum()), 4.0)
        >>> int(masks["w"].sum())
        4
    """
    best = masks_at(1.0)
    if cost(best) <= wanted:
        return best
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        masks = masks_at(middle)
        if cost(masks) <= wanted:
            low, best = middle, masks
        else:
            high = middle
    return best if low else masks_at(high)
