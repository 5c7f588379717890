"""The documentation builds as a site without a warning: every link and anchor leads somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("docs", "benchmarks/NOTES.md", "examples/service", "mkdocs.yml", "*.md")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None,
        reason="the site needs pip install 'prunedeploy[docs]'",
    ),
]


def build(source: Path) -> subprocess.CompletedProcess[str]:
    """The site of a folder, in ``site`` below it, without a way to the network."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return subprocess.run(
        (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", source / "site"),
        cwd=source,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The documents without the packages, which are installed."""
    for path in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        to = tmp_path / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, to)
    return tmp_path


def test_the_site(copied: Path) -> None:
    done = build(copied)
    assert done.returncode == 0, done.stdout + done.stderr
    site = copied / "site"
    html = (site / "reference" / "cli" / "index.html").read_text()
    commands = re.sub(r"<[^>]+>", "", html)  # a highlighted command is in several elements
    assert "prunedeploy optimize resnet18-pruned.pt" in commands
    assert "--input-shape" in commands
    interface = (site / "reference" / "api" / "index.html").read_text()
    assert 'id="prunedeploy.optimize"' in interface
    assert "Labelled images" in commands
    home = (site / "index.html").read_text()
    assert 'src="density.png"' in home
    assert (site / "density.png").is_file()
    loaded = re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="(https?:[^"]+)"', home)
    assert loaded == [], "a page loads from another host"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "[gone](docs/start/nowhere.md)"),
        ("docs/install.md", "[gone](start/first-engine.md#no-such-heading)"),
        ("docs/concepts/exact.md", "[gone](../../SECURE.md)"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(name: str, text: str, copied: Path) -> None:
    page = copied / name
    page.write_text(f"{page.read_text()}\n{text}\n")
    done = build(copied)
    assert done.returncode == 1
    assert "Aborted with" in done.stdout + done.stderr
    assert re.search("nowhere|no-such-heading|SECURE", done.stderr)
