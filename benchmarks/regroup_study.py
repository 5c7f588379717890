"""How blocks, remainder and speed react to t1, t2, b1, b2, the batch, the mask and the network.

    python benchmarks/regroup_study.py --data DIR --work FOLDER [--measure] [--plot docs/x.png]
        [-o results/regroup_study.json]

Networks are the trained ResNet-56 (DIR) and the VGG-16 of half width that ``regroup_training.py``
left in FOLDER, BatchNorm folded. In every layer but the first and the last a fifth of the weights
is kept: those of largest magnitude; any, at random; or those of the output channels with the
largest L1 norm ("refilled", as Refill does). Each mask is regrouped in mode "paper", from a middle
setting one parameter at a time. ``t1`` is said as rows of a group, since layers differ in rows.

A line says, for all layers together: how many got blocks; how many blocks; which share of all
weights is left; which share of the non-zeros (and of their norm) went, and how many zeros were
filled for one non-zero; and predicted times, by the sparse runtime's cost model for this machine
and one thread: how many times faster than dense is the scattered mask, the same with blocks that
lose nothing, and the regrouped one. Lines that are there already are not computed again. With
``--measure`` the lines of MEASURED are measured, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import regroup_deploy as deploy
import regroup_race as speed

from prunedeploy.core.files import atomic_path, from_json, to_json
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.passes.analysis.liveness import layers_of
from prunedeploy.passes.blocks import Rule, regroup
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.cost import cycles
from prunedeploy.runtimes.sparse.toolchain.compile import isa_of
from prunedeploy.targets import by_name

RESULTS = Path(__file__).parent / "results" / "regroup_study.json"
DENSITY = 0.2
BATCHES = (1, 8)
NETWORKS = {"vgg16": "VGG-16, half width", "resnet56": "ResNet-56"}
SOURCES = ("magnitude", "random", "refilled")


@dataclass(frozen=True)
class Setting:
    """The subject of a line; ``group``: rows of a group, which gives t1."""

    network: str
    source: str
    group: int = 32
    t2: int = 8
    b1: int = 17
    b2: int = 16


@dataclass(frozen=True)
class Line:
    """The result of a setting; times faster than dense, by batch, predicted and measured."""

    setting: Setting
    layers: int
    blocked: int
    blocks: int
    left: float
    dropped: float
    dropped_norm: float
    filled: float
    scattered: dict[str, float]
    lossless: dict[str, float]
    regrouped: dict[str, float]
    lossless_share: float  # of the non-zeros that lie in blocks which lose nothing
    measured: dict[str, float]


@dataclass(frozen=True)
class Lines:
    """All that was computed so far."""

    lines: tuple[Line, ...] = ()


def settings() -> Iterator[Setting]:
    """A middle setting for every mask, and its neighbours."""
    for network in NETWORKS:
        for source in SOURCES:
            for t2 in (4, 6, 8, 10, 12) if source != "refilled" else (8,):
                yield Setting(network, source, t2=t2)
    middle = Setting("vgg16", "magnitude")
    for group in (16, 64, 128):
        yield replace(middle, group=group, t2=group // 4, b1=group // 2 + 1)
    for b1 in (9, 25, 33):
        yield replace(middle, b1=b1)
    for b2 in (4, 64, 256):
        yield replace(middle, b2=b2)


MEASURED = (
    *(Setting("vgg16", source) for source in SOURCES),
    Setting("vgg16", "magnitude", t2=6),
    Setting("vgg16", "magnitude", t2=12),
)


# -- masks -----------------------------------------------------------------------------------------


def masked(weight: Array, source: str, seed: int) -> Array:
    """A layer's weight [outputs, inputs, taps] with ``DENSITY`` of it left."""
    size = np.abs(weight)
    if source == "refilled":
        count = -(-round(len(weight) * DENSITY * 100) // 100)
        rows = np.argsort(-size.reshape(len(weight), -1).sum(1), kind="stable")[: max(count, 1)]
        spilled = np.zeros(weight.shape, np.bool_)
        spilled[rows] = True
    else:
        score = size if source == "magnitude" else np.random.default_rng(seed).random(weight.shape)
        spilled = score >= np.quantile(score, 1 - DENSITY)
    return np.where(spilled, weight, 0).astype(np.float32)


@dataclass
class _Made:
    """The layers of one setting, and what the counts of its line are made of."""

    scattered: dict[str, Array]
    regrouped: dict[str, Array]
    counts: dict[str, float]


def make(program: ir.Model, setting: Setting) -> _Made:
    """Mask and regroup all layers but the first and the last."""
    made = _Made({}, {}, dict.fromkeys(("blocked", "blocks", "dropped", "filled", "left"), 0.0))
    lost = norm = 0.0
    for seed, (name, weight) in enumerate(middle_layers(program)):
        scattered = masked(weight, setting.source, seed)
        groups = max(len(weight) // setting.group, 1)
        rule = Rule("paper", groups, setting.t2, setting.b1, setting.b2)
        after = regroup(scattered, rule)
        mask = after.mask.reshape(weight.shape)
        made.scattered[name], made.regrouped[name] = scattered, np.where(mask, weight, 0)
        for key, value in (
            ("blocked", float(after.found)), ("blocks", float(len(after.blocks))),
            ("dropped", after.dropped), ("filled", after.filled), ("left", int(after.mask.sum())),
        ):  # fmt: skip
            made.counts[key] += value
        total = float(np.square(scattered.astype(np.float64)).sum())
        lost, norm = lost + after.dropped_norm**2 * total, norm + total
    made.counts["norm"] = (lost / norm) ** 0.5
    return made


def middle_layers(program: ir.Model) -> list[tuple[str, Array]]:
    """Name of the initializer and weight of all layers but the first and the last."""
    layers = []
    for layer in layers_of(program.graph)[1:-1]:
        assert layer.weight.const_value is not None
        layers.append((str(layer.weight.name), layer.weight.const_value.numpy()))
    return layers


def with_weights(model: Path, weights: dict[str, Array], path: Path) -> Path:
    """The model with other weights."""
    program = models.load(model)
    for name, array in weights.items():
        value = program.graph.initializers[name]
        value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=name)
    models.save(program, path)
    return path


# -- times -----------------------------------------------------------------------------------------


def predicted(model: Path, batch: int) -> tuple[float, float, float]:
    """Cycles without blocks and with them, and the share of the non-zeros in blocks."""
    plan = lower(models.load(model), batch)
    assert not isinstance(plan, Refusal)
    isa = isa_of(by_name("host"))
    known = BlockCache()
    without = best = inside = total = 0.0
    for step in plan.steps:
        if isinstance(step, Conv):
            schedules = choose.ranked(step, isa, 1, known)
            costs = [
                (schedule.kernel, cycles(step, schedule, isa, 1, known)) for schedule in schedules
            ]
            without += min(cost for kernel, cost in costs if not KERNELS[kernel].finds_blocks)
            best += costs[0][1]
            inside += known.find(step, choose.fill(step, isa, known)).inside
            total += np.count_nonzero(step.weight)
    return without, best, inside / max(total, 1)


def line(model: Path, setting: Setting, folder: Path) -> Line:
    """Regroup, count, predict."""
    program = models.load(model)
    made = make(program, setting)
    scattered = with_weights(model, made.scattered, folder / "scattered.onnx")
    regrouped = with_weights(model, made.regrouped, folder / "regrouped.onnx")
    times: dict[str, dict[str, float]] = {"scattered": {}, "lossless": {}, "regrouped": {}}
    share = 0.0
    for batch in BATCHES:
        dense, *_ = predicted(model, batch)
        rows, lossless, share = predicted(scattered, batch)
        _, best, _ = predicted(regrouped, batch)
        for kind, cost in (("scattered", rows), ("lossless", lossless), ("regrouped", best)):
            times[kind][str(batch)] = round(dense / cost, 3)
    sizes = [weight.size for _, weight in middle_layers(program)]
    nonzeros = sum(int(np.count_nonzero(weight)) for weight in made.scattered.values())
    return Line(
        setting, len(sizes), int(made.counts["blocked"]), int(made.counts["blocks"]),
        made.counts["left"] / sum(sizes), made.counts["dropped"] / nonzeros, made.counts["norm"],
        made.counts["filled"] / nonzeros, times["scattered"], times["lossless"],
        times["regrouped"], share, {},
    )  # fmt: skip


def measured(model: Path, setting: Setting, rounds: int, folder: Path) -> dict[str, float]:
    """Times faster than the dense network in the sparse runtime and in ONNX Runtime, batch 1."""
    from prunedeploy.engines import building

    made = make(models.load(model), setting)
    paths = {
        "dense": model,
        "scattered": with_weights(model, made.scattered, folder / "scattered.onnx"),
        "regrouped": with_weights(model, made.regrouped, folder / "regrouped.onnx"),
    }
    engines = {"onnxruntime": building.build(model, "host", "ort", folder / "ort.engine")}
    for name, path in paths.items():
        engine = folder / f"{name}.engine"
        engines[name] = building.build(path, "host", "sparse", engine, threads=1, batch=1)
    times = speed.together(engines, 1, speed.Settings(1, rounds))
    dense = times["dense"].ms
    return {name: round(dense / times[name].ms, 3) for name in engines if name != "dense"}


# -- output ----------------------------------------------------------------------------------------


def render(lines: tuple[Line, ...]) -> Iterator[str]:
    """A line a setting, times at batch 1 and 8."""
    yield (
        "| network | mask | rows of a group | t2 | b1 | b2 | layers | blocks | weights left | "
        "dropped (norm) | filled | scattered | lossless | regrouped | measured |"
    )
    yield "|---|---|" + "---:|" * 13
    for x in lines:
        s = x.setting
        times = (
            " / ".join(f"{each[str(batch)]:.2f}" for batch in BATCHES)
            for each in (x.scattered, x.lossless, x.regrouped)
        )
        real = f"{x.measured['scattered']:.2f}, {x.measured['regrouped']:.2f}" if x.measured else ""
        yield (
            f"| {NETWORKS[s.network]} | {s.source} | {s.group} | {s.t2} | {s.b1} | {s.b2} | "
            f"{x.blocked} of {x.layers} | {x.blocks} | {x.left:.1%} | {x.dropped:.0%} "
            f"({x.dropped_norm:.0%}) | {x.filled:.2f} | {' | '.join(times)} | {real} |"
        )


def plot(lines: tuple[Line, ...], path: Path) -> None:
    """Weights left, norm that went and predicted speed over t2, a column a network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(3, len(NETWORKS), sharex=True, squeeze=False)
    for column, (network, title) in enumerate(NETWORKS.items()):
        for source in SOURCES:
            chosen = [x for x in lines if x.setting == Setting(network, source, t2=x.setting.t2)]
            chosen.sort(key=lambda x: x.setting.t2)
            t2 = [x.setting.t2 for x in chosen]
            for row, values in enumerate((
                [100 * x.left for x in chosen],
                [100 * x.dropped_norm for x in chosen],
                [x.regrouped["1"] / x.scattered["1"] for x in chosen],
            )):  # fmt: skip
                axes[row, column].plot(t2, values, marker="o", label=source)
        axes[0, column].set_title(title)
        axes[2, column].set_xlabel("t2: non-zeros of a column, of about 32 rows")
        axes[2, column].axhline(1, color="grey", linewidth=0.8)
    texts = ("weights left, %", "norm dropped, %", "times faster than scattered\n(predicted)")
    for row, text in enumerate(texts):
        axes[row, 0].set_ylabel(text)
    axes[0, 0].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def model_of(network: str, options: argparse.Namespace) -> Path:
    """The dense network as ONNX, written once."""
    path: Path = options.work / f"study-{network}.onnx"
    if not path.is_file():
        sources = {"vgg16": options.work / "dense.pt"}
        source = sources.get(network, options.data / "resnet56-4bfd9763.th")
        arch = {"vgg16": "vgg16_bn_cifar"}.get(network, network)
        deploy.export(arch, source, options.work).replace(path)
    return path


def main() -> None:
    """Compute what is missing until the time is up, and print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the ResNet-56")
    parser.add_argument("--work", type=Path, required=True, help="that of regroup_training.py")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--plot", type=Path, help="a PNG file")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    text = options.output.read_text() if options.output.is_file() else ""
    known = {x.setting: x for x in from_json(Lines, text).lines} if text else {}
    for setting in dict.fromkeys(settings()):
        wanted = options.measure and setting in MEASURED
        if time.monotonic() > until or (
            setting in known and not (wanted and not known[setting].measured)
        ):
            continue
        with tempfile.TemporaryDirectory(prefix="prunedeploy-") as temporary:
            folder, model = Path(temporary), model_of(setting.network, options)
            result = known.get(setting) or line(model, setting, folder)
            if wanted:
                result = replace(result, measured=measured(model, setting, options.rounds, folder))
        known[setting] = result
        print(list(render((result,)))[-1], file=sys.stderr, flush=True)
        with atomic_path(options.output) as file:
            file.write_text(to_json(Lines(tuple(known.values()))))
    lines = tuple(known[setting] for setting in dict.fromkeys(settings()) if setting in known)
    print("\n".join(render(lines)))
    if options.plot is not None:
        plot(lines, options.plot)


if __name__ == "__main__":
    main()
