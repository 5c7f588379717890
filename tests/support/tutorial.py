"""Run the code of a page of the documentation, as a reader would who copies it block by block.

    python tests/support/tutorial.py docs/tutorials/fastapi.md

Everything runs in the current folder, in the order of the page:

- a ``python`` block in one interpreter, which all blocks of the page share;
- a ``bash`` block in bash, which ends at the first command that fails;
- a block with a title is a file of that name, and is written;
- a ``text`` block behind one that ran is what that one prints: ``...`` stands for anything, and
  runs of spaces count as one. Where nothing of the kind follows, anything may be printed;
- a block of another language, as ``sh`` or ``py``, is for another machine or for reading, and is
  left out.
"""

from __future__ import annotations

import doctest
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

TITLE = re.compile(r'title="([^"]+)"')
RUN = ("python", "bash")
LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class TutorialError(Exception):
    """A block that failed or printed something else than the page says."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is if it has a title, its line on the page.

    ``printed`` is the text block behind it, None where there is none.
    """

    language: str
    title: str
    code: str
    line: int
    printed: str | None = None


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that are run or written, in their order."""
    last: Block | None = None
    for token in MarkdownIt("commonmark").parse(page):
        if token.type != "fence":
            continue
        language, _, rest = token.info.strip().partition(" ")
        if language == "text":
            if last is not None:
                last = Block(last.language, last.title, last.code, last.line, token.content)
            continue
        if last is not None:
            yield last
        title = TITLE.search(rest)
        line = token.map[0] + 2 if token.map else 0
        block = Block(language, title[1] if title else "", token.content, line)
        last = block if block.title or language in RUN else None
    if last is not None:
        yield last


def run(page: Path) -> int:
    """Run the blocks of ``page`` in the current folder; the number of blocks.

    Raises:
        TutorialError: a block failed, or printed something else; it is named by its line.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for block in blocks(page.read_text()):
        count += 1
        where = f"{page}:{block.line}"
        if block.title:
            Path(block.title).write_text(block.code)
            continue
        printed = _shell(block, where) if block.language == "bash" else _python(block, where, names)
        wanted = block.printed
        if wanted is not None and not doctest.OutputChecker().check_output(wanted, printed, LIKE):
            raise TutorialError(f"{where} printed\n{printed}\ninstead of\n{wanted}")
    return count


def _shell(block: Block, where: str) -> str:
    command = ("bash", "-euo", "pipefail", "-c", block.code)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise TutorialError(f"{where} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _python(block: Block, where: str, names: dict[str, object]) -> str:
    printed = io.StringIO()
    # the page's own lines stand in tracebacks
    code = compile("\n" * (block.line - 1) + block.code, where.rpartition(":")[0], "exec")
    with redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


if __name__ == "__main__":
    sys.path[0] = ""  # as in an interpreter that a reader started, without the modules beside this
    print(f"{run(Path(sys.argv[1]))} blocks")
