"""Back to PyTorch: the shrunken network as a torch.export program, or as a sliced nn.Module."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunedeploy.core import files
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

__all__ = ["Outputs", "write_program", "write_state"]


@dataclass(frozen=True)
class Outputs:
    """The files for PyTorch that were asked for."""

    pt: Path | None
    state_dict: Path | None

    @classmethod
    def at(
        cls, taken: Collection[Path], pt: str | Path | None, state_dict: str | Path | None
    ) -> Outputs:
        """Places that can be written, and are not among those ``taken``.

        Raises:
            UserError: one cannot, or is.
        """
        if pt is not None and Path(pt).suffix != ".pt2":
            raise UserError(f"the torch program {pt} should end in .pt2")
        real = {os.path.realpath(path) for path in taken}
        paths = [None if path is None else Path(path) for path in (pt, state_dict)]
        for path in paths:
            if path is None:
                continue
            if os.path.realpath(path) in real:
                raise UserError(f"{path} is another file of this run: name another one")
            files.check_writable(path)
            real.add(os.path.realpath(path))
        return cls(*paths)


def write_state(
    path: Path,
    module: nn.Module,
    model: ir.Model,
    feeds: Mapping[str, Array],
    zero_threshold: float,
    arch: str | None,
) -> None:
    """Write the sliced state_dict of ``module`` and its plan; see ``slicing.slice_module``.

    Raises:
        UserError: the module cannot be sliced.
    """
    import torch

    from prunedeploy.to_torch import slicing

    if isinstance(module, torch.jit.ScriptModule):
        raise UserError("a TorchScript program cannot be sliced: take --pt, or name --arch")
    slicing.save(slicing.slice_module(module, model, feeds, zero_threshold), path, arch)


def write_program(
    path: Path,
    model: ir.Model,
    feeds: Mapping[str, Array],
    expected: Mapping[str, Array],
    buffers: Collection[str],
) -> None:
    """Write the model as a torch.export program; see ``program.write``."""
    from prunedeploy.to_torch import program

    program.write(model, feeds, expected, path, buffers)
