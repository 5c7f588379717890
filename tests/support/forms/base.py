"""What a form of an operator is, and what forms are made of."""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, Any]
Schema = Any  # onnx.defs.OpSchema

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
ONNX_NAMES = {"float32": "float", "float64": "double"}
SHAPES: dict[int, tuple[int, ...]] = {
    0: (),
    1: (5,),
    2: (3, 5),
    3: (2, 3, 5),
    4: (2, 3, 5, 7),
    5: (1, 2, 3, 2, 5),
}


@dataclass(frozen=True)
class Form:
    """One node: its attributes, its inputs (None: left out), how many outputs it has.

    ``shown`` is how many of the outputs are looked at, all of them by default. A sequence is a list
    of arrays; ``types`` are those of inputs that no array tells the type of.
    """

    label: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    outputs: int = 1
    types: tuple[Any, ...] | None = None
    shown: int | None = None

    @property
    def names(self) -> list[str]:
        return [f"x{i}" if x is not None else "" for i, x in enumerate(self.inputs)]


Forms = Callable[[Schema], Iterator[Form]]
TABLE: dict[str, Forms] = {}
MORE: dict[str, Forms] = {}
seed = 0  # of all inputs


def forms_of(*operators: str) -> Callable[[Forms], Forms]:
    """Register a function as the one that makes the forms of these operators."""

    def register(function: Forms) -> Forms:
        for operator in operators:
            assert operator not in TABLE, operator
            TABLE[operator] = function
        return function

    return register


def more_forms_of(*operators: str) -> Callable[[Forms], Forms]:
    """Register a function whose forms come after those of the operator's table."""

    def register(function: Forms) -> Forms:
        MORE.update(dict.fromkeys(operators, function))
        return function

    return register


def random(*key: object) -> np.random.Generator:
    """The same numbers for the same key."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()) + seed)


def data(dtype: str, shape: Sequence[int], *key: object, low: int = -4, high: int = 5) -> Array:
    """Normal numbers, small integers, truth values."""
    source, kind = random(dtype, tuple(shape), *key), np.dtype(dtype)
    if kind.kind == "f":
        drawn: Any = source.standard_normal(shape)
    elif kind.kind == "b":
        drawn = source.random(shape) < 0.5
    elif kind.kind == "u":
        drawn = source.integers(max(low, 0), high + 5, shape)
    else:
        drawn = source.integers(low, high, shape)
    return np.asarray(drawn).astype(kind)


def positive(dtype: str, shape: Sequence[int], *key: object) -> Array:
    """Between 0.5 and 2."""
    source, kind = random("positive", tuple(shape), *key), np.dtype(dtype)
    whole = kind.kind in "iu"
    drawn: Any = source.integers(1, 5, shape) if whole else source.uniform(0.5, 2, shape)
    return np.asarray(drawn).astype(kind)


def allowed(schema: Schema, index: int = 0) -> list[str]:
    """Those of ``DTYPES`` that an input may have."""
    kind = schema.inputs[min(index, len(schema.inputs) - 1)]
    found = {str(t) for t in kind.types}
    return [d for d in DTYPES if f"tensor({ONNX_NAMES.get(d, d)})" in found]


def main(schema: Schema, index: int = 0) -> str:
    """The type that all forms are tried in."""
    return allowed(schema, index)[0]


def has(schema: Schema, attribute: str) -> bool:
    return attribute in schema.attributes


def choices(schema: Schema, **values: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """No attribute set, then every one in turn with each of its values; those it has not, not."""
    yield {}
    for name, each in values.items():
        if has(schema, name):
            yield from ({name: value} for value in each)


def product(schema: Schema, **values: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """All combinations; None leaves an attribute out."""
    known = {name: each for name, each in values.items() if has(schema, name)}
    for chosen in itertools.product(*known.values()):
        yield {n: v for n, v in zip(known, chosen, strict=True) if v is not None}


def label(attributes: Mapping[str, Any], *more: object) -> str:
    parts = [f"{k}={v}" for k, v in attributes.items() if not isinstance(v, onnx.GraphProto)]
    return " ".join([*map(str, more), *parts]).replace("\n", " ") or "plain"


def forms(schema: Schema) -> Iterator[Form]:
    """All forms of an operator's version; of those with one label the later ones get a number."""
    seen: dict[str, int] = {}
    more = MORE.get(schema.name, lambda _: iter(()))
    for form in itertools.chain(TABLE[schema.name](schema), more(schema)):
        count = seen[form.label] = seen.get(form.label, 0) + 1
        yield form if count == 1 else replace(form, label=f"{form.label} #{count}")


@functools.cache
def versions() -> dict[str, list[Schema]]:
    """Operator -> its versions that a model of opset 7 or newer may mean."""
    found: dict[str, list[Schema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema)
    for name, each in found.items():
        each.sort(key=lambda schema: schema.since_version)
        old = [s for s in each if s.since_version <= 7]
        found[name] = old[-1:] + [s for s in each if s.since_version > 7]
    return dict(sorted(found.items()))


def opset(schema: Schema) -> int:
    return max(7, schema.since_version)


def type_of(value: Any) -> onnx.TypeProto:
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_of(value[0]))
    if value.dtype == object:
        return helper.make_tensor_type_proto(onnx.TensorProto.STRING, value.shape)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_type_proto(kind, value.shape)


def last_opset(schema: Schema) -> int:
    """The newest opset that has this version of the operator."""
    newer = [s.since_version for s in versions()[schema.name]]
    later = [version for version in newer if version > schema.since_version]
    return later[0] - 1 if later else onnx.defs.onnx_opset_version()


def model(schema: Schema, form: Form, version: int = 0) -> onnx.ModelProto:
    """The form as a model of one node, of the opset ``version`` or the oldest that has it."""
    outputs = [f"y{i}" for i in range(form.outputs)]
    node = helper.make_node(schema.name, form.names, outputs, "node", **form.attributes)
    types = form.types or tuple(None for _ in form.inputs)
    infos = [
        helper.make_value_info(name, kind or type_of(value))
        for name, value, kind in zip(form.names, form.inputs, types, strict=True)
        if name
    ]
    graph = helper.make_graph(
        [node], schema.name, infos, [onnx.ValueInfoProto(name=n) for n in outputs[: form.shown]]
    )
    imports = [helper.make_opsetid("", version or opset(schema))]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def feeds(form: Form) -> dict[str, Any]:
    return {name: x for name, x in zip(form.names, form.inputs, strict=True) if name}
