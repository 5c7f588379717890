"""The sizes that engines are measured at, and each engine as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim, Engine
from prunedeploy.engines.sizes import each_engine
from prunedeploy.graph.fixed_shapes import Shape, Shapes, fixed
from prunedeploy.graph.several_sizes import AllSizes, each_size, size_names


@dataclass(frozen=True)
class AtSize:
    """Engines at one size; ``name`` is empty where there is no other one.

    ``titles`` are the names of the engines' folders, of all sizes.
    """

    name: str
    shapes: Shapes
    engines: tuple[Engine, ...]
    titles: tuple[str, ...]


def at_each_size(engines: Sequence[Engine], shapes: AllSizes | None) -> tuple[AtSize, ...]:
    """The engines at each size that was asked for, else at all that the first was built for.

    Raises:
        UserError: an engine has none of these sizes, or cannot have it.
    """
    sizes = each_size(shapes) if shapes else _built_for(engines[0])
    chosen = [tuple(at_size(engine, each) for engine in engines) for each in sizes]
    names: tuple[str, ...] = ("",)
    if len(sizes) > 1:
        names = size_names([first.manifest.inputs for first, *_ in chosen])
    titles = tuple(engine.path.name for engine in engines)
    return tuple(
        AtSize(name, each, opened, titles)
        for name, each, opened in zip(names, sizes, chosen, strict=True)
    )


def at_size(engine: Engine, shapes: Shapes) -> Engine:
    """The engine with the sizes that its inputs are to have in all that follows.

    Raises:
        UserError: it was built for other sizes.
    """
    if not shapes:
        return engine
    if engine.manifest.sizes:
        engine = _fitting(engine, shapes)
    inputs = fixed(engine.manifest.inputs, shapes)
    return replace(engine, manifest=replace(engine.manifest, inputs=inputs))


def _built_for(engine: Engine) -> tuple[Shapes, ...]:
    return tuple(
        {name: tuple(map(_stated, shape)) for name, shape in size.shapes.items()}
        for size in engine.manifest.sizes
    ) or ({},)


def _stated(size: Dim) -> int | None:
    return size if isinstance(size, int) else None


def _fitting(engine: Engine, shapes: Shapes) -> Engine:
    """The engine of a size, of an engine for several."""
    sizes = engine.manifest.sizes
    fitting = [
        one
        for one, size in zip(each_engine(engine), sizes, strict=True)
        if all(_agrees(size.shapes.get(n or next(iter(size.shapes))), shapes[n]) for n in shapes)
    ]
    if len(fitting) != 1:
        names = ", ".join(size.folder for size in sizes)
        raise UserError(f"{engine.path} has the sizes {names}: state one of them with --shape")
    return fitting[0]


def _agrees(built: Sequence[Dim] | None, stated: Shape) -> bool:
    return (
        built is not None
        and len(built) == len(stated)
        and all(
            isinstance(old, str) or new in (None, old)
            for old, new in zip(built, stated, strict=True)
        )
    )
