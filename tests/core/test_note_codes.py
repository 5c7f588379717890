"""The codes of notes, and the page that lists them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from prunedeploy.core.note_codes import NoteCode

PAGE = Path(__file__).parents[2] / "docs" / "notes.md"


def test_the_page_lists_every_code_once() -> None:
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| ", PAGE.read_text(), re.MULTILINE)
    fields = ("code", "where", "status", "reason", "count", "of", "figures")
    assert [code for code in listed if code not in fields] == list(get_args(NoteCode))
