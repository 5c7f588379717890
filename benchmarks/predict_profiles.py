"""Layers of networks with the time that each took: what ``predict.py --fit`` learns from.

ONNX Runtime's profiler tells shapes and times of what it really runs, after its fusions; the
sparse engine's tells its steps. Both cost a little time a layer, which the fit takes out again by
the time of whole runs without a profiler.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cpu_models
import numpy as np
import race
from machine import settled

from prunedeploy.core.files import atomic_path
from prunedeploy.core.measurements import Profile
from prunedeploy.core.records import Array, Engine
from prunedeploy.engines import building, opening
from prunedeploy.measure.profiling import profiles_of
from prunedeploy.prediction.graph import FEW_ROWS, KERNEL_OF
from prunedeploy.prediction.record import Work
from prunedeploy.prediction.steps import of_layers
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.api import Session
from prunedeploy.runtimes.ort.cpu import PAYLOAD
from prunedeploy.runtimes.timing import interleave

OF_THEIR_OWN = {"FusedMatMul": "product", "BiasGelu": "function", "Gelu": "function"}
ATTEMPTS = 6
DISTURBED = 1.15  # times the fastest round: a median above it is somebody else's doing
VIEWS = ("ReorderInput", "ReorderOutput")  # of tensors that are small by then


@dataclass(frozen=True)
class Layer:
    """Its work, and the median of its seconds."""

    work: Work
    seconds: float


@dataclass(frozen=True)
class Run:
    """A network in a runtime, ``seconds`` without a profiler."""

    network: str
    runtime: str
    threads: int
    seconds: float
    layers: tuple[Layer, ...]


def runs(
    names: list[str], sparsity: float, threads: list[int], settings: race.Settings
) -> Iterator[Run]:
    """Both runtimes on every network, those measured before from the cache folder."""
    for name in names:
        for count in threads:
            file = _file(name, sparsity, count, settings)
            if not file.is_file():
                measured = list(_measure(name, sparsity, count, settings))
                with atomic_path(file) as temporary:
                    temporary.write_text(json.dumps([asdict(run) for run in measured]))
            for each in json.loads(file.read_text()):
                layers = tuple(Layer(Work(**x["work"]), x["seconds"]) for x in each["layers"])
                yield Run(**{**each, "layers": layers})


def forget(names: list[str], sparsity: float, threads: list[int], settings: race.Settings) -> None:
    """Let ``runs`` measure these anew."""
    for name in names:
        for count in threads:
            _file(name, sparsity, count, settings).unlink(missing_ok=True)


def _file(name: str, sparsity: float, threads: int, settings: race.Settings) -> Path:
    return settings.cache / f"profile-{name}-{100 * sparsity:g}-{threads}.json"


def _measure(name: str, sparsity: float, threads: int, settings: race.Settings) -> Iterator[Run]:
    model = cpu_models.fixed(name, sparsity, 1, settings.cache)
    liked = cpu_models.for_onnxruntime(name, sparsity, 1, settings.cache)
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        path = Path(folder)
        dense = building.build(liked, "host", "ort", path / "dense.engine")
        sparse = race.build(model, threads, settings, path / "sparse.engine")
        run = partial(_both, dense, sparse, threads, settings.rounds, path)
        (times, events, profile), trips = settled(run, threads, settings.patience)
        if trips:
            print(f"{name}: cores {' and '.join(map(str, trips))} ns apart", file=sys.stderr)
        yield Run(name, "ort", threads, times[0], tuple(events))
        layers = [asdict(step) for step in profile.steps]
        works = of_layers(layers, threads, threads)
        steps = (Layer(w, s.seconds) for w, s in zip(works, profile.steps, strict=True))
        yield Run(name, "sparse", threads, times[1], tuple(steps))


def _both(
    dense: Engine, sparse: Engine, threads: int, rounds: int, path: Path
) -> tuple[list[float], list[Layer], Profile]:
    """Seconds of both without a profiler; ONNX Runtime's layers; the sparse engine's steps."""
    with (
        opening.open(dense, threads, shared=True) as one,
        opening.open(sparse, threads, shared=True) as other,
    ):
        feeds = random_feeds(one.inputs, 1)
        times = [_undisturbed(session, feeds, rounds) for session in (one, other)]
        (profile,) = profiles_of([sparse], [other], feeds, 1, threads, rounds)
    return times, _events(dense.path / PAYLOAD, threads, rounds, path), profile


def _undisturbed(session: Session, feeds: dict[str, Array], rounds: int) -> float:
    """Median seconds, taken again while another program took turns on the cores.

    Alone, as in a service: in turn with another engine, this one's weights would leave the caches.
    """
    for _ in range(ATTEMPTS):
        samples = np.array(interleave([session], feeds, rounds, 5)[0]) / 1e9
        median = np.median(samples)
        if median <= DISTURBED * samples.min():
            break
    return float(median)


def _events(model: Path, threads: int, rounds: int, folder: Path) -> list[Layer]:
    """Medians of ONNX Runtime's own profiler."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feeds = {
        value.name: np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
        for value in session.get_inputs()
    }
    for _ in range(rounds + 5):
        session.run(None, feeds)
    nodes: dict[str, tuple[Any, list[int]]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = f"{event['name']} {event['args']['node_index']}"
            nodes.setdefault(key, (event["args"], []))[1].append(event["dur"])
    return [
        Layer(_work(key, args), float(np.median(times[5:])) / 1e6)
        for key, (args, times) in nodes.items()
    ]


def _work(name: str, args: Any) -> Work:
    """The work of a node as it ran: channels are rounded up already."""
    inputs = [next(iter(x.values())) for x in args["input_type_shape"]]
    outputs = [next(iter(x.values())) for x in args["output_type_shape"]]
    op, size = args["op_name"], sum(map(math.prod, outputs))
    moved = 4 * (size + sum(map(math.prod, inputs)))
    if op == "Conv":
        weight, pixels = inputs[1], size // outputs[0][1]
        macs = math.prod(weight)
        kernel = "pointwise" if math.prod(weight[2:]) == 1 else "conv"
        if weight[1] == 1 and inputs[0][1] > 1:
            kernel = "depthwise"
        elif weight[1] < inputs[0][1]:
            kernel = "grouped"
        return Work(name, kernel, 2.0 * macs * pixels, 4 * macs, moved - 4 * macs)
    if op in ("Gemm", "FusedGemm"):  # its weights are packed and not among the inputs
        depth, rows = inputs[0][-1], math.prod(outputs[0][:-1])
        kernel = "linear" if rows >= FEW_ROWS else "vector"
        return Work(name, kernel, 2.0 * size * depth, 4 * depth * outputs[0][-1], moved)
    if op in ("MatMul", "FusedMatMul"):
        return Work(name, "product", 2.0 * size * inputs[0][-1], 0, moved)
    kernel = OF_THEIR_OWN.get(op) or KERNEL_OF.get(op, "elementwise")
    if op in VIEWS:
        kernel = "move"
    return Work(name, kernel, float(size), 0, 0 if kernel == "view" else moved)
