"""Prints results: tables for people, one JSON document for machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def emit(value: T, human: Callable[[T], None], as_json: bool) -> None:
    """Print ``value``: with ``human``, or as one JSON document."""
    if not as_json:
        human(value)
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: Any = {"type": type(value).__name__, **dataclasses.asdict(value)}
    else:
        plain = value
    print(json.dumps(plain, indent=1, default=str))
