"""Files that hold the network's program beside its weights: TorchScript and torch.export.

TorchScript is run by an interpreter of its own that has no Python in it, but its programs run while
they are loaded (``__setstate__``), can write files, and have operators that read and write outside
of their tensors. ``torch.export.load`` evaluates expressions of the file with sympy, which calls
``eval``, falls back to unrestricted pickle, and compiles Python from names in the file. So both are
only called on trusted files; the weights are read without them (``read.py``).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from prunedeploy.checkpoint.read import readable


def load_torchscript(path: Path) -> nn.Module:
    """The TorchScript module of a trusted file in eval mode, its weights on the CPU.

    Raises:
        UserError: the file is damaged.
    """
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return module.float().eval()


def load_exported(path: Path) -> tuple[nn.Module, tuple[int, ...] | None]:
    """The program of a trusted ``.pt2`` file, and the shape of the input it was exported with."""
    with readable(path), path.open("rb") as file:
        exported = torch.export.load(file)
        module = exported.module()
    for part in module.modules():  # its eval() is not supported: modes are part of the program
        part.training = False
    args = exported.example_inputs[0] if exported.example_inputs else ()
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    shape = tuple(int(n) for n in tensors[0].shape) if tensors else None
    return module.requires_grad_(False), shape
