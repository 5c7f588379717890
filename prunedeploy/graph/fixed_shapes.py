"""Sizes that a user states for the inputs of a model that leaves them open."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Dim, TensorSpec
from prunedeploy.graph import model as models
from prunedeploy.graph.several_sizes import Shape as Shape
from prunedeploy.graph.several_sizes import Shapes as Shapes
from prunedeploy.graph.shapes import infer_shapes


def fix(model: ir.Model, shapes: Shapes) -> None:
    """Give the inputs of ``model`` their sizes, in place; a name of a size has one everywhere.

    Raises:
        UserError: no such input, another number of axes, or a size that the model does not leave
            open.

    Example:
        ``fix(model, {"input_ids": (1, 128)})``
    """
    if not shapes:
        return
    inputs, _ = models.specs(model)
    stated = {spec.name: spec.shape for spec in fixed(inputs, shapes)}
    values = {str(value.name): value for value in model.graph.inputs}
    named: dict[str, int] = {}
    for spec in inputs:
        for old, new in zip(spec.shape, stated[spec.name], strict=True):
            if isinstance(old, str) and isinstance(new, int) and old != "?":
                named[old] = new
        if any(isinstance(size, int) for size in stated[spec.name]):
            sizes = [None if size == "?" else size for size in stated[spec.name]]
            values[spec.name].shape = ir.Shape(sizes)
    for graph in model.graphs():
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            _replace_names(value, named)
    infer_shapes(model)


def fixed(inputs: Sequence[TensorSpec], shapes: Shapes) -> tuple[TensorSpec, ...]:
    """The inputs with their sizes.

    Raises:
        UserError: as ``fix``.
    """
    known = [spec.name for spec in inputs]
    if "" in shapes and len(inputs) != 1:
        raise UserError(f"the model takes {', '.join(known)}: name the input, --shape NAME=1x128")
    given = {name or known[0]: shape for name, shape in shapes.items()}
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"no input is called {unknown[0]!r}: the model takes {', '.join(known)}")
    stated = {spec.name: _checked(spec, given.get(spec.name)) for spec in inputs}
    named: dict[str, int] = {}
    for spec in inputs:
        for old, new in zip(spec.shape, stated[spec.name], strict=True):
            if not isinstance(old, str) or old == "?" or not isinstance(new, int):
                continue
            if named.setdefault(old, new) != new:
                raise UserError(f"{old} is one size: it cannot be {named[old]} and {new}")
    return tuple(
        _of_shape(spec, tuple(named.get(str(size), size) for size in stated[spec.name]))
        for spec in inputs
    )


def _of_shape(spec: TensorSpec, shape: tuple[Dim, ...]) -> TensorSpec:
    """An input of a shape; sizes that were found for its random samples give way to those of it."""
    sizes = tuple(
        tuple(0 if isinstance(dim, int) else size for dim, size in zip(shape, each, strict=True))
        for each in spec.sample.sizes
    )
    return replace(spec, shape=shape, sample=replace(spec.sample, sizes=sizes))


def _checked(spec: TensorSpec, shape: Shape | None) -> tuple[int | str, ...]:
    """The sizes of one input: those stated, and where none are, its own."""
    if shape is None:
        return spec.shape
    has = "x".join(map(str, spec.shape))
    text = "x".join("?" if size is None else str(size) for size in shape)
    if len(shape) != len(spec.shape):
        raise UserError(f"{spec.name} has {len(spec.shape)} axes ({has}), not those of {text}")
    for old, new in zip(spec.shape, shape, strict=True):
        if isinstance(old, int) and new not in (None, old):
            raise UserError(f"{spec.name} is {has}, not {text}: export the model with that size")
    return tuple(old if new is None else new for old, new in zip(spec.shape, shape, strict=True))


def _replace_names(value: ir.Value, named: Mapping[str, int]) -> None:
    if value.shape is None:
        return
    sizes = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    if any(size in named for size in sizes if isinstance(size, str)):
        value.shape = ir.Shape([named.get(x, x) if isinstance(x, str) else x for x in sizes])


@contextmanager
def sized(path: Path, shapes: Shapes | None) -> Iterator[Path]:
    """The model at ``path`` with its inputs' sizes, in a file that is gone with the block; the file
    itself where no sizes are stated.

    Raises:
        UserError: as ``fix``, or the model cannot be read.
    """
    if not any(size is not None for shape in (shapes or {}).values() for size in shape):
        yield path
        return
    assert shapes is not None
    model = models.load(path)
    fix(model, shapes)
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        models.save(model, Path(folder) / path.name)
        yield Path(folder) / path.name
