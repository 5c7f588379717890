"""Prints results: tables for people, one JSON document for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def emit(value: T, human: Callable[[T], None], as_json: bool) -> None:
    """Print ``value``: with ``human``, or as one JSON document."""
    if not as_json:
        human(value)
        return
    print(json.dumps(_plain(value), indent=1, default=str))


def emit_each(values: Sequence[T], human: Callable[[T], None], as_json: bool) -> None:
    """Print the values one after the other: as JSON the only one, or a list of several."""
    if as_json:
        plain = [_plain(value) for value in values]
        print(json.dumps(plain[0] if len(plain) == 1 else plain, indent=1, default=str))
        return
    for value in values:
        human(value)


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **dataclasses.asdict(value)}
    return value
