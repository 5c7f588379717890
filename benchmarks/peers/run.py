"""Shared by the two scripts: run us here, the peers in their environment, write the page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path

import torch

from peers import cases, ours
from peers.case import Case
from peers.result import Result, Results, load, one_line, save
from peers.worker import LIMIT_S, MARK
from prunedeploy import __version__

WORKER = Path(__file__).with_name("worker.py")
RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
PEERS = ("Torch-Pruning", "torch-simplify", "OpenVINO")
Versions = dict[str, str]
TITLE = """# prunedeploy beside other channel removers

Written by `benchmarks/patterns.py` and `benchmarks/architectures.py`: networks with random weights
and channels that are dead by construction, so that what can go is counted by hand, apart from any
tool. Counted are weights: tensors of at least two axes longer than one.

Torch-Pruning removes what it is told; a driver tells it every group of channels whose weights, and
scales of BatchNorm, are zero, which is what its own importances look at. torch-simplify finds zeros
itself. OpenVINO stands for its private offline transformations (all common optimisations, then
pruning), on the ONNX file that prunedeploy reads too.
"""
Render = Callable[[list[str], Results], Iterable[str]]


def main(collection: str, render: Render) -> None:
    """Parse, run, write the collection's section of the page."""
    parser = argparse.ArgumentParser(description=f"{collection}, for us and for our peers")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--peers", type=Path, help="python of the environment of the peers")
    parser.add_argument("--tools", default=",".join(PEERS), help="which peers run")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where peers' results are kept"
    )
    parser.add_argument("--peers-only", action="store_true", help="no table: peers' results alone")
    parser.add_argument("-o", "--output", type=Path, help="the page in Markdown")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    keys = cases.keys(collection, arguments.only)
    known, versions = load(arguments.results)
    results: Results = {key: dict(known.get(f"{collection}: {key}", {})) for key in keys}
    tools = arguments.tools.split(",") if arguments.peers else []
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) if "OpenVINO" in tools else None
        for key in keys:
            if arguments.peers_only and exported is None:
                break
            result = _ours(cases.case(collection, key), exported, arguments.peers_only)
            results[key][ours.NAME] = result
            print(f"{key}: {describe(result)}", file=sys.stderr, flush=True)
        for tool in tools:
            for key, outcome in _peer(arguments.peers, tool, folder, collection, keys, versions):
                results[key][tool] = known.setdefault(f"{collection}: {key}", {})[tool] = outcome
                print(f"{tool}: {key}: {describe(outcome)}", file=sys.stderr, flush=True)
                save(known, versions, arguments.results)
    if arguments.peers_only:
        return
    lines = list(render(keys, results))
    print("\n".join(lines))
    if arguments.output:
        write_section(arguments.output, collection, [*lines, "", _footnote(versions)])


def describe(result: Result) -> str:
    """One line for whoever waits."""
    numbers = f"{result.removed}/{result.removable}, error {result.error:.1e}, +{result.added}"
    return f"{result.verdict} {numbers} {result.seconds} s {result.message}"


def _ours(case: Case, folder: Path | None, export_only: bool) -> Result:
    try:
        return ours.measure(case, folder, export_only)
    except Exception as exception:
        return Result(0, case.removable, message=one_line(exception), failed=True)


def _peer(
    python: Path, tool: str, folder: str, collection: str, keys: list[str], versions: Versions
) -> Iterator[tuple[str, Result]]:
    """Results as they come; a case that ends the process has crashed, the next goes on."""
    left = list(keys)
    while left:
        command = [str(python), str(WORKER), tool, folder, collection, *left]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            started = False
            for line in process.stdout:
                if not line.startswith(MARK):
                    continue
                document = json.loads(line.removeprefix(MARK))
                started = True
                if "version" in document:
                    versions[tool] = document["version"]
                else:
                    yield left.pop(0), Result(**document["result"])
        if left and not started:
            raise SystemExit(f"{tool} does not start: run {' '.join(command[:4])}")
        if left:
            why = f"more than {LIMIT_S} s" if process.returncode == -14 else "the process ended"
            yield left.pop(0), Result(failed=True, message=why)


def write_section(page: Path, name: str, lines: list[str]) -> None:
    """Put ``lines`` between the section's marks, at the end where the page has none yet."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text() if page.exists() else TITLE
    section = "\n".join([begin, *lines, end])
    if begin in text:
        before, after = text.split(begin)[0], text.split(end)[1]
        page.write_text(before + section + after)
    else:
        page.write_text(f"{text}\n{section}\n")


def _footnote(versions: Versions) -> str:
    tools = ", ".join(f"{tool} {version}" for tool, version in sorted(versions.items()))
    return (
        f"prunedeploy {__version__}, {tools}; torch {torch.__version__}, Python "
        f"{platform.python_version()}; {date.today().isoformat()}."
    )
