"""Words of the command line as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from prunedeploy.graph.input_range import Bounds


def parse_shape(text: str) -> tuple[int, ...]:
    """1,3,224,224 or 1x3x224x224."""
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a shape; write it as 1,3,224,224")
    return tuple(map(int, parts))


Shapes: TypeAlias = dict[str, tuple[int | None, ...]]


def parse_sizes(given: list[str] | None) -> tuple[Shapes, ...]:
    """NAME=1x128 for each input, or 1x128 for the only one; ? is a size that stays open.

    NAME=1x64,1x128 is for several sizes: the first of every input go together, then the second.
    """
    stated: dict[str, list[tuple[int | None, ...]]] = {}
    for text in given or []:
        name, _, sizes = text.rpartition("=")
        if name in stated or (stated and not name):
            raise typer.BadParameter(f"{text!r}: state the shape of each input once, by its name")
        # 1,3,224,224 is one shape, with commas
        forms = sizes.split(",") if "x" in sizes else [sizes.replace(",", "x")]
        stated[name] = [_parse_open(text, form) for form in forms]
    counts = {name: len(shapes) for name, shapes in stated.items()}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise typer.BadParameter(
            f"the sizes of all inputs go together, in their order: give as many of each ({counted})"
        )
    if not stated:
        return ({},)
    return tuple(
        dict(zip(stated, size, strict=True)) for size in zip(*stated.values(), strict=True)
    )


def _parse_open(text: str, sizes: str) -> tuple[int | None, ...]:
    """1x128, which ``text`` has; ? is None."""
    parts = [part.strip() for part in sizes.split("x")]
    if not all(part == "?" or (part.isdecimal() and int(part) > 0) for part in parts):
        raise typer.BadParameter(f"{text!r} is not a shape; write it as NAME=1x128")
    return tuple(None if part == "?" else int(part) for part in parts)


def parse_batches(text: str) -> tuple[int, ...]:
    """1,8,32."""
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} are not batch sizes; write them as 1,8,32")
    return tuple(map(int, parts))


def parse_engines(given: list[str]) -> dict[str, str] | list[str]:
    """NAME=ENGINE for every engine, or ENGINE for every engine."""
    named = [text.partition("=") for text in given]
    if not any(equals for _, equals, _ in named):
        return given
    if not all(name and path for name, _, path in named):
        raise typer.BadParameter("name all engines, as NAME=ENGINE, or none")
    if len({name for name, _, _ in named}) < len(named):
        raise typer.BadParameter("give every engine another name")
    return {name: path for name, _, path in named}


def parse_floats(text: str) -> tuple[float, ...]:
    """0.5,0.5,0.5."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers like 0.5,0.5,0.5") from None


def parse_ranges(given: list[str]) -> str | tuple[float, float] | dict[str, Bounds] | None:
    """One range for the only input or "recipe"; with names, one for each."""
    if not given or given == ["recipe"]:
        return given[0] if given else None
    if len(given) == 1 and "=" not in given[0]:
        return parse_range(given[0])
    named = [text.rpartition("=") for text in given]
    if not all(name for name, _, _ in named) or len({name for name, _, _ in named}) < len(named):
        raise typer.BadParameter("write each range once, as NAME=LOW,HIGH, for several inputs")
    return {name: parse_range(text) for name, _, text in named}


def parse_range(text: str) -> tuple[float, float]:
    """LOW,HIGH."""
    numbers = parse_floats(text)
    if len(numbers) != 2:
        raise typer.BadParameter(f"{text!r} is not a range; write it as 0,1, or as recipe")
    return numbers[0], numbers[1]


def parse_align(text: str) -> int | Literal["auto"]:
    """A number from 1, or auto."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number from 1 nor auto")
    return int(text)
