"""Where the time of a sparse engine goes, layer by layer, against what this machine can do.

    python benchmarks/layers.py [--model resnet50] [--sparsity 90] [--batch 1] [--threads 1]
        [--rounds 50] [-o results/layers.md]

Times are medians from the runtime's own profiler. Each layer is held against bounds, from the peaks
that ``machine.py`` measures in the same minute:

- FMA: all multiplications of its non-zero weights, an operand of each in L1;
- edges: those of whole tiles, where a quarter or more of that lies beyond the edges of the map;
- fetch: operands of programs that come in no faster than two in a cycle, a load counted as two;
- latency: sums that wait for one another, where a tile has too few vectors to fill the time;
- L2: the operand read from L2, where the panel of a tile is larger than L1;
- rows: a fixed number of cycles each time a row meets a panel;
- L3 or DRAM: every element of its tensors and weights moved once.

The largest is what limits the layer; "reached" is that bound's share of the time. What the bounds
leave out: copies of tiles, threads that wait for each other, and the start of a step.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import machine
import race
from cpu import shares
from machine import Machine

from prunedeploy import targets
from prunedeploy.core.records import StepTime
from prunedeploy.engines import opening
from prunedeploy.graph import model as models
from prunedeploy.measure.profiling import profiles_of
from prunedeploy.reference.verify import random_feeds
from prunedeploy.runtimes.sparse.build import plan_of, tilings
from prunedeploy.runtimes.sparse.kernels import winograd_1d as winograd
from prunedeploy.runtimes.sparse.kernels import winograd_2d as winograd2d
from prunedeploy.runtimes.sparse.plan.steps import Conv, Step
from prunedeploy.runtimes.sparse.schedule.cost import program_loads
from prunedeploy.runtimes.sparse.schedule.schedule import Tiling, geometry
from prunedeploy.runtimes.sparse.toolchain.compile import toolchain

VISIT = 14.0  # cycles of a row that meets a panel, beside its multiplications
LATENCY = 4.0  # cycles from one sum to the next
EDGES = 1.25  # times the multiplications that count
L1, L3 = 1 << 15, 1 << 25  # bytes


@dataclass(frozen=True)
class Cut:
    """A step and how it is cut, where it is cut into tiles."""

    step: Step
    way: Tiling | None


def bounds(time: StepTime, cut: Cut, peaks: Machine, total: int) -> dict[str, float]:
    """Seconds that each part of the machine needs at least for one step.

    Weights come from beyond the cache where ``total``, what a whole run touches, does not fit.
    """
    unrolled = cut.way is not None and cut.way.kernel == "unrolled"
    peak = peaks.fma if unrolled else peaks.fma_load  # an operand is spread, or a vector
    found = {"FMA": time.flops * share_of_products(cut) / peak / 1e9}
    weights = 4 * time.nonzeros
    tensors = time.bytes - weights
    moved = {"L3": 0.0, "DRAM": 0.0}
    moved["L3" if total <= L3 else "DRAM"] += weights
    moved["L3" if tensors <= L3 else "DRAM"] += tensors
    slowest = "DRAM" if moved["DRAM"] > moved["L3"] / 4 else "L3"
    found[slowest] = (moved["L3"] / peaks.read[2] + moved["DRAM"] / peaks.read[3]) / 1e9
    if not isinstance(cut.step, Conv) or cut.way is None:
        return found
    way, layout = cut.way, geometry(cut.step, cut.way)
    pixels = way.elements * layout.tiles  # with those beyond the edges
    computed = time.nonzeros if way.kernel in ("rows", "unrolled") else time.weights
    cycle = 1e-9 / (peaks.clock * peaks.threads)
    if way.kernel == "winograd2d":
        return found
    if way.kernel != "winograd" and (whole := 2 * computed * pixels) > EDGES * time.flops:
        found["edges"] = whole / peak / 1e9
    if way.kernel == "unrolled":
        vectors = pixels / 16
        found["fetch"] = (computed / 2 + program_loads(cut.step, way)) * vectors * cycle
        return found
    # the sums of all rows of a block go on side by side, and so do the sets of a row's
    found["latency"] = computed / way.rows / sets(way) * layout.tiles * LATENCY * cycle
    channel = 32 * way.eighths if layout.flat else 4 * layout.channel
    if way.channels * channel > L1:
        found["L2"] = 4.0 * computed / way.rows * pixels / peaks.read[1] / 1e9
    outputs, channels = cut.step.weight.shape[0], cut.step.x.shape[1]
    visits = -(-outputs // way.rows) * -(-channels // way.channels) * layout.tiles
    found["rows"] = visits * VISIT * cycle
    return found


def share_of_products(cut: Cut) -> float:
    """Of the direct sum's products, those that minimal filtering leaves."""
    if not isinstance(cut.step, Conv) or cut.way is None:
        return 1.0
    outputs = cut.way.pieces
    match cut.way.kernel:
        case "winograd":
            direct = outputs * cut.step.weight.shape[2]
            return winograd.products(cut.step, outputs) / direct
        case "winograd2d":
            points = winograd2d.size(cut.step, outputs) ** 2 * winograd2d.channels(cut.step)
            return points / outputs**2 / cut.step.weight[0].size
        case _:
            return 1.0


def sets(way: Tiling) -> int:
    """Sets of sums of a row that take turns: PD_SETS of c/rows.h, with vectors of 16."""
    vectors = -(-way.elements // 16)
    return 1 if way.kernel != "rows" or vectors > 4 else 4 if vectors <= 2 else 2


def limits(
    times: Sequence[StepTime], cuts: Sequence[Cut], peaks: Machine
) -> list[tuple[str, float]]:
    """What limits every step, and the seconds that this needs."""
    total = sum(time.bytes for time in times)
    return [
        max(bounds(time, cut, peaks, total).items(), key=lambda each: each[1])
        for time, cut in zip(times, cuts, strict=True)
    ]


def render(times: Sequence[StepTime], cuts: Sequence[Cut], peaks: Machine) -> Iterator[str]:
    """A line a step, and the sum; then how much of the time each limit has."""
    total = sum(time.seconds for time in times)
    yield "| layer | computed as | ms | share | non-zero | GFLOP/s | of peak | limit | reached |"
    yield "|---|---|---:|---:|---:|---:|---:|---|---:|"
    found = limits(times, cuts, peaks)
    for time, cut, (limit, least) in zip(times, cuts, found, strict=True):
        rate = time.flops / time.seconds / 1e9
        cells = (
            f"{time.seconds * 1e3:.3f}",
            f"{time.seconds / total:.1%}",
            f"{time.nonzeros / time.weights:.0%}" if time.weights else "",
            f"{rate:.1f}",
            f"{rate / peaks.fma:.0%}",
            limit,
            f"{least / time.seconds:.0%}",
        )
        yield f"| {time.name} | {described(time, cut)} | {' | '.join(cells)} |"
    rate = sum(time.flops for time in times) / total / 1e9
    yield f"| all | | {total * 1e3:.3f} | | | {rate:.1f} | {rate / peaks.fma:.0%} | | |"
    by_limit: dict[str, float] = {}
    for time, (limit, _) in zip(times, found, strict=True):
        by_limit[limit] = by_limit.get(limit, 0.0) + time.seconds / total
    parts = sorted(by_limit.items(), key=lambda each: -each[1])
    yield "\nLimited by " + ", ".join(f"{name} {part:.0%}" for name, part in parts) + "."


def described(time: StepTime, cut: Cut) -> str:
    """Kernel, tile and panel."""
    way = cut.way
    if way is None:
        return time.choice or time.kind
    if way.kernel == "winograd2d":
        return str(way)
    rows = f" of {way.rows}" if way.kernel == "block" else ""
    how = {"plain": "", "none": ", in place"}.get(way.packing, f", {way.packing}")
    size = f"{way.pieces} x {8 * way.eighths}"
    return f"{way.kernel}{rows}, tile {size}, panel {way.channels}{how}"


def profiled(
    name: str, sparsity: float, batch: int, threads: int, settings: race.Settings
) -> tuple[tuple[StepTime, ...], list[Cut]]:
    """The median time of every step of a fresh engine, and how it is cut."""
    path = cpu_models.dynamic(name, sparsity, settings.cache)
    plan = plan_of(models.load(path), batch, threads)
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as folder:
        engine = race.build(path, threads, settings, Path(folder) / "sparse.engine", batch)
        # what the build has measured is remembered, so this is what it was built with
        tools = toolchain(targets.by_name("host"))
        ways = tilings(plan, tools, threads, settings.tune, lambda _: None)
        with opening.open(engine, threads, shared=True) as session:
            feeds = random_feeds(engine.manifest.inputs, batch)
            rounds = settings.rounds
            (profile,) = profiles_of([engine], [session], feeds, batch, threads, rounds)
    late = plan.suffix.plan.steps if plan.suffix is not None else ()
    steps = {step.name: step for step in (*plan.steps, *late)}
    return profile.steps, [Cut(steps[t.name], ways.get(t.name)) for t in profile.steps]


def heading(options: argparse.Namespace, peaks: Machine) -> str:
    """What was measured, and on what."""
    title = cpu_models.NETWORKS[options.model].title
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    rates = " / ".join(f"{rate:.0f}" for rate in peaks.read)
    return (
        f"{title}, {options.sparsity[0]:.0%} zeros, batch {options.batch}, {threads}, median of "
        f"{options.rounds}. Peak {peaks.fma:.0f} GFLOP/s ({peaks.fma_load:.0f} with an operand in "
        f"L1) at {peaks.clock:.2f} GHz; reads {' / '.join(machine.LEVELS)} {rates} GB/s.\n"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = race.arguments("a table per layer")
    parser.add_argument("--model", default="resnet50", choices=cpu_models.NETWORKS)
    parser.add_argument("--sparsity", type=shares, default=(0.9,))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="also write the table here")
    options = parser.parse_args()
    peaks = machine.measure(options.threads)
    settings = race.Settings(rounds=options.rounds, tune=options.tune, cache=options.cache)
    times, cuts = profiled(
        options.model, options.sparsity[0], options.batch, options.threads, settings
    )
    text = "\n".join([heading(options, peaks), *render(times, cuts, peaks)])
    print(text)
    if options.output is not None:
        options.output.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
