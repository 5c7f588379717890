"""What a network takes, as a user states it: several inputs, token ids, ranges of values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunedeploy.core.errors import UserError
from prunedeploy.shrinking.examples import Call

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "int8", "bool")
FORM = re.compile(
    r"(?P<name>[^=\[\]]+)=(?P<dtype>\w+)\[(?P<shape>\d+(?:[,x]\d+)*)\]"
    r"(?::(?P<low>-?[\d.]+)\.\.(?P<high>-?[\d.]+))?"
)


@dataclass(frozen=True)
class ExampleInput:
    """One input of a network: its name, dtype and the shape of one batch.

    ``bounds`` are the lowest and the highest value, both included, that it may have; None where
    they are not stated: floats are then drawn from 0 to 1, integers are 0 or 1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None = None

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Random values of one batch."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        low, high = self.bounds or (0.0, 1.0)
        values = torch.rand(self.shape, generator=generator, dtype=torch.float64)
        if dtype.is_floating_point:
            return (low + (high - low) * values).to(dtype)
        return (low + (high + 1 - low) * values).floor().clamp(low, high).to(dtype)


def parse(text: str) -> ExampleInput:
    """``input_ids=int64[1,128]`` or ``input_ids=int64[1,128]:0..30521``.

    Raises:
        UserError: it is written otherwise, or a size or a range makes no sense.
    """
    match = FORM.fullmatch(text.strip())
    if match is None or match["dtype"] not in DTYPES:
        raise UserError(
            f"{text!r} is not an input: write it as NAME=int64[1,128], with its range as"
            f" NAME=int64[1,128]:0..30521; types are {', '.join(DTYPES)}"
        )
    shape = tuple(map(int, re.split("[,x]", match["shape"])))
    if 0 in shape:
        raise UserError(f"{text!r} has a size of zero: give sizes from 1")
    bounds = None
    if match["low"] is not None:
        try:
            bounds = float(match["low"]), float(match["high"])
        except ValueError:
            raise UserError(f"{text!r} has a range that is none: write it as 0..30521") from None
        if bounds[0] > bounds[1]:
            raise UserError(f"{text!r} has a range without a number: write the lower one first")
    return ExampleInput(match["name"].strip(), match["dtype"], shape, bounds)


def call_of(module: torch.nn.Module, inputs: Sequence[ExampleInput]) -> Call:
    """Random values of the inputs, for the arguments of their names, or in their order.

    Raises:
        UserError: the network's forward has some of the names, and not others.
    """
    import torch

    named = by_name(module, inputs)
    generator = torch.Generator().manual_seed(0)
    drawn = {each.name: each.draw(generator) for each in inputs}
    described = ", ".join(f"{x.name}={x.dtype}[{','.join(map(str, x.shape))}]" for x in inputs)
    words = (described, "state its inputs with --input")
    if named:
        return Call((), drawn, (), *words)
    return Call(tuple(drawn.values()), {}, tuple(drawn), *words)


def by_name(module: torch.nn.Module, inputs: Sequence[ExampleInput]) -> bool:
    """Whether the network's forward has arguments of the names of all inputs.

    Raises:
        UserError: it has of some, and not of others; or of a name twice.
    """
    names = [each.name for each in inputs]
    if len(set(names)) < len(names):
        raise UserError("two inputs have one name: state each once")
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return False
    known = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    unknown = [name for name in names if name not in known]
    if unknown and len(unknown) < len(names):
        raise UserError(
            f"the network has no argument {unknown[0]}: its forward takes {', '.join(known)}"
        )
    return not unknown
