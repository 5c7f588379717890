"""The trained networks of ``regroup_training.py``, exported, built, and measured in one run.

Every network goes the way of any user's: ``prunedeploy.shrink``, then an engine. Accuracy is that
of the engine on the 1,000 lossless test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regroup_race as speed
import torch
from prune_resnet56 import load_images, normalise

import prunedeploy
from prunedeploy.core.files import atomic_path, to_json
from prunedeploy.core.records import Engine
from prunedeploy.engines import building, opening
from prunedeploy.graph import model as models
from prunedeploy.measure.environment import environment
from prunedeploy.passes.analysis.liveness import layers_of

SPARSE = ("scattered", "regrouped", "channels")
# network, form of its engine: the first is what all others are held against
ENGINES = (
    ("dense", "ort"),
    ("dense", "sparse"),
    ("channels", "ort"),
    ("channels", "sparse"),
    ("scattered", "sparse"),
    ("regrouped", "ort"),
    ("regrouped", "repacked"),
    ("regrouped", "rows"),
    ("regrouped", "sparse"),
)
NAMES = {
    "ort": "ONNX Runtime",
    "repacked": "ONNX Runtime, repacked",
    "rows": "sparse runtime, rows only",
    "sparse": "sparse runtime",
}


@dataclass(frozen=True)
class Row:
    """An engine of a network; accuracy in percent, ``weights`` as a share of the dense ones."""

    network: str
    engine: str
    weights: float
    accuracy: float
    time: speed.Time


@dataclass(frozen=True)
class Results:
    """All rows of one run."""

    batch: int
    threads: int
    rows: tuple[Row, ...]
    environment: dict[str, str]


def export(arch: str, checkpoint: Path, work: Path) -> Path:
    """The network of a checkpoint as a shrunk ONNX model."""
    state = torch.load(checkpoint, "cpu", weights_only=True)["state_dict"]
    plain = work / f"{checkpoint.stem}.deploy.pt"
    torch.save({"state_dict": state}, plain)
    model = work / f"{checkpoint.stem}.onnx"
    prunedeploy.shrink(plain, model, arch=arch)
    return model


def weights(model: Path) -> int:
    """Non-zeros of all layers."""
    return sum(int(np.count_nonzero(layer.rows())) for layer in layers_of(models.load(model).graph))


def build(
    model: Path, form: str, batch: int, work: Path, settings: speed.Settings
) -> Engine | None:
    """An engine in one of the forms of ``NAMES``; None where repacking does not pay."""
    path = work / f"{model.stem}-{form}.engine"
    if form == "repacked":
        packed = speed.repack(model, work / f"{model.stem}.repacked.onnx")
        return None if packed is None else building.build(packed, "host", "ort", path)
    if form == "ort":
        return building.build(model, "host", "ort", path)
    arguments = {"threads": settings.threads, "tune": settings.tune}
    blocks = form != "rows"
    return building.build(model, "host", "sparse", path, batch=batch, blocks=blocks, **arguments)


def accuracy(engine: Engine, batch: int, test: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Top-1 in percent."""
    images, labels = normalise(test[0]).contiguous().numpy(), test[1].numpy()
    with opening.open(engine, 2) as session:
        (name,) = (spec.name for spec in session.inputs)
        outputs = [
            next(iter(session.run({name: np.ascontiguousarray(images[at : at + batch])}).values()))
            for at in range(0, len(images), batch)
        ]
    return float(100 * (np.concatenate(outputs).argmax(1) == labels).mean())


def measure(
    arch: str, work: Path, data: Path, batch: int, settings: speed.Settings, output: Path
) -> Iterator[str]:
    """Build everything, measure it in turn, write the results; the lines of the table."""
    test = load_images(data / "cifar10_test1k_lossless.npz")
    names = ("dense", *SPARSE)
    onnx = {name: export(arch, work / f"{name}.pt", work) for name in names}
    count = {name: weights(path) for name, path in onnx.items()}
    made = {pair: build(onnx[pair[0]], pair[1], batch, work, settings) for pair in ENGINES}
    engines = {pair: engine for pair, engine in made.items() if engine is not None}
    times = speed.together(
        {f"{name} {form}": engine for (name, form), engine in engines.items()},
        batch,
        settings,
    )
    rows = tuple(
        Row(name, form, count[name] / count["dense"], accuracy(engine, batch, test), time)
        for ((name, form), engine), time in zip(engines.items(), times.values(), strict=True)
    )
    with atomic_path(output) as temporary:
        results = Results(batch, settings.threads, rows, environment())
        temporary.write_text(to_json(results))
    yield "| network | weights | engine | accuracy | ms | times |"
    yield "|---|---:|---|---:|---:|---:|"
    for row in rows:
        ratio = row.time.ratio
        text = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else ""
        yield (
            f"| {row.network} | {row.weights:.1%} | {NAMES[row.engine]} | {row.accuracy:.1f} % | "
            f"{row.time.ms:.3f} | {text} |"
        )
