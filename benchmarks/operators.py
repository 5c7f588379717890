"""What of today's architectures the sparse runtime takes whole, and which operators stop the rest.

    python benchmarks/operators.py export FOLDER [--only WORD]     # with torch, timm, transformers
    python benchmarks/operators.py lower FOLDER [-o benchmarks/results/operators.json]

``export`` writes every network of ``operators_models.py`` as torch's two exporters write it: the
default one with a fixed batch, the older one with a dynamic batch, and those of transformers with
both of their default forms of attention. 90 % of the weights of every layer are zero. ``lower``
reads the files, at batch 1 and, where it is dynamic, 2. A network that is refused is lowered again
with the operator in the way made an input, until all that stops it is known. The environment of
the two steps need not be the same; benchmarks/requirements-coverage.txt has that of the first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_SECONDS = 150  # of an export
MAX_CUTS = 40
ZEROS = 0.9
OUT = Path(__file__).parent / "results" / "operators.json"


# -- export ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError when it takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def variants(name: str, exporter: str) -> tuple[str, ...]:
    """The forms of attention."""
    both = name.startswith("transformers:") and exporter == "legacy"
    return ("sdpa", "eager") if both else ("sdpa",)


def export_all(folder: Path, only: str) -> None:
    """Every network that is not in ``folder`` yet."""
    import operators_models as models
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for exporter in ("legacy", "dynamo"):  # the faster one first
        for name, attention in ((n, a) for n in models.names() for a in variants(n, exporter)):
            record = {"network": name, "exporter": exporter, "attention": attention}
            stem = stem_of(record)
            facts = folder / f"{stem}.json"
            if only not in stem or facts.exists():
                continue
            begin = time.perf_counter()
            record["torch"] = torch.__version__
            try:
                with limited(MAX_SECONDS), quiet():
                    export(models.create(name, attention), exporter, folder / f"{stem}.onnx")
            except Exception as error:
                lines = f"{type(error).__name__}: {error}".strip().splitlines()
                record["error"] = lines[0][:200]
            facts.write_text(json.dumps(record))
            print(stem, record.get("error", "exported"), f"{time.perf_counter() - begin:.0f} s")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters say a great deal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            yield


def export(network: Any, exporter: str, path: Path) -> None:
    """Write the network, most of its weights zero."""
    import torch

    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.module.parameters():
            if parameter.ndim > 1 and parameter.shape[0] > 1:
                parameter *= torch.rand(parameter.shape, generator=random) >= ZEROS
    options: dict[str, Any] = {"input_names": list(network.names), "dynamo": exporter == "dynamo"}
    if exporter == "dynamo":
        options |= {"external_data": False, "verbose": False}
    elif network.inputs[0].shape[0] == 1:
        options["dynamic_axes"] = {
            name: {list(value.shape).index(1): "batch"}
            for name, value in zip(network.names, network.inputs, strict=True)
        }
    torch.onnx.export(network.module, network.inputs, str(path), **options)


# -- lowering --------------------------------------------------------------------------------------


def lower_all(folder: Path, out: Path, only: str) -> None:
    """Lower every exported network, and write the table; with ``only`` others keep theirs."""
    rows = []
    if only and out.exists():
        rows = [row for row in json.loads(out.read_text())["rows"] if only not in stem_of(row)]
    for facts in sorted(folder.glob("*.json")):
        if only in facts.stem:
            record = json.loads(facts.read_text())
            if "error" not in record:
                record |= outcome(facts.with_suffix(".onnx"))
            rows.append(record)
            print(facts.stem, "|", summary(record), flush=True)
    rows.sort(key=stem_of)
    out.write_text(json.dumps({**totals(rows), "rows": rows}, indent=1) + "\n")
    print(json.dumps(totals(rows), indent=1))


def stem_of(row: dict[str, Any]) -> str:
    """The name of an export's files, without what follows the dot."""
    name = f"{row['network']}@{row['exporter']}-{row['attention']}"
    return name.replace(":", ".")


def summary(record: dict[str, Any]) -> str:
    """One row in a few words."""
    if "error" in record:
        return f"not exported: {record['error']}"
    return "whole" if not record["refused"] else "; ".join(record["refused"])


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many are whole, and how many networks each operator stops."""
    tried = [row for row in rows if "refused" in row]
    stops: dict[str, set[str]] = {}
    for row in tried:
        for reason in row["refused"]:
            stops.setdefault(reason.split(" (")[0], set()).add(row["network"])
    whole = Counter(row["network"] for row in tried if not row["refused"])
    seen = Counter(row["network"] for row in tried)
    return {
        "exports": len(tried),
        "whole": sum(not row["refused"] for row in tried),
        "networks": len(seen),
        "networks_whole": sum(whole[name] == count for name, count in seen.items()),
        "stopped_by": {
            name: len(found) for name, found in sorted(stops.items(), key=lambda x: -len(x[1]))
        },
    }


def outcome(path: Path) -> dict[str, Any]:
    """What lowering says of a file: all that is in the way, and how much of it is computed."""
    import onnx_ir as ir

    from prunedeploy.graph import model as models
    from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower

    model: ir.Model = models.load(path)
    nodes = len(model.graph)
    dynamic = any(
        not isinstance(value.shape[0], int) for value in model.graph.inputs if value.shape
    )
    refused: list[str] = []
    for batch in (1, 2) if dynamic else (fixed_batch(model),):
        rest = model.clone()
        for _ in range(MAX_CUTS):
            result = lower(rest, batch)
            if not isinstance(result, Refusal):
                break
            reason = f"{result.operator} ({result.reason})"
            if reason not in refused:
                refused.append(reason)
            if not cut(rest, result.node, path, batch):
                break
    return {"nodes": nodes, "dynamic": dynamic, "refused": refused}


def fixed_batch(model: Any) -> int:
    """The batch that a model was exported for."""
    sizes = [value.shape[0] for value in model.graph.inputs if value.shape]
    return int(sizes[0]) if sizes else 1


_RUNS: dict[tuple[Path, int], dict[str, Any]] = {}


def cut(model: Any, name: str, path: Path, batch: int) -> bool:
    """Make the outputs of a node inputs of the model, of the shapes that they have in a run."""
    import onnx_ir as ir

    node = next((n for n in model.graph if n.name == name), None)
    if node is None:
        return False
    values = everything(path, batch)
    for output in list(node.outputs):
        array = values.get(output.name)
        if array is None:
            return False
        dtype = ir.DataType.from_numpy(array.dtype)
        fresh = ir.Input(f"{output.name}_cut", ir.Shape(array.shape), ir.TensorType(dtype))
        if output.is_graph_output():
            for index, value in enumerate(model.graph.outputs):
                if value is output:
                    model.graph.outputs[index] = fresh
        output.replace_all_uses_with(fresh)
        model.graph.inputs.append(fresh)
    model.graph.remove(node, safe=True)
    return True


def everything(path: Path, batch: int) -> dict[str, Any]:
    """Every value of a run of ONNX Runtime."""
    import onnx
    import onnx_ir as ir
    import onnxruntime

    from prunedeploy.graph import model as models
    from prunedeploy.reference import verify

    if (path, batch) in _RUNS:
        return _RUNS[path, batch]
    _RUNS.clear()
    model = models.load(path)
    feeds = verify.random_feeds(models.specs(model)[0], batch=batch, seed=0)
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        proto.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in node.output if name and name not in known
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, ["CPUExecutionProvider"]
        )
        outputs = session.run(None, feeds)
    except Exception as error:
        print("  cannot run:", str(error)[:150])
        _RUNS[path, batch] = {}
        return {}
    names = [value.name for value in session.get_outputs()]
    _RUNS[path, batch] = dict(zip(names, outputs, strict=True))
    return _RUNS[path, batch]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("export", "lower"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--only", default="", metavar="WORD", help="names that contain it")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if given.step == "export":
        export_all(given.folder, given.only)
    else:
        lower_all(given.folder, given.o, given.only)
