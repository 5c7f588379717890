"""What a device tells, taken as what a stranger says: of known kinds, finite, and not without end.

A device may be broken, or not ours. What it sends is shown on a terminal and put into records, so
texts keep no control characters, and numbers and containers have bounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prunedeploy.core.errors import UserError

LONGEST = 300  # characters of a text that is shown
DEEPEST = 5  # containers in one another
MOST = 10_000  # values of a container
MOST_SAMPLES = 10_000_000


def document(said: str) -> dict[str, Any] | None:
    """The JSON object that ``said`` is, or None where it is none."""
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def text(value: object, longest: int = LONGEST) -> str:
    """``value`` in one line without control characters, so that a terminal only shows it."""
    shown = str(value)[: 4 * longest]
    return "".join(x if x.isprintable() else " " for x in shown)[:longest].strip()


def fields(value: object) -> dict[str, Any]:
    """A mapping of texts to plain values; empty where ``value`` is none."""
    if not isinstance(value, Mapping):
        return {}
    return {text(k): plain(v) for k, v in list(value.items())[:MOST]}


def plain(value: object, above: int = DEEPEST) -> Any:
    """``value`` with all that is no number, truth value, text or container of these as a text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < 1e30 else None  # NaN is not
    if isinstance(value, list) and above:
        return [plain(each, above - 1) for each in value[:MOST]]
    if isinstance(value, Mapping) and above:
        items = list(value.items())[:MOST]
        return {text(key): plain(each, above - 1) for key, each in items}
    return text(value, 10 * LONGEST)


def number(value: object, what: str) -> float:
    """A number from 0.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{what} that is no number: {text(value)!r}")
    if not 0 <= value < 1e18:  # NaN is not
        raise UserError(f"{what} that cannot be: {value}")
    return float(value)


def times(value: object) -> tuple[int, ...]:
    """Nanoseconds, each more than none.

    Raises:
        UserError: they are not.
    """
    if not isinstance(value, list) or len(value) > MOST_SAMPLES:
        raise UserError("times that are no list of them")
    samples = tuple(int(number(each, "a time")) for each in value)
    if 0 in samples:
        raise UserError("a time of zero")
    return samples
