"""The tutorials run as they stand, and print what they say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tutorial

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.name != "index.md"
)
# What a page takes beyond the extras of the tests: "<!-- needs: fastapi, httpx -->".
NEEDS = re.compile(r"<!-- needs: (.*?) -->")


def run_page(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The page's code in ``folder``, with the commands of this environment on the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        (sys.executable, tutorial.__file__, page),
        cwd=folder,
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_runs_as_it_stands(page: Path, tmp_path: Path) -> None:
    needs = [name for found in NEEDS.findall(page.read_text()) for name in found.split(", ")]
    if missing := [name for name in needs if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{page.name} needs {', '.join(missing)}")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = run_page(page, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"([3-9]|\d\d) blocks\n", done.stdout)


PAGE = """
```python title="double.py"
def double(x): return 2 * x
```

```python
from double import double
```

```sh
rm -rf /nowhere
```

```bash
echo from the shell; cat double.py
```

```text
from the shell ...
```

```python
print(double(21), 0.1234)
```

```text
42  0.1...
```
"""


def test_blocks_share_one_interpreter_and_one_folder(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    done = run_page(tmp_path / "page.md", tmp_path)
    assert (done.stdout, done.returncode) == ("4 blocks\n", 0), done.stderr


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("42  0.1...", "43", r"page.md:23 printed\n42 0.1234\n\ninstead of\n43"),
        ("echo from the shell", "false", r"page.md:15 ended with 1"),
        ("double(21)", "halve(21)", r'page.md", line 23'),
    ],
)
def test_a_page_that_is_wrong_is_named_by_its_line(
    was: str, becomes: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text(PAGE.replace(was, becomes))
    done = run_page(tmp_path / "page.md", tmp_path)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
