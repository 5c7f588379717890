"""Example inputs of a network, as the arguments of one call of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from prunedeploy.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prunedeploy.core.records import Array

    Tensor: TypeAlias = torch.Tensor | Array
    ExampleInputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

INPUT = "input"  # the name of the only one


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a network, on the CPU: by position or by name, at least one."""

    args: tuple[torch.Tensor, ...]
    kwargs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    stated: tuple[str, ...] = ()  # names for those by position
    described: str = "the example inputs"
    advice: str = "give what its forward takes"

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All arguments in order."""
        return (*self.args, *self.kwargs.values())

    def names(self, module: nn.Module) -> list[str]:
        """What the inputs are called: as in ``forward``, but the only one by position ``INPUT``."""
        if self.stated:
            return list(self.stated)
        if self.kwargs or len(self.args) == 1:
            return list(self.kwargs) or [INPUT]
        names = [*inspect.signature(module.forward).parameters][: len(self.args)]
        rest = range(len(names), len(self.args))  # of *args
        return [*names, *(f"{INPUT}_{number}" for number in rest)]

    def in_batches(self) -> Call | None:
        """The same in a batch of two samples or more; None where the first axis is no batch."""
        import torch

        sizes = {tensor.shape[:1] for tensor in self.tensors}
        if len(sizes) > 1 or sizes == {()}:
            return None
        if sizes != {(1,)}:
            return self
        return Call(
            tuple(torch.cat([x, x]) for x in self.args),
            {name: torch.cat([x, x]) for name, x in self.kwargs.items()},
            *(self.stated, self.described, self.advice),
        )


def call_and_output(
    example_inputs: ExampleInputs | str | Path | None, output: str | Path | None
) -> tuple[Call | None, str | Path | None]:
    """The two arguments behind the model, of which a path in the first's place is the second.

    Raises:
        UserError: the inputs are no tensors, or there are two outputs.
    """
    if not isinstance(example_inputs, str | Path):
        return (None if example_inputs is None else call_of(example_inputs)), output
    if output is not None:
        raise UserError(f"two outputs, {example_inputs} and {output}: name one")
    return None, example_inputs


def call_of(example_inputs: ExampleInputs) -> Call:
    """One tensor or array, several in order, or several by name, as a call.

    Raises:
        UserError: something else.
    """
    if isinstance(example_inputs, Mapping):
        named = {str(name): _tensor(value) for name, value in example_inputs.items()}
        call = Call((), named)
    elif isinstance(example_inputs, tuple | list):
        call = Call(tuple(map(_tensor, example_inputs)))
    else:
        call = Call((_tensor(example_inputs),))
    if not call.tensors:
        raise UserError("there are no example inputs: give a tensor for every input")
    return call


def _tensor(value: object) -> torch.Tensor:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu")
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    raise UserError(
        f"example inputs are tensors or arrays, found {type(value).__name__}: "
        "a shape goes into input_shape"
    )
