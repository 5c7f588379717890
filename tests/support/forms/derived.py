"""Forms that follow from others: types that no table lists, and attributes two at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ml_dtypes
import numpy as np

from forms.base import Form, Schema, forms, random

TYPES = ("int8", "int16", "uint16", "uint32", "uint64", "bfloat16")
PAIRS = 6  # of attributes, an operator's version


def derived(schema: Schema) -> Iterator[Form]:
    """The written forms in other types and with the attributes of two."""
    written = [form for form in forms(schema) if not _has_graph(form)]
    yield from _in_other_types(schema, written)
    yield from _in_pairs(schema, written)


def _has_graph(form: Form) -> bool:
    return bool({"body", "then_branch"} & set(form.attributes))


def _in_other_types(schema: Schema, written: list[Form]) -> Iterator[Form]:
    """For every type one form, of floats for a float; all inputs of the first one's type follow."""
    names = {str(kind) for kind in schema.inputs[0].types} if schema.inputs else set()
    for name in TYPES:
        kind = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
        like = "f" if kind.kind == "V" else "iu"
        if f"tensor({name})" in names and schema.name != "BitCast":
            fitting = [f for f in written if f.inputs and _kind(f.inputs[0]) in like]
            if fitting:
                form = fitting[int(random(schema.name, name).integers(len(fitting)))]
                yield _as(schema, form, kind)


def _kind(value: object) -> str:
    return value.dtype.kind if isinstance(value, np.ndarray) else "-"


def _as(schema: Schema, form: Form, kind: np.dtype) -> Form:
    group, last = schema.inputs[0].type_str, len(schema.inputs) - 1
    inputs = tuple(
        (np.abs(x) if kind.kind == "u" else x).astype(kind)
        if isinstance(x, np.ndarray) and schema.inputs[min(i, last)].type_str == group
        else x
        for i, x in enumerate(form.inputs)
    )
    return replace(form, inputs=inputs, label=f"{form.label} as {kind}")


def _in_pairs(schema: Schema, written: list[Form]) -> Iterator[Form]:
    """Attributes of two forms whose inputs have the same types and shapes, on those of the first.

    What goes together by chance may be no form at all, which both sides then refuse.
    """
    alike: dict[object, list[Form]] = {}
    for form in written:
        alike.setdefault((form.outputs, form.shown, *map(_shape, form.inputs)), []).append(form)
    groups = [group for group in alike.values() if len(group) > 1]
    draw = random(schema.name, schema.since_version, "pairs")
    for _ in range(PAIRS if groups else 0):
        group = groups[int(draw.integers(len(groups)))]
        one, other = (group[i] for i in draw.choice(len(group), 2, replace=False))
        both = {**one.attributes, **other.attributes}
        if both not in (one.attributes, other.attributes):
            yield replace(one, attributes=both, label=f"{one.label} + {other.label}")


def _shape(value: object) -> tuple[str, object]:
    return _kind(value), getattr(value, "shape", None)
