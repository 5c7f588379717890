"""Several sizes of a model's inputs: what they share, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim, TensorSpec

Shape = Sequence[int | None]  # None leaves an axis as it is
Shapes = Mapping[str, Shape]  # by the name of the input; "" is the only one
AllSizes = Shapes | Sequence[Shapes]  # of one size, or of each of several
MAX_NAME = 60  # characters of a size's name; longer ones are numbers


def each_size(shapes: AllSizes | None) -> tuple[Shapes, ...]:
    """The shapes of each size; of one that states nothing where none is given."""
    if shapes is None or isinstance(shapes, Mapping):
        return (shapes or {},)
    return tuple(shapes) or ({},)


def one_size(shapes: AllSizes | None, what: str) -> Shapes:
    """The shapes of the only size.

    Raises:
        UserError: there are several, and ``what`` has one.
    """
    first, *others = each_size(shapes)
    if others:
        raise UserError(f"{what} has one size: state one with --shape, and make one for each")
    return first


def common(sizes: Sequence[Shapes]) -> Shapes:
    """What all sizes agree in, None for the axes in which they differ.

    Example:
        ``common([{"ids": (1, 64)}, {"ids": (1, 128)}])`` is ``{"ids": (1, None)}``
    """
    names = [name for name in sizes[0] if all(name in each for each in sizes)]
    agreed: dict[str, tuple[int | None, ...]] = {}
    for name in names:
        stated = [tuple(each[name]) for each in sizes]
        if len({len(shape) for shape in stated}) == 1:
            axes = zip(*stated, strict=True)
            agreed[name] = tuple(axis[0] if len(set(axis)) == 1 else None for axis in axes)
    return agreed


def stated_names(sizes: Sequence[Shapes]) -> tuple[str, ...]:
    """``size_names`` from what was stated of the sizes; "" for the only one.

    Raises:
        UserError: two sizes are the same, or not of the same inputs.
    """
    if len(sizes) == 1:
        return ("",)
    if any(each.keys() != sizes[0].keys() for each in sizes):
        raise UserError("the sizes are not of the same inputs: state each input at every size")
    specs = [
        [
            TensorSpec(name, "", tuple("n" if size is None else size for size in shape))
            for name, shape in each.items()
        ]
        for each in sizes
    ]
    return size_names(specs)


def size_names(inputs: Sequence[Sequence[TensorSpec]]) -> tuple[str, ...]:
    """A name for each size, of the inputs in which the sizes differ; fit to name a folder.

    Args:
        inputs: those of the model at each size.

    Raises:
        UserError: two sizes are the same.
    """
    shapes = [tuple(spec.shape for spec in each) for each in inputs]
    differing = [i for i, axis in enumerate(zip(*shapes, strict=True)) if len(set(axis)) > 1]
    names: list[str] = []
    for number, each in enumerate(shapes, start=1):
        texts = ["x".join(map(_text, each[i])) for i in differing or range(len(each))]
        name = texts[0] if len(set(texts)) == 1 else "_".join(texts)
        if each in shapes[: number - 1]:
            raise UserError(f"two of the sizes are the same, {name}: state each once")
        names.append(name)
    if len(set(names)) < len(names) or any(len(name) > MAX_NAME for name in names):
        return tuple(f"size{number}" for number in range(1, len(names) + 1))
    return tuple(names)


def merged(
    known: Sequence[TensorSpec], sizes: Sequence[Sequence[TensorSpec]]
) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of all sizes at once: a size in which they differ is open, as in ``known``.

    Args:
        known: those of the model before it was given sizes.
        sizes: the same, of each size.
    """
    return tuple(
        replace(spec, shape=_merged(spec.shape, [one.shape for one in each]))
        for spec, *each in zip(known, *sizes, strict=True)
    )


def _merged(known: tuple[Dim, ...], sizes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    names = known if len(known) == len(sizes[0]) else ("?",) * len(sizes[0])
    return tuple(
        axis[0] if len(set(axis)) == 1 else name if isinstance(name, str) else "?"
        for name, axis in zip(names, zip(*sizes, strict=True), strict=True)
    )


def _text(size: Dim) -> str:
    """A size as part of a folder's name."""
    return str(size) if isinstance(size, int) or size.isidentifier() else "n"
