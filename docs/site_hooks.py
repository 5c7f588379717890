"""Pages of the site that are made when it is built, so that none of them can be out of date.

The files of the repository's root become pages, with their links turned to the site's. The
reference of the commands is written from the command line's own declarations, that of the Python
interface from ``prunedeploy.__all__``.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from textwrap import dedent

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Page of the site: file of the repository.
FROM_ROOT = {
    "index.md": "README.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
    "benchmarks/tried.md": "benchmarks/NOTES.md",
}
PAGES = {source: page for page, source in FROM_ROOT.items()}
# A target of a link or an image, without its anchor; addresses and anchors alone are left out.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")
# typer's list of all commands, whose lines end after some words.
SUMMARIES = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+")
# Lines of a command's examples, which its help indents by two spaces.
EXAMPLES = re.compile(r"(?:^  \S.*\n)+", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/."""
    for page, source in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for source in sorted(linked_sources()):
        files.append(File.generated(config, f"source/{source}", abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "reference/cli.md", content=commands()))
    files.append(File.generated(config, "reference/api.md", content=interface()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    source = FROM_ROOT.get(here, f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        return posixpath.relpath(site_path(source, link[1]), posixpath.dirname(here) or ".")

    return LINK.sub(turned, markdown)


def site_path(source: str, link: str) -> str:
    """Where the site has what a file of the repository links to."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target in PAGES or target.startswith("docs/"):
        return PAGES.get(target, target.removeprefix("docs/"))
    return f"source/{target}"


def linked_sources() -> set[str]:
    """The files of the repository, pages apart, that pages link to: the site has a copy of them."""
    pages = (*FROM_ROOT.values(), *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")))
    links = {
        site_path(page, link) for page in pages for link in LINK.findall((ROOT / page).read_text())
    }
    named = {link.removeprefix("source/") for link in links if link.startswith("source/")}
    return {name for name in named if (ROOT / name).is_file()}


def commands() -> str:
    """The reference of the command line, as typer describes it."""
    import typer
    from typer.cli import get_docs_for_click

    from prunedeploy.cli.commands import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="prunedeploy")
    text = get_docs_for_click(obj=command, ctx=context, title="Commands").replace("\b", "")
    text = SUMMARIES.sub("", text)
    return EXAMPLES.sub(lambda lines: f"\n```sh\n{dedent(lines[0])}```\n", text)


def interface() -> str:
    """The reference of the Python interface: every public name, functions first."""
    import prunedeploy

    names = prunedeploy.__all__
    functions = [name for name in names if name.islower()]
    classes = [name for name in names if not name.islower()]
    parts = [
        "# Python\n\nEverything that `import prunedeploy` offers. Each name is imported on its "
        "first use, so that the import itself takes milliseconds.",
        "## Functions",
        *(f"::: prunedeploy.{name}" for name in functions),
        "## Classes",
        *(f"::: prunedeploy.{name}" for name in classes),
    ]
    return "\n\n".join(parts) + "\n"
