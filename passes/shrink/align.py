"""Dead channels that are kept, so that a layer's output channels are a multiple the target likes.

Engines compute channels in blocks, the lanes of a vector register or the tile of a tensor core: 33
channels take as long as 40 or 48, and in places longer, where a layer that does not fit the blocks
falls back to a slower kernel. To keep a dead channel is always exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunedeploy.passes.analysis.axes import Axes, Mask
from prunedeploy.passes.operators.layers import Layer, Weights


def reason(multiple: int) -> str:
    """Why they stay, in the words of the report."""
    return f"kept though dead: output channels in multiples of {multiple}"


def padding(
    layers: Sequence[Layer], axes: Axes, weights: Weights, stays: Mask, multiple: int
) -> set[int]:
    """Labels to keep besides those that stay, one step towards multiples in every layer.

    What they read must then stay as well, and what is tied to them stays in other layers, so the
    caller marks again and asks again until nothing is added. A layer that has too few channels to
    reach the next multiple gets none. Taken first are channels that read nothing, then those tied
    to the fewest others.
    """
    roots = [axes.roots(layer.result, layer.result_axis) for layer in layers]
    ties = np.bincount(np.concatenate([*roots, [0]]), minlength=len(axes))
    chosen: set[int] = set()
    for layer, own in zip(layers, roots, strict=True):
        if layer.depthwise or layer.grouped:
            continue  # its channels are those of the layer before; groups are cut each for itself
        staying = stays[own] | np.isin(own, list(chosen))
        count = int(staying.sum())
        missing = -count % multiple
        if not missing or count + missing > len(own):
            continue
        reads = weights.used(layer).any(axis=1)
        order = np.lexsort((own, ties[own], reads))
        for index in order[~staying[order]].tolist():
            if missing <= 0:
                break
            if own[index] not in chosen:
                chosen.add(int(own[index]))
                missing -= int((own == own[index]).sum())
    return chosen
