"""Tensors of classes of their own, which keep their numbers in parts: 2:4 packed, blocks.

torch.save writes such a tensor as its class, its size and its attributes. No code of the class is
run; ``prunedeploy.checkpoint.unpacked`` makes plain tensors of those whose parts say all.
"""

from __future__ import annotations

import pickle
from typing import Any

from prunedeploy.checkpoint.pickle.stub import Quantised, Stub


class PackedTensor(Quantised):
    """A tensor of another class: ``args`` begin with the class, its dtype and its size."""

    @property
    def kind(self) -> str:
        """The name of its class."""
        origin = getattr(self.args[0], "origin", "") if self.args else ""
        return origin.rpartition(".")[2] or "tensor of an unknown class"


def packed_tensor(kind: Any, *args: Any) -> PackedTensor:
    """What ``torch._utils._rebuild_wrapper_subclass`` is called with."""
    if not (isinstance(kind, type) and issubclass(kind, Stub)) or len(args) < 2:
        raise pickle.UnpicklingError("a tensor without a class")
    return PackedTensor(kind, *args)
