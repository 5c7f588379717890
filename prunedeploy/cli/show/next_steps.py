"""The choice of a runtime, and the command to go on with."""

from __future__ import annotations

from prunedeploy.cli.tables import say, say_wrapped, share, table
from prunedeploy.core.records import NextStep, RuntimeChoice
from prunedeploy.reports.headline import RUNTIMES


def print_next_step(step: NextStep | None) -> None:
    """Print the command, and its predicted gain."""
    if step is None:
        return
    say()
    say(f"next: {step.command}")
    where = "this machine" if step.target == "host" else step.target
    if not step.runtime:
        if step.why:
            say(f"  no prediction: {step.why}")
        return
    name = RUNTIMES.get(step.runtime, step.runtime)
    if step.seconds:
        threads = f"{step.threads} thread{'s' * (step.threads != 1)}"
        say_wrapped(
            f"predicted for {where}, {threads}: {1e3 * step.seconds:.3g} ms in {name}, "
            f"{step.low:.2f}x the speed of ONNX Runtime on the dense network"
        )
        return
    say_wrapped(
        f"{share(step.share)} of the work is left; then `prunedeploy build` should give "
        f"{step.low:.1f}x to {step.high:.1f}x the speed of ONNX Runtime on {where}, in {name} "
        "(estimated)"
    )


def print_choice(choice: RuntimeChoice | None) -> None:
    """Print the times of every runtime, in order of time."""
    if choice is None:
        return
    how = "measured here" if choice.kind == "measured" else "predicted"
    for batch in dict.fromkeys(each.batch for each in choice.times):
        times = [each for each in choice.times if each.batch == batch]
        threads = sorted({each.threads for each in times})
        by_runtime = {each.runtime: each.seconds for each in times if each.threads == threads[-1]}
        base = by_runtime.get("ort", by_runtime[choice.runtime])
        rows = []
        for name in sorted(by_runtime, key=lambda name: by_runtime[name]):
            cells = [
                f"{1e3 * each.seconds:.3g}"
                for n in threads
                for each in times
                if (each.runtime, each.threads) == (name, n)
            ]
            taken = " (taken)" if name == choice.runtime else ""
            rows.append((f"{name}{taken}", *cells, f"{base / by_runtime[name]:.2f}x"))
        say()
        heads = (f"ms, {n} thread{'s' * (n != 1)}" for n in threads)
        sizes = f", sum of {choice.sizes} sizes" if choice.sizes > 1 else ""
        table((f"runtime, batch {batch}{sizes}, {how}", *heads, "speed"), rows)
    for each in choice.refused:
        say(f"  not {each.runtime}: {each.reason}")
