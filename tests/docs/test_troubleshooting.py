"""The messages that the page of troubleshooting lists are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from messages import exists

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "troubleshooting.md"
MESSAGES = re.findall(r"^\| `(.*?)` \|", PAGE.read_text(), re.MULTILINE)


def test_the_messages_are_in_the_code() -> None:
    assert len(MESSAGES) > 25
    assert [message for message in MESSAGES if not exists(message)] == []


@pytest.mark.parametrize(
    "message",
    [
        "… is not a motor: it has no readable …",
        "it has no readable …: … is not an engine",  # the parts in another order
        "cannot compute with … give 1 to …, or 0 for the default",  # words left out
    ],
)
def test_a_message_that_the_code_has_not_is_found(message: str) -> None:
    assert not exists(message)
