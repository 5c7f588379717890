"""Tables of a TOML file as frozen dataclasses; every mistake is one line that names the key."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from prunedeploy.core.errors import UserError

T = TypeVar("T")
Option = bool | int | float | str
OPTIONS = "dict[str, Option]"

TEXT, COUNT, NUMBER, FLAG = "a text", "a whole number", "a number", "true or false"
TEXTS, COUNTS, NUMBERS = "a list of texts", "a list of whole numbers", "a list of numbers"
KINDS = {  # by the type of a field
    "str": TEXT,
    "int": COUNT,
    "float": NUMBER,
    "bool": FLAG,
    "tuple[str, ...]": TEXTS,
    "tuple[int, ...]": COUNTS,
    "tuple[float, ...]": NUMBERS,
    OPTIONS: "a table of plain values",
}
PLAIN: dict[str, type[Any] | tuple[type[Any], ...]] = {
    TEXT: str,
    COUNT: int,
    NUMBER: (int, float),
    FLAG: bool,
}
ELEMENTS = {TEXTS: TEXT, COUNTS: COUNT, NUMBERS: NUMBER}


def kinds_of(record: type[Any]) -> dict[str, str]:
    """The keys for the fields of ``record``, and what the value of each has to be."""
    fields = dataclasses.fields(record)
    types = {field.name: str(field.type).removesuffix(" | None") for field in fields}
    return {key_of(name): KINDS[kind] for name, kind in types.items() if kind in KINDS}


def key_of(name: str) -> str:
    """The key of a field: its name with hyphens."""
    return name.replace("_", "-")


def read_table(record: type[T], table: object, where: str, **given: Any) -> T:
    """``record`` with the values of ``table``, whose keys are its fields with hyphens.

    Args:
        record: a frozen dataclass of plain values and tuples of such.
        table: from a TOML file.
        where: the file and the table, for messages.
        given: fields that the table does not have.

    Raises:
        UserError: not a table, a key that there is not, a key that is missing, a value of another
            kind, or one that ``record`` refuses.
    """
    if not isinstance(table, Mapping):
        raise UserError(f"{where} should be a table, found {table!r:.60}")
    kinds = {key: kind for key, kind in kinds_of(record).items() if key not in map(key_of, given)}
    check_keys(table, kinds, where)
    values = {key: _value(table[key], kinds[key], f"{where}: {key}") for key in table}
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING
        required &= field.default_factory is dataclasses.MISSING
        if required and field.name not in given and key_of(field.name) not in values:
            raise UserError(f"{where}: {key_of(field.name)} is missing")
    try:
        return record(**given, **{key.replace("-", "_"): value for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_keys(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Refuse a key that is not in ``known``, with the nearest that is."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            raise UserError(f"{where}: there is no key {key!r}: {hint}")


def _value(value: Any, kind: str, where: str) -> Any:
    """``value`` as its field has it."""
    if kind == KINDS[OPTIONS]:
        return _options(value, kind, where)
    if kind in ELEMENTS:
        element = ELEMENTS[kind]
        if not isinstance(value, list) or not all(_is(each, element) for each in value):
            raise UserError(f"{where} should be {kind}, found {value!r:.60}")
        return tuple(map(float, value)) if kind == NUMBERS else tuple(value)
    if not _is(value, kind):
        raise UserError(f"{where} should be {kind}, found {value!r:.60}")
    return float(value) if kind == NUMBER else value


def _options(value: Any, kind: str, where: str) -> dict[str, Option]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} should be {kind}, found {value!r:.60}")
    for key, each in value.items():
        if not isinstance(each, bool | int | float | str):
            raise UserError(f"{where}.{key} should be a plain value, found {each!r:.60}")
    return {key.replace("-", "_"): each for key, each in value.items()}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, PLAIN[kind]) and (kind == FLAG or not isinstance(value, bool))
