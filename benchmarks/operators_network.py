"""A network of ``operators.py``: the module, and what it is called with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
IMAGE = (1, 3, 64, 64)


@dataclass(frozen=True)
class Network:
    """A module and an example of what it takes, with a name for each input."""

    module: nn.Module
    inputs: Inputs
    names: tuple[str, ...]
