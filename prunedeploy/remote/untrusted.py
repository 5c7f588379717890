"""Values that a device sent, checked as untrusted input: of known kinds, finite and bounded.

A device may be broken, or not ours. What it sends is shown on a terminal and put into records, so
texts keep no control characters, and numbers and containers have bounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prunedeploy.core.errors import UserError

MAX_TEXT = 300  # characters
MAX_DEPTH = 5  # of containers within containers
MAX_ITEMS = 10_000  # of a container
MAX_SAMPLES = 10_000_000


def document(output: str) -> dict[str, Any] | None:
    """Parse ``output`` as a JSON object; None where it is something else."""
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def text(value: object, limit: int = MAX_TEXT) -> str:
    """``value`` in one line without control characters, so that a terminal only shows it."""
    shown = str(value)[: 4 * limit]
    return "".join(x if x.isprintable() else " " for x in shown)[:limit].strip()


def fields(value: object) -> dict[str, Any]:
    """``value`` as a mapping of texts to plain values; empty where it is no mapping."""
    if not isinstance(value, Mapping):
        return {}
    return {text(k): plain(v) for k, v in list(value.items())[:MAX_ITEMS]}


def plain(value: object, depth: int = MAX_DEPTH) -> Any:
    """``value`` as numbers, booleans, texts and containers of these; all else becomes a text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < 1e30 else None  # NaN is not
    if isinstance(value, list) and depth:
        return [plain(each, depth - 1) for each in value[:MAX_ITEMS]]
    if isinstance(value, Mapping) and depth:
        items = list(value.items())[:MAX_ITEMS]
        return {text(key): plain(each, depth - 1) for key, each in items}
    return text(value, 10 * MAX_TEXT)


def number(value: object, what: str) -> float:
    """``value`` as a finite number that is not negative.

    Raises:
        UserError: it is no such number; the message begins with ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{what} that is no number: {text(value)!r}")
    if not 0 <= value < 1e18:  # NaN is not
        raise UserError(f"{what} that cannot be: {value}")
    return float(value)


def times(value: object) -> tuple[int, ...]:
    """``value`` as nanoseconds, each greater than zero.

    Raises:
        UserError: they are something else.
    """
    if not isinstance(value, list) or len(value) > MAX_SAMPLES:
        raise UserError("times that are no list of them")
    samples = tuple(int(number(each, "a time")) for each in value)
    if 0 in samples:
        raise UserError("a time of zero")
    return samples
