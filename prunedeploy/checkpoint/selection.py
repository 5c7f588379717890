"""Channel selection of network slimming: widen the layer behind it instead of selecting.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017; the
public code keeps a BatchNorm over all channels in front of a ``channel_selection`` layer, whose
parameter ``indexes`` holds a one for each channel that the next convolution reads.
"""

from __future__ import annotations

from torch import Tensor

from prunedeploy.core.errors import UserError

State = dict[str, Tensor]


def expand(state: State) -> str | None:
    """Give the reader of each selection zero columns for what was not selected: the same outputs.

    The reader is the first weight behind ``indexes``, in the order of the modules, within the
    block that holds the selection.

    Raises:
        UserError: that weight does not have one input a selected channel.
    """
    names = [name for name in state if name.rpartition(".")[2] == "indexes"]
    widened = 0
    for name in names:
        indexes = state[name].flatten()
        kept = indexes.nonzero().flatten()
        if len(kept) < len(indexes):
            reader = _reader(state, name)
            if reader is None or state[reader].shape[1] != len(kept):
                raise UserError(
                    f"{name} selects {len(kept)} of {len(indexes)} channels, but"
                    f" {reader or 'no layer behind it'} does not read that many: name the network"
                    " that has the selection with --arch pkg.module:factory"
                )
            weight = state[reader]
            wide = weight.new_zeros(weight.shape[0], len(indexes), *weight.shape[2:])
            wide[:, kept] = weight
            state[reader] = wide
            widened += 1
        del state[name]
    if not names:
        return None
    return (
        f"{len(names)} channel selections (indexes), {widened} of them folded into the next layer"
    )


def _reader(state: State, name: str) -> str | None:
    block = ".".join(name.split(".")[:-2])
    block = f"{block}." if block else ""
    behind = list(state)
    for key in behind[behind.index(name) + 1 :]:
        if key.startswith(block) and key.endswith("weight") and state[key].dim() > 1:
            return key
    return None
