"""Exact shrink over real architectures: what goes, what stays and why, and the largest difference.

    pip install -r benchmarks/requirements-coverage.txt   # in an environment of its own, see there
    python benchmarks/coverage.py --resume results.jsonl --cache folder -o docs/coverage.md

Every model is created with random weights, exported, and about 30 % of its channels are killed:
all that writes a channel is set to zero, over everything that ``coverage_trace.py`` finds tied to
it. The killed models stay in the cache, so that a later run tries the passes alone. A line of the
results file is one model; ``--redo`` runs those again that failed, ``--rerun`` all that match
``--only``. Each model has a process of its own, with limits on time and memory.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import re
import resource
import signal
import statistics
import sys
import time
import traceback
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from prunedeploy import passes
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.graph.preparation import prepare
from prunedeploy.reference import verify

Record = dict[str, Any]
DEAD = 0.3
MEMORY = 8 << 30
PATIENCE = 5  # times the limit on processor time that may pass on the clock
TARGET = 1e-5


def session(program: ir.Model, outputs: Iterable[str] = (), optimise: bool = True) -> Any:
    """ONNX Runtime on one thread; ``outputs`` names further values to hand out."""
    import onnxruntime

    proto = ir.to_proto(program)
    del proto.graph.value_info[:]
    for name in outputs:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, ["CPUExecutionProvider"]
    )


def feeds_of(program: ir.Model, batch: int, seed: int) -> dict[str, Array]:
    """Random inputs."""
    return verify.random_feeds(models.specs(program)[0], batch=batch, seed=seed)


def outputs_of(
    program: ir.Model, feeds: dict[str, Array], optimise: bool = True
) -> dict[str, Array]:
    """The outputs that ONNX Runtime computes."""
    runner = session(program, optimise=optimise)
    return dict(zip((v.name for v in program.graph.outputs), runner.run(None, feeds), strict=True))


def export(name: str, dense: Path) -> Record:
    """Create and export a model to ``dense``; what is known of it, its status if that is all."""
    import torch
    from coverage_models import create, randomise

    from prunedeploy.shrinking.export import to_model

    torch.set_num_threads(1)
    begin = time.perf_counter()
    model, shape = create(name)
    randomise(model.eval(), zlib.crc32(name.encode()))
    try:
        program = to_model(model, shape)
    except UserError as error:
        lines = str(error.__context__ or error).splitlines()
        errors = [line for line in lines if "error" in line.lower()] or [str(error)]
        return {"status": "not exportable", "message": errors[-1][:300]}
    prepare(program)
    models.save(program, dense)
    return {"input": list(shape), "export seconds": round(time.perf_counter() - begin, 1)}


def make(name: str, folder: Path) -> Record:
    """Kill channels of a model; ``folder`` keeps it exported, killed, and the counts."""
    stem = name.replace(":", ".")
    dense, facts = folder / f"{stem}.dense.onnx", folder / f"{stem}.dense.json"
    if not facts.exists():
        record = export(name, dense)
        if "status" in record:
            return record
        facts.write_text(json.dumps(record))
    record = json.loads(facts.read_text())
    program = models.load(dense)
    prepare(program)
    before = parameters(program)
    dead, rows, held = kill(program, np.random.default_rng(zlib.crc32(name.encode())))
    counted = {"parameters": before, "rows": rows, "dead": sum(dead.values()), "held": held}
    models.save(program, folder / f"{stem}.onnx")
    (folder / f"{stem}.json").write_text(json.dumps(record | counted))
    return {}


def parameters(program: ir.Model) -> int:
    """Elements of all floating-point initializers."""
    tensors = [value.const_value for value in program.graph.initializers.values()]
    return sum(t.size for t in tensors if t is not None and t.dtype.is_floating_point())


def kill(program: ir.Model, random: np.random.Generator) -> tuple[dict[str, int], int, int]:
    """Set about 30 % of the channels to zero: all that writes them.

    Returns:
        The number of rows killed by weight; rows in all; those left out because they reach an
        output or are mixed so that none of them can go.
    """
    from coverage_trace import Trace

    graph = program.graph
    wanted = [v for node in graph for v in node.outputs if v.name and not v.is_graph_output()]
    names = [str(v.name) for v in wanted] + [str(v.name) for v in graph.outputs]
    feeds = feeds_of(program, 1, 0)
    runner = session(program, (str(v.name) for v in wanted), optimise=False)
    computed = dict(zip(names, runner.run(names, feeds), strict=True)) | feeds
    values = {k: v.shape if v.dtype.kind == "f" else v for k, v in computed.items()}
    trace = Trace(graph, values)
    trace.run()
    live = [np.zeros(1, np.int64), *trace.held]
    live += [trace.ids[str(v.name)] for v in graph.outputs if str(v.name) in trace.ids]
    kept = np.unique(np.concatenate([trace.find(np.unique(ids)) for ids in live]))
    roots = {name: trace.find(rows.ids) for name, rows in trace.rows.items()}
    everything = np.unique(np.concatenate([*roots.values(), np.zeros(0, np.int64)]))
    candidates = np.setdiff1d(everything, kept)
    dead = candidates[random.random(len(candidates)) < DEAD]
    for ids in (*roots.values(), *roots.values()):  # no layer loses everything
        if np.isin(ids, dead).all() and len(ids):
            dead = np.setdiff1d(dead, ids[:1])
    counts = {}
    for name, rows in trace.rows.items():
        mask = np.isin(roots[name], dead)
        if mask.any():
            counts[name] = int(mask.sum())
            _zero(graph, name, mask, rows.axis)
            for bias in rows.biases:
                _zero(graph, bias, mask, -1)
    for name, ids in trace.operands.items():
        mask = np.isin(trace.find(ids), dead)
        if mask.any():
            _zero(graph, name, mask, None)
    total = sum(map(len, roots.values()))
    held = sum(int(np.isin(ids, kept).sum()) for ids in roots.values())
    return counts, total, held


def _zero(graph: ir.Graph, name: str, mask: Array, axis: int | None) -> None:
    value = graph.initializers[name]
    assert value.const_value is not None
    array = np.array(value.const_value.numpy())
    if axis is None:
        array[mask] = 0
    elif array.size > 1:
        np.moveaxis(array, axis, 0)[mask] = 0
    value.const_value = ir.tensor(array, name=name)


def zero_rows(program: ir.Model) -> int:
    """Output channels whose weights are all zero, counted by operator, apart from the pass."""
    counts: dict[str, int] = {}
    for node in program.graph:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        if weight is None or weight.const_value is None or len(weight.const_value.shape) < 2:
            continue
        array = weight.const_value.numpy()
        axis = _row_axis(node, array.ndim)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        counts[str(weight.name)] = int((~rows.any(axis=1)).sum())
    return sum(counts.values())


def _row_axis(node: ir.Node, width: int) -> int:
    """The axis of a layer's weight that counts its output channels."""
    if node.op_type == "MatMul":
        return width - 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    grouped = node.attributes.get_int("group", 1) > 1
    return 0 if node.op_type == "Conv" or grouped else 1


def try_passes(name: str, folder: Path) -> Record:
    """Shrink a killed model, compare, and count what is left."""
    path = folder / f"{name.replace(':', '.')}.onnx"
    record: Record = json.loads(path.with_suffix(".json").read_text())
    record.pop("dead rows", None)
    program = models.load(path)
    prepare(program)
    feeds = feeds_of(program, 2, 5)
    before = outputs_of(program, feeds)
    plain = outputs_of(program, feeds, optimise=False)
    record["rounding"] = verify.compare(before, plain).max_rel  # of the dense model, two ways
    if not all(np.isfinite(array).all() for array in before.values()):
        return record | {"status": "not comparable", "message": "its outputs are not finite"}
    begin = time.perf_counter()
    reports = passes.run(program, passes.DEFAULT, feeds_of(program, 1, 6))
    record["seconds"] = round(time.perf_counter() - begin, 1)
    record["difference"] = verify.compare(before, outputs_of(program, feeds)).max_rel
    record["left"] = min(zero_rows(program), record["dead"])
    record["after"] = parameters(program)
    refused: collections.Counter[str] = collections.Counter()
    (shrunk,) = [each.result for each in reports if each.name == passes.ShrinkChannels.name]
    for note in shrunk.notes:
        if note.status == "refused":
            refused[re.sub(r" \([^)]*\)", "", note.reason)] += note.count
    record["refused"] = dict(refused.most_common())
    wrong = not record["difference"] <= max(TARGET, 10 * record["rounding"])
    record["status"] = "WRONG" if wrong else "ok"
    return record


def work(name: str, family: str, folder: Path, results: Path, limit: int, again: bool) -> None:
    """One model, in a process of its own; a line is appended to ``results``."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    record: Record = {}
    stage = "export"
    try:
        if again or not (folder / f"{name.replace(':', '.')}.json").exists():
            record = make(name, folder)
        if "status" not in record:
            stage = "passes"
            record = try_passes(name, folder)
    except Exception as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        status = "not created" if stage == "export" else "crash"
        where = traceback.extract_tb(error.__traceback__)[-1]
        location = f"{Path(where.filename).name}:{where.lineno}"
        if isinstance(error, passes.PassError) and "changed the outputs" in str(error):
            status = "WRONG"
        record = {
            "status": status,
            "message": f"{type(error).__name__}: {lines[0]} ({location})"[:400],
        }
    append(results, {"name": name, "family": family, **record})


def append(results: Path, record: Record) -> None:
    """One line."""
    with results.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{time.strftime('%H:%M:%S')} {short(record)}", file=sys.stderr, flush=True)


def short(record: Record) -> str:
    """A line for people."""
    if "difference" not in record:
        return f"{record['name']}: {record['status']}: {record.get('message', '')[:150]}"
    gone = record["dead"] - record["left"]
    return (
        f"{record['name']}: {record['status']}, {gone} of {record['dead']} dead removed, "
        f"difference {record['difference']:.1e} (rounding {record['rounding']:.1e}), "
        f"{record['export seconds']} + {record['seconds']} s"
    )


def read(results: Path) -> dict[str, Record]:
    """The last line of each model."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def warm_up() -> None:
    """Import all that every process needs; with one thread, so that it may be forked."""
    import torch

    from prunedeploy.shrinking.export import to_model

    torch.set_num_threads(1)
    outputs_of(to_model(torch.nn.Linear(2, 2), (1, 2)), {"input": np.zeros((2, 2), np.float32)})


def run_all(todo: dict[str, str], options: argparse.Namespace) -> None:
    """A process a model, some at a time."""
    folder, results, limit = options.cache, options.resume, options.limit
    context = multiprocessing.get_context("fork")
    warm_up()
    waiting, running = list(todo.items()), []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name, family = waiting.pop(0)
            process = context.Process(
                target=work, args=(name, family, folder, results, limit, options.kill)
            )
            process.start()
            running.append((process, name, family, time.monotonic()))
        time.sleep(0.1)
        for entry in list(running):
            process, name, family, begin = entry
            late = time.monotonic() - begin > PATIENCE * limit
            if late:
                process.kill()
            if not process.is_alive():
                process.join()
                running.remove(entry)
                if process.exitcode:
                    known = (folder / f"{name.replace(':', '.')}.json").exists()
                    late = late or process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
                    why = f"over {limit} s" if late else f"exit status {process.exitcode}"
                    stage = "in the passes" if known else "in export"
                    status = "timeout" if late else "crash"
                    record = {"status": status, "message": f"{why} {stage}"}
                    append(results, {"name": name, "family": family, **record})


def table(records: Iterable[Record]) -> Iterable[str]:
    """One line a family, then the sums."""
    by_family: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        by_family[record["family"]].append(record)
    yield HEADER
    for family, members in sorted(by_family.items()):
        yield _line(family, members)
    yield _line("**all**", [record for members in by_family.values() for record in members])


def _line(family: str, records: list[Record]) -> str:
    done = [record for record in records if "difference" in record]
    dead, left = (sum(record[key] for record in done) for key in ("dead", "left"))
    reasons: collections.Counter[str] = collections.Counter()
    for record in done:
        reasons.update(record["refused"])
    why = "; ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common(3))
    failed = collections.Counter(r["status"] for r in records if r["status"] != "ok")
    largest = max((record["difference"] for record in done), default=None)
    cells = (
        family,
        f"{len(done)}",
        f"{dead:,}",
        f"{1 - left / dead:.1%}" if dead else "",
        f"{largest:.0e}" if largest is not None else "",
        why,
        ", ".join(f"{count} {status}" for status, count in failed.items()),
    )
    return f"| {' | '.join(cells)} |"


def report(records: list[Record]) -> str:
    """docs/coverage.md."""
    done = [record for record in records if "difference" in record]
    failed = [record for record in records if record["status"] != "ok"]
    lines = [INTRODUCTION, *table(records), ""]
    if done:
        seconds = statistics.median(record["seconds"] for record in done)
        lines.append(f"The passes, verification included, took {seconds:.1f} s a model (median).")
    lines += ["", "## Not ok", ""] if failed else []
    lines += [
        f"- `{r['name']}`: {r['status']}: {r.get('message', '')}".rstrip(": ") for r in failed
    ]
    return "\n".join(lines) + "\n"


HEADER = (
    "| family | models | dead | removed | largest difference | stays because of | not run |\n"
    "|---|---:|---:|---:|---:|---|---|"
)

INTRODUCTION = """# Exact shrink over real architectures

Written by `benchmarks/coverage.py`: models of timm, torchvision and transformers, random weights,
exported by torch, in which 30 % of the channels were killed: all that writes them set to zero.
What is tied to a channel was found apart from the pass, by following single elements through the
graph (`benchmarks/coverage_trace.py`); channels that reach an output, or that an operator such as a
softmax mixes for good, were left alone. *dead* and *removed* count output channels of layers; the
largest difference is over two inputs in float32 on ONNX Runtime, relative to the output's range.
"""


def main() -> None:
    """Parse, run what is missing, write the table."""
    parser = argparse.ArgumentParser(description="coverage of exact shrink")
    parser.add_argument("--resume", type=Path, default=Path("coverage.jsonl"), help="results")
    parser.add_argument("--cache", type=Path, default=Path("coverage-cache"), help="killed models")
    parser.add_argument("--only", default="", help="models whose name matches this expression")
    parser.add_argument("--redo", action="store_true", help="again what did not end well")
    parser.add_argument("--rerun", action="store_true", help="again all of --only")
    parser.add_argument("--kill", action="store_true", help="kill anew, from the cached exports")
    parser.add_argument("--limit", type=int, default=120, help="seconds of processor time a model")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from coverage_models import families

    arguments.cache.mkdir(parents=True, exist_ok=True)
    known = read(arguments.resume)
    todo = {}
    for name, family in families().items():
        failed = arguments.redo and known.get(name, {}).get("status") not in (
            "ok",
            "not exportable",
        )
        missing = name not in known or failed or arguments.rerun
        if missing and re.search(arguments.only, name):
            todo[name] = family
    run_all(todo, arguments)
    known = read(arguments.resume)
    text = report([known[name] for name in families() if name in known])
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
