"""The result of a benchmark in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from prunedeploy.core.measurements import BenchResult, Measurement
from prunedeploy.core.statistics import summary
from prunedeploy.measure.busy import NOTABLE

RUNTIMES = {
    "ort": "ONNX Runtime",
    "sparse": "the sparse runtime",
    "sparse-gpu": "the sparse runtime on the GPU",
    "hybrid": "ONNX Runtime with sparse parts",
    "tensorrt": "TensorRT",
}


def fastest(bench: BenchResult) -> int:
    """The index of the candidate with the highest speed relative to the baseline."""
    return max(range(len(bench.candidates)), key=lambda i: bench.ratios[i].value)


def headline(bench: BenchResult) -> str:
    """Say how much faster the fastest candidate is, and how near its outputs are.

    Example:
        ``4.60x faster, the same predictions on 1,000 of 1,000 images, largest difference 2e-07``
    """
    best = fastest(bench)
    measured = [each.candidates[fastest(each)] for each in bench.each_size]
    speed = ", ".join(map(_speed, bench.each_size))
    largest = max(each.difference.max_rel for each in measured)
    return f"{speed}, {_agreement(bench.candidates[best])}, largest difference {_size(largest)}"


def _size(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"


def _speed(bench: BenchResult) -> str:
    gain = bench.ratios[fastest(bench)]
    where = f" at {bench.size}" if bench.size else ""
    if gain.value >= 1:
        return f"{gain.value:.2f}x faster{where}"
    return f"slower{where}: {gain.value:.2f}x the speed"


def _agreement(measured: Measurement) -> str:
    accuracy, difference = measured.accuracy, measured.difference
    if accuracy is None:
        verdict = difference.verdict
        what = f"the {verdict}" if verdict == "same outputs" else f"outputs {verdict}"
        return f"{what} on {difference.samples:,} random inputs"
    same = accuracy.samples - accuracy.changed_predictions
    return f"the same predictions on {same:,} of {accuracy.samples:,} images"


def conditions(bench: BenchResult) -> str:
    """Say what was compared, and how: runtimes, median times, batch and threads."""
    best = bench.candidates[fastest(bench)]
    base = bench.baseline
    times = f"{summary(base).p50:.3g} ms to {summary(best).p50:.3g} ms"
    threads = f"{base.threads} thread{'s' * (base.threads != 1)}"
    return (
        f"{times}: {_runtime(best)} against {_runtime(base)} on the dense network, batch "
        f"{base.batch}, {threads}, {len(base.samples_ns)} runs of each in turn"
    )


def caution(bench: BenchResult) -> str:
    """Say that the machine was busy, where that makes the times doubtful; else nothing."""
    if bench.busy is None or bench.busy < NOTABLE:
        return ""
    return (
        f"other programs took {bench.busy:.0%} of the processors just before: times are longer and "
        "vary more than on an idle machine, and threads may lose to one"
    )


def unvarying(names: Sequence[str]) -> str:
    """Say that outputs no longer depend on the input, where there are any; else nothing."""
    if not names:
        return ""
    one = len(names) == 1
    which = f"output {names[0]} is" if one else f"outputs {', '.join(names)} are"
    return (
        f"{which} the same for every input: the network was pruned so far that nothing of the "
        f"input reaches {'it' if one else 'them'}"
    )


def _runtime(measured: Measurement) -> str:
    return RUNTIMES.get(measured.runtime, measured.runtime)
