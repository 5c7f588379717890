"""A report as one HTML page that needs nothing else: figures, then the Markdown report's text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markdown_it import MarkdownIt

from prunedeploy.core.measurements import BenchResult
from prunedeploy.core.records import RuntimeChoice
from prunedeploy.core.text import printable_lines
from prunedeploy.reports import figures
from prunedeploy.reports.headline import caution, conditions, headline

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #eef1f4;
  --bar: #0a7d55; --base: #8b949e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --soft: #21262d;
  --bar: #2ea879; --base: #6e7681; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
figure { margin: 1.5rem 0; }
summary { cursor: pointer; font-weight: 600; }
figcaption { font-weight: 600; margin-bottom: .5rem; }
.row { display: grid; grid-template-columns: 12rem 1fr 15rem; gap: .75rem; align-items: center;
  font-size: .85rem; }
.row span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.row svg { width: 100%; height: 1.1rem; }
.strip { width: 100%; height: 2.5rem; margin-bottom: .5rem; }
.bar, .step { fill: var(--bar); } .base { fill: var(--base); }
.step { stroke: var(--back); stroke-width: .5; }
.whisker { stroke: var(--text); stroke-width: 2; vector-effect: non-scaling-stroke; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--soft); }
code, pre { background: var(--soft); border-radius: .2rem; padding: .1rem .3rem; }
pre { overflow-x: auto; padding: .6rem; }
@media (max-width: 40rem) { .row { grid-template-columns: 1fr; gap: 0; margin-bottom: .5rem; } }
"""


def page(
    text: str,
    measured: Sequence[BenchResult],
    commands: Sequence[str] = (),
    choice: RuntimeChoice | None = None,
) -> str:
    """Make an HTML page of a report's Markdown and of the measurements in it.

    Args:
        text: the report in Markdown. HTML in it, which names from files may hold, stays text.
        measured: the measurements to draw; the first one's result is the page's title.
        commands: the command lines that lead here, shown at the end.
        choice: how the runtime of the first measurement's engine was chosen, where it was.
    """
    title = headline(measured[0]) if measured else "Report"
    parts = [f"<h1>{escape(title)}</h1>"]
    if measured:
        parts.append(f"<p>{escape(conditions(measured[0]))}.</p>")
    for bench in measured:
        if warning := caution(bench):
            parts.append(f"<p><strong>Caution:</strong> {escape(warning)}.</p>")
        parts.append(figures.speeds(bench))
        if choice is not None and bench is measured[0]:
            parts.append(figures.runtimes(choice))
        for profile in bench.profiles:
            parts += [figures.layers(profile), figures.densities(profile)]
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(_without_title(text))
    parts.append(
        body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    )
    if commands:
        lines = escape("\n".join(commands))
        parts.append(f"<h3>Command lines</h3>\n<pre>{lines}</pre>")
    return printable_lines(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _without_title(text: str) -> str:
    return text.removeprefix("# Report\n")
