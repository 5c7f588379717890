"""Builds sparse networks for GPUs without one: seconds, bytes, registers and predicted time.

    python benchmarks/gpu_build.py --targets jetson-nano rtx2080ti --networks mobilenet_v1_real
    python benchmarks/gpu_build.py --ptxas PATH --limit 300

With ``--ptxas`` (of the package ``nvidia-cuda-nvcc-cu12==12.9.*``; CUDA 13 no longer knows the
Jetson Nano) each kernel is assembled by itself, the smallest first until ``--limit`` seconds of it
have passed, and what the assembler says of registers and spills is summed up.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cpu_models

from prunedeploy import targets
from prunedeploy.graph import model as models
from prunedeploy.runtimes.sparse.gpu.cost import floors
from prunedeploy.runtimes.sparse.gpu.cubin import instructions
from prunedeploy.runtimes.sparse.gpu.emit import emit_module
from prunedeploy.runtimes.sparse.gpu.launch import Kernel, Module
from prunedeploy.runtimes.sparse.gpu.ptx import HEADER
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Plan
from prunedeploy.targets.gpu import GPUS, capability

NETWORKS = ("mobilenet_v1_real", "mobilenet_v2", "resnet18", "resnet50", "vgg16_cifar", "bert")


@dataclass(frozen=True)
class Assembled:
    """What ptxas made of one kernel."""

    kernel: Kernel
    seconds: float
    registers: int
    spilled: int  # bytes
    size: int  # bytes of the cubin
    instructions: int

    @property
    def share(self) -> float:
        """Multiply-adds in its code."""
        return self.kernel.text.count("fma.rn.f32") / max(self.instructions, 1)


def main() -> None:
    """Print one block of lines for each network and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=["jetson-nano", "rtx2080ti", "h100"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--ptxas", type=Path)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of ptxas a network")
    given = parser.parse_args()
    for network in given.networks:
        plan = lower(
            models.load(cpu_models.dynamic(network, given.sparsity)), 1, batch_innermost=False
        )
        if not isinstance(plan, Plan):
            print(f"{network}: {plan}")
            continue
        for target in given.targets:
            try:
                _build(network, plan, target, given.ptxas, given.limit)
            except Exception as error:  # one network that is refused is a result
                print(f"{network} for {target}: {error}", flush=True)


def _build(network: str, plan: Plan, name: str, ptxas: Path | None, limit: float) -> None:
    target = targets.by_name(name)
    begin, processor = time.monotonic(), time.process_time()
    module = emit_module([plan], target)
    seconds, processor = time.monotonic() - begin, time.process_time() - processor
    launches = module.tables[0].launches
    limits_of = [
        floors(x.kernel.cost, x.kernel.grid[0] * x.kernel.grid[1], GPUS[name], target)
        for x in launches
    ]
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(x.kernel.kind for x in launches).items())
    limits = ", ".join(f"{n} {limit}" for limit, n in Counter(x.limit for x in limits_of).items())
    print(
        f"{network} for {name}: emitted in {seconds:.1f} s ({processor:.1f} s of processor time), "
        f"{len(module.text) / 1e6:.1f} MB of PTX, {len(module.constants) / 1e6:.1f} MB of constants"
    )
    print(f"  {len(launches)} launches: {kinds}")
    print(
        f"  predicted at least {1e3 * sum(x.seconds for x in limits_of):.3f} ms; "
        f"highest floors: {limits}",
        flush=True,
    )
    if ptxas is not None:
        _summary(module, _assemble(module, ptxas, capability(target), limit))


def _assemble(module: Module, ptxas: Path, capability: int, limit: float) -> list[Assembled]:
    """The smallest kernels first, each by itself, until ``limit`` seconds have passed."""
    kernels = {launch.kernel.name: launch.kernel for launch in module.tables[0].launches}
    done, end = [], time.monotonic() + limit
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        for kernel in sorted(kernels.values(), key=lambda kernel: len(kernel.text)):
            source.write_text(HEADER + kernel.text)
            begin = time.monotonic()
            if begin > end:
                break
            command = [str(ptxas), f"-arch=sm_{capability}", "-v", str(source), "-o", str(cubin)]
            try:
                run = subprocess.run(
                    command, capture_output=True, text=True, check=True, timeout=end - begin
                )
            except subprocess.TimeoutExpired:
                break
            registers = re.search(r"Used (\d+) registers", run.stderr)
            spilled = re.search(r"(\d+) bytes spill stores", run.stderr)
            done.append(
                Assembled(
                    kernel,
                    time.monotonic() - begin,
                    int(registers.group(1)) if registers else 0,
                    int(spilled.group(1)) if spilled else 0,
                    cubin.stat().st_size,
                    sum(instructions(cubin.read_bytes(), capability).values()),
                )
            )
    return done


def _shares(done: list[Assembled]) -> str:
    """The smallest and the largest share among kernels with weights in the code."""
    large = [x.share for x in done if x.kernel.kind in ("generated", "split")]
    return f"{min(large):.2f} to {max(large):.2f}" if large else "none"


def _summary(module: Module, done: list[Assembled]) -> None:
    total = len(module.tables[0].launches)
    print(
        f"  ptxas: {len(done)} of {total} kernels in {sum(x.seconds for x in done):.0f} s, "
        f"{sum(x.size for x in done) / 1e6:.1f} MB of cubins, "
        f"{max((x.registers for x in done), default=0)} registers at most, "
        f"{sum(x.spilled for x in done)} bytes spilled; "
        f"multiply-adds in the code of generated kernels: {_shares(done)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
