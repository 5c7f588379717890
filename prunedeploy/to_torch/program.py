"""A model written as a torch.export program: it loads without anybody's source code."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Difference
from prunedeploy.reference import verify
from prunedeploy.to_torch.network import Network
from prunedeploy.to_torch.values import of_array

LARGEST = 1 << 16  # of a dynamic size


class ProgramError(RuntimeError):
    """The program does not compute what the model computes: a bug of ours, nothing is kept."""


def write(
    model: ir.Model,
    feeds: Mapping[str, Array],
    expected: Mapping[str, Array],
    path: Path,
    frozen: Collection[str] = (),
) -> Difference:
    """Write ``model`` to ``path``, load it again, and compare what it computes.

    Args:
        model: functions inlined, nodes in topological order.
        feeds: inputs to export with and to compare on.
        expected: what the model makes of them.
        path: the file to write; it should end in .pt2.
        frozen: see ``Network``.

    Raises:
        UserError: an operator that has no torch program, by name, or a network that torch cannot
            export.
        ProgramError: the loaded program computes something else.
    """
    network = Network(model, frozen)
    names = [str(v.name) for v in model.graph.inputs if v.name in feeds]
    examples = tuple(of_array(feeds[name]) for name in names)
    with path.open("wb") as file:  # torch asks for .pt2 at the end of a name, a file has none
        torch.export.save(_export(network, examples, _dynamic(model)), file)
    with path.open("rb") as file:
        loaded = torch.export.load(file)
    outputs = run(loaded.module(), examples, list(expected))
    difference = verify.compare(expected, outputs, verify.tolerances_of(model))
    if not difference.passed:
        raise ProgramError(f"the torch program is off by {difference.max_rel:.1e}")
    return difference


def run(module: nn.Module, examples: tuple[Tensor, ...], outputs: list[str]) -> dict[str, Array]:
    """The outputs of a module by name."""
    with torch.no_grad():
        computed = module(*examples)
    results = computed if isinstance(computed, tuple | list) else (computed,)
    return {name: _numpy(result) for name, result in zip(outputs, results, strict=True)}


def _numpy(result: Tensor) -> Array:
    result = result.detach()
    if result.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(result.float().numpy().astype(ml_dtypes.bfloat16))
    return np.asarray(result.numpy())


def _dynamic(model: ir.Model) -> list[dict[int, Any]]:
    """The dynamic dimensions of each input; those of one name are of one size."""
    sizes: dict[str, Any] = {}
    dimensions = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        dims: dict[int, Any] = {}
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, int):
                continue
            name = str(dim.value or f"{value.name}_{axis}")
            plain = "".join(c if c.isalnum() else "_" for c in name)
            plain = plain if plain.isidentifier() else f"size_{plain}"
            dims[axis] = sizes.setdefault(name, Dim(plain, min=1, max=LARGEST))
        dimensions.append(dims)
    return dimensions


def _export(
    network: nn.Module, examples: tuple[Tensor, ...], dynamic: list[dict[int, Any]]
) -> ExportedProgram:
    """With the sizes dynamic that the model has so; with what torch makes of them where it must."""
    loose = [dict.fromkeys(dims, Dim.AUTO) for dims in dynamic]
    choices = [dynamic, loose] if any(dynamic) else [dynamic]
    for choice in choices:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(network, examples, dynamic_shapes=(tuple(choice),))
        except UserError:
            raise
        except Exception as error:  # torch.export raises whatever it meets
            reason = _reason(error)
    raise UserError(f"torch cannot export the shrunk network ({reason}): shrink without --pt")


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while isinstance(cause, Exception) and cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(cause).__name__
