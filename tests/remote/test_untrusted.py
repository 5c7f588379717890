"""What a device tells: bounded, finite, and harmless to a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.remote import untrusted


def test_texts() -> None:
    assert untrusted.text("a\tb\x1b[1m\n c\u202e") == "a b [1m  c"
    assert untrusted.text("x" * 10**6) == "x" * untrusted.MAX_TEXT
    assert untrusted.text(None) == "None"


def test_plain_values() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    assert untrusted.plain({"a": [1, 2.5, True, None, "x\n"]}) == {"a": [1, 2.5, True, None, "x"]}
    assert untrusted.plain([float("nan"), float("inf"), 10**400]) == [None, None, None]
    assert isinstance(untrusted.plain(deep)[0][0][0][0][0], str)
    assert untrusted.fields([1]) == {}
    assert untrusted.document("[" * 10**6) is None
    assert untrusted.document("3") is None


@pytest.mark.parametrize("value", [None, "1", True, [], float("nan"), float("inf"), -1, 10**400])
def test_numbers_that_are_none(value: object) -> None:
    with pytest.raises(UserError, match="a time that"):
        untrusted.number(value, "a time")


def test_times() -> None:
    assert untrusted.times([1, 2.9, 10**9]) == (1, 2, 10**9)
    assert untrusted.times([]) == ()
