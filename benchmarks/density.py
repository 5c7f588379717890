"""How fast ResNet-50 runs against its density, and where the sparse engine begins to win.

    python benchmarks/density.py [--batch 1,16] [--threads 2] [--density 100,50,10,2] [--rounds 50]
        [--deepsparse ENV/bin/python] [--again]

Every point is one interleaved run beside ONNX Runtime (``race.py``); what was measured before
stands in the results file. ``--rounds 0`` draws what is there. The picture needs matplotlib
(requirements-plots.txt).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import race
from cpu import arguments, numbers, progress, settings_from, shares
from race import OURS, PEER, Results

FOLDER = Path(__file__).parent / "results"
MODEL = "resnet50"
DENSITIES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
NAMES = {OURS: "prunedeploy", PEER: "DeepSparse"}

Line = list[tuple[float, float, float, float]]  # density, ratio and its interval


def line(results: Results, engine: str, batch: int, threads: int) -> Line:
    """The points of one engine, from dense to sparse."""
    cells = []
    for row in results.rows:
        time = row.times.get(engine)
        if (row.model, row.batch, row.threads) != (MODEL, batch, threads) or time is None:
            continue
        if time.ratio is not None:
            density = round(1 - row.sparsity, 6)
            cells.append((density, time.ratio.value, time.ratio.low, time.ratio.high))
    return sorted(cells, reverse=True)


def begins_to_win(points: Line) -> float | None:
    """The density below which the ratio stays above 1, drawn straight between two points."""
    slower = [index for index, point in enumerate(points) if point[1] < 1]
    if not slower:
        return points[0][0] if points else None
    last = slower[-1]
    if last + 1 == len(points):
        return None
    (above, slow, *_), (below, fast, *_) = points[last], points[last + 1]
    share = math.log(1 / slow) / math.log(fast / slow)
    return float(above * (below / above) ** share)


def render(results: Results, batches: Sequence[int], threads: int) -> Iterator[str]:
    """The ratios as a table, and where they cross 1."""
    lines = [
        (f"{NAMES[engine]}, batch {batch}", points)
        for engine in NAMES
        for batch in batches
        if (points := line(results, engine, batch, threads))
    ]
    yield f"| weights left | {' | '.join(name for name, _ in lines)} |"
    yield f"|---:|{'---:|' * len(lines)}"
    densities = sorted({point[0] for _, points in lines for point in points}, reverse=True)
    for density in densities:
        cells = []
        for _, points in lines:
            at = {point[0]: point for point in points}.get(density)
            cells.append(f"{at[1]:.2f} ({at[2]:.2f} to {at[3]:.2f})" if at else "")
        yield f"| {density:.0%} | {' | '.join(cells)} |"
    yield ""
    for name, points in lines:
        begins = begins_to_win(points)
        where = "nowhere" if begins is None else f"with at most {begins:.0%} of the weights left"
        yield f"{name} is faster than ONNX Runtime {where}."


def plot(results: Results, batches: Sequence[int], threads: int, path: Path) -> None:
    """Ratio over density, both on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    drawn: set[float] = set()
    ratios = [1.0]
    for color, batch in zip(("tab:blue", "tab:orange", "tab:green"), batches, strict=False):
        for engine, style in ((OURS, "-o"), (PEER, "--s")):
            points = line(results, engine, batch, threads)
            if not points:
                continue
            density, ratio, low, high = (list(each) for each in zip(*points, strict=True))
            label = f"{NAMES[engine]}, batch {batch}"
            if engine == OURS and (begins := begins_to_win(points)) is not None:
                label += f" (wins from {begins:.0%})"
            axes.plot(density, ratio, style, color=color, label=label, markersize=4)
            axes.fill_between(density, low, high, color=color, alpha=0.2, linewidth=0)
            drawn.update(density)
            ratios += ratio
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(max(drawn, default=1) * 1.08, min(drawn, default=0.02) / 1.08)
    axes.set_xticks([x for x in (1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02) if x in drawn])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16) if tick <= 2 * max(ratios)]
    axes.set_yticks([tick for tick in ticks if tick >= min(ratios) / 2])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.set_xlabel("weights left (scattered zeros elsewhere)")
    axes.set_ylabel("times as fast as ONNX Runtime")
    axes.set_title(f"ResNet-50, 224x224, fp32, {threads} thread{'s' * (threads > 1)}")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Parse, measure, print, draw."""
    parser = arguments("speed of ResNet-50 against its density", FOLDER / "density.json")
    parser.add_argument("--density", type=shares, default=DENSITIES)
    parser.add_argument("--batch", type=numbers, default=(1, 16))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, default=FOLDER.parents[1] / "docs" / "density.png")
    options = parser.parse_args()
    results, settings = race.read(options.results), settings_from(options)
    for batch in options.batch if options.rounds else ():
        for density in options.density:
            sparsity = round(1 - density, 6)
            key = (MODEL, sparsity, batch, options.threads)
            if not options.again and results.has(key, settings):
                continue
            for row in race.measure(MODEL, sparsity, batch, (options.threads,), settings):
                results = results.put(row)
                race.write(results, options.results)
                print(progress(row), file=sys.stderr, flush=True)
    print("\n".join(render(results, options.batch, options.threads)))
    try:
        plot(results, options.batch, options.threads, options.plot)
    except ModuleNotFoundError as error:
        parser.exit(1, f"no picture, {error.name} is missing: see requirements-plots.txt\n")


if __name__ == "__main__":
    main()
