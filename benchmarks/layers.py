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
from prunedeploy.core.measurements import StepTime
from prunedeploy.engines import opening
from prunedeploy.graph import model as models
from prunedeploy.measure.profiling import profiles_of
from prunedeploy.reference.drawing import random_feeds
from prunedeploy.runtimes.sparse.build import plan_of, schedules
from prunedeploy.runtimes.sparse.kernels.jit.schedule import program_loads
from prunedeploy.runtimes.sparse.kernels.table import KERNELS, geometry
from prunedeploy.runtimes.sparse.plan.steps import Conv, Step
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule
from prunedeploy.runtimes.sparse.toolchain.compile import toolchain

ROW_SEGMENT = 14.0  # cycles of a row that meets a panel, beside its multiplications
LATENCY = 4.0  # cycles from one sum to the next
EDGES = 1.25  # times the multiplications that count
L1, L3 = 1 << 15, 1 << 25  # bytes


@dataclass(frozen=True)
class Cut:
    """A step and how it is cut, where it is cut into tiles."""

    step: Step
    schedule: Schedule | None


def bounds(time: StepTime, cut: Cut, peaks: Machine, total: int) -> dict[str, float]:
    """Seconds that each part of the machine needs at least for one step.

    Weights come from beyond the cache where ``total``, what a whole run touches, does not fit.
    """
    generated = cut.schedule is not None and KERNELS[cut.schedule.kernel].generated
    peak = peaks.fma if generated else peaks.fma_load  # an operand is one float, or a vector
    seconds = {"FMA": time.flops * share_of_products(cut) / peak / 1e9}
    weights = 4 * time.nonzeros
    tensors = time.bytes - weights
    moved = {"L3": 0.0, "DRAM": 0.0}
    moved["L3" if total <= L3 else "DRAM"] += weights
    moved["L3" if tensors <= L3 else "DRAM"] += tensors
    slowest = "DRAM" if moved["DRAM"] > moved["L3"] / 4 else "L3"
    seconds[slowest] = (moved["L3"] / peaks.read[2] + moved["DRAM"] / peaks.read[3]) / 1e9
    if not isinstance(cut.step, Conv) or cut.schedule is None:
        return seconds
    schedule, layout, kernel = (
        cut.schedule,
        geometry(cut.step, cut.schedule),
        KERNELS[cut.schedule.kernel],
    )
    pixels = schedule.elements * layout.tiles  # with those beyond the edges
    computed = time.nonzeros if kernel.skips_zeros else time.weights
    cycle = 1e-9 / (peaks.clock * peaks.threads)
    if kernel.pack is None:
        return seconds
    if not kernel.winograd and (whole := 2 * computed * pixels) > EDGES * time.flops:
        seconds["edges"] = whole / peak / 1e9
    if kernel.generated:
        vectors = pixels / 16
        seconds["fetch"] = (computed / 2 + program_loads(cut.step, schedule)) * vectors * cycle
        return seconds
    # the sums of all rows of a block go on side by side, and so do the sets of a row's
    seconds["latency"] = computed / schedule.rows / sets(schedule) * layout.tiles * LATENCY * cycle
    channel = 32 * schedule.tile_width_x8 if layout.flat else 4 * layout.channel
    if schedule.channels * channel > L1:
        seconds["L2"] = 4.0 * computed / schedule.rows * pixels / peaks.read[1] / 1e9
    outputs, channels = cut.step.weight.shape[0], cut.step.x.shape[1]
    row_segments = -(-outputs // schedule.rows) * -(-channels // schedule.channels) * layout.tiles
    seconds["rows"] = row_segments * ROW_SEGMENT * cycle
    return seconds


def share_of_products(cut: Cut) -> float:
    """The share of the direct sum's products that Winograd leaves."""
    if not isinstance(cut.step, Conv) or cut.schedule is None:
        return 1.0
    return KERNELS[cut.schedule.kernel].products(cut.step, cut.schedule)


def sets(schedule: Schedule) -> int:
    """Sets of sums of a row that take turns: PD_SETS of c/rows.h, with vectors of 16."""
    vectors = -(-schedule.elements // 16)
    return 1 if KERNELS[schedule.kernel].max_rows > 1 or vectors > 4 else 4 if vectors <= 2 else 2


def limits(
    times: Sequence[StepTime], cuts: Sequence[Cut], peaks: Machine
) -> list[tuple[str, float]]:
    """The limit of every step, and the seconds that it needs."""
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
    limiting = limits(times, cuts, peaks)
    for time, cut, (limit, bound) in zip(times, cuts, limiting, strict=True):
        rate = time.flops / time.seconds / 1e9
        cells = (
            f"{time.seconds * 1e3:.3f}",
            f"{time.seconds / total:.1%}",
            f"{time.nonzeros / time.weights:.0%}" if time.weights else "",
            f"{rate:.1f}",
            f"{rate / peaks.fma:.0%}",
            limit,
            f"{bound / time.seconds:.0%}",
        )
        yield f"| {time.name} | {described(time, cut)} | {' | '.join(cells)} |"
    rate = sum(time.flops for time in times) / total / 1e9
    yield f"| all | | {total * 1e3:.3f} | | | {rate:.1f} | {rate / peaks.fma:.0%} | | |"
    by_limit: dict[str, float] = {}
    for time, (limit, _) in zip(times, limiting, strict=True):
        by_limit[limit] = by_limit.get(limit, 0.0) + time.seconds / total
    parts = sorted(by_limit.items(), key=lambda each: -each[1])
    yield "\nLimited by " + ", ".join(f"{name} {part:.0%}" for name, part in parts) + "."


def described(time: StepTime, cut: Cut) -> str:
    """Kernel, tile and panel."""
    schedule = cut.schedule
    if schedule is None:
        return time.choice or time.kind
    if KERNELS[schedule.kernel].pack is None:
        return KERNELS[schedule.kernel].describe(schedule)
    kernel = KERNELS[schedule.kernel]
    rows = "" if kernel.skips_zeros else f" of {schedule.rows}"
    how = {"plain": "", "none": ", in place"}.get(schedule.packing, f", {schedule.packing}")
    size = f"{schedule.tile_rows} x {8 * schedule.tile_width_x8}"
    return f"{schedule.kernel}{rows}, tile {size}, panel {schedule.channels}{how}"


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
        by_name = schedules(plan, tools, threads, settings.tune, lambda _: None)
        with opening.open(engine, threads, shared=True) as session:
            feeds = random_feeds(engine.manifest.inputs, batch)
            rounds = settings.rounds
            (profile,) = profiles_of([engine], [session], feeds, batch, threads, rounds)
    late = plan.suffix.plan.steps if plan.suffix is not None else ()
    steps = {step.name: step for step in (*plan.steps, *late)}
    return profile.steps, [Cut(steps[t.name], by_name.get(t.name)) for t in profile.steps]


def heading(options: argparse.Namespace, peaks: Machine) -> str:
    """The measurements, and the machine they are from."""
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
