"""The machines that engines are built for, one row each, and which of them is this one."""

from __future__ import annotations

import dataclasses
import difflib
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunedeploy.errors import UserError

# Flags as the kernel writes them; "neon" goes by "asimd" on AArch64.
ISA_FLAGS = {"avx2": "avx2", "fma": "fma", "avx512": "avx512f", "neon": "asimd"}
LANES = {"avx512": 16, "avx2": 8, "neon": 4}  # float32 numbers in a vector, the widest first


@dataclass(frozen=True)
class Target:
    """A machine: what its engines may rely on.

    ``runtimes`` are those it can have, best first, whether or not they are written yet;
    ``board`` is how the device tree names a board that has to be this very one; ``multiple`` is
    what its engines like the number of channels to be a multiple of: the block of ONNX Runtime's
    convolutions, as many float32 numbers as a vector register holds, or the tensor cores' 8 in
    float16.

    ``macs_per_second`` and ``bytes_per_second`` are what passes weigh work against memory by (see
    ``passes/scatter_branches.py``); 0 where not known. Those of x86 were measured on one core of an
    AMD EPYC with AVX-512 (``benchmarks/scatter.py``), AVX2 at half its width; others are peaks of
    data sheets, two operations a MAC: Jetson Nano 472 GFLOP/s in fp16 and 25.6 GB/s, RTX 2080 Ti
    13.4 TFLOP/s in fp32 and 616 GB/s.
    """

    name: str
    what: str
    arch: str
    isa: tuple[str, ...] = ()
    compute_capability: str | None = None
    runtimes: tuple[str, ...] = ("ort",)
    aliases: tuple[str, ...] = ()
    board: str = ""
    multiple: int = 1
    macs_per_second: float = 0.0
    bytes_per_second: float = 0.0


TARGETS: tuple[Target, ...] = (
    Target("host", "this machine", "detected", runtimes=("ort", "null")),
    Target(
        "x86-avx2",
        "x86-64 with AVX2 and FMA",
        "x86_64",
        ("avx2", "fma"),
        multiple=8,
        macs_per_second=25e9,
        bytes_per_second=28e9,
    ),
    Target(
        "x86-avx512",
        "x86-64 with AVX-512",
        "x86_64",
        ("avx2", "fma", "avx512"),
        multiple=16,
        macs_per_second=50e9,
        bytes_per_second=28e9,
    ),
    Target(
        "raspberry-pi-5",
        "4 Cortex-A76",
        "aarch64",
        ("neon",),
        board="Raspberry Pi 5",
        multiple=4,
    ),
    Target(
        "jetson-nano",
        "4 Cortex-A57 and a Maxwell GPU",
        "aarch64",
        ("neon",),
        "5.3",
        ("tensorrt", "ort"),
        ("jetson",),
        "Jetson Nano",
        multiple=8,
        macs_per_second=236e9,
        bytes_per_second=25.6e9,
    ),
    Target(
        "jetson-orin",
        "Cortex-A78AE and an Ampere GPU",
        "aarch64",
        ("neon",),
        "8.7",
        ("tensorrt", "ort"),
        board="Orin",
        multiple=8,
    ),
    Target(
        "rtx2080ti",
        "a Turing GPU",
        "x86_64",
        (),
        "7.5",
        ("tensorrt",),
        multiple=8,
        macs_per_second=6.7e12,
        bytes_per_second=616e9,
    ),
)


def targets() -> tuple[Target, ...]:
    """Every row of the table, the host's filled in with what this machine is."""
    return tuple(_detected(row) if row.name == "host" else row for row in TARGETS)


def by_name(name: str) -> Target:
    """The target called ``name``, or known by it as an alias.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    for row in targets():
        if name == row.name or name in row.aliases:
            return row
    names = [alias for row in TARGETS for alias in (row.name, *row.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    raise UserError(f"there is no target {name!r}: {hint}")


def refuse(target: Target, runtime: str) -> str | None:
    """Why no engine of ``runtime`` for ``target`` can be built here, in one line, or None.

    ``runtime`` "auto" stands for any that the target can have.
    """
    from prunedeploy.runtimes import RUNTIMES
    from prunedeploy.runtimes import by_name as runtime_by_name

    if runtime == "auto":
        reason = why_not_here(target)
        if reason is None and not set(target.runtimes) & set(RUNTIMES):
            reason = f"none of {target.name}'s runtimes is there yet: {', '.join(target.runtimes)}"
        return reason
    if runtime not in RUNTIMES:
        known = f"choose from auto, {', '.join(RUNTIMES)}"
        return f"there is no runtime {runtime!r} yet: {known}"
    if runtime not in (*target.runtimes, "null"):
        return f"{target.name} cannot have {runtime}: it takes {', '.join(target.runtimes)}"
    return runtime_by_name(runtime).refuse(target)


def why_not_here(target: Target) -> str | None:
    """Why this machine is not ``target``, in one line, or None when it will do."""
    if target.name == "host":
        return None
    lead = f"{target.name} is not at hand"
    advice = "build on the device itself, or for --target host"
    if target.arch != platform.machine():
        return f"{lead}: this machine is {platform.machine()}, not {target.arch}; {advice}"
    if target.board and target.board not in _board():
        return f"{lead}: this machine is not a {target.board}; {advice}"
    if target.compute_capability is not None and not target.board:
        return f"{lead}: engines for GPUs cannot be built yet; {advice}"
    if missing := [name for name in target.isa if name not in host_isa()]:
        return f"{lead}: this machine lacks {', '.join(missing)}; {advice}"
    return None


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def host_isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instruction sets of ``ISA_FLAGS`` that this machine has."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((set(x.split()) for x in lines if x.startswith(("flags", "Features"))), set())
    return tuple(name for name, flag in ISA_FLAGS.items() if flag in flags)


def _detected(row: Target) -> Target:
    what = f"{row.what}, {cores()} cores"
    isa = host_isa()
    lanes = next((count for name, count in LANES.items() if name in isa), 1)
    found = dataclasses.replace(row, what=what, arch=platform.machine(), isa=isa, multiple=lanes)
    for like in TARGETS:  # the figures of the last row whose instruction sets it has
        alike = like.arch == found.arch and like.isa and not like.board
        if alike and set(like.isa) <= set(isa):
            macs, moved = like.macs_per_second, like.bytes_per_second
            found = dataclasses.replace(found, macs_per_second=macs, bytes_per_second=moved)
    return found


def _board() -> str:
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class Check:
    """One line of ``self_check``: does ``runtime`` compute the right thing on ``target``?

    ``status`` is "-" where nothing was tried; ``reason`` says why, and what ran otherwise.
    """

    target: str
    runtime: str
    status: Literal["PASS", "FAIL", "-"]
    reason: str


def self_check() -> tuple[Check, ...]:
    """Build and run a small network per runtime on the host; say of other targets why not."""
    from prunedeploy.runtimes import RUNTIMES

    checks = [_check(name) for name in RUNTIMES]
    for row in targets():
        if row.name != "host":
            reason = refuse(row, "auto") or "at hand: the host's runtimes serve it"
            checks.append(Check(row.name, ", ".join(row.runtimes), "-", reason))
    return tuple(checks)


def _check(runtime: str) -> Check:
    from prunedeploy import artifact

    with tempfile.TemporaryDirectory() as folder:
        try:
            model = _small_model(Path(folder) / "check.onnx")
            place = Path(folder) / "check.engine"
            engine = artifact.build(model, "host", runtime, place)  # compares with the reference
            with artifact.open(engine) as session:
                provider = session.provider
        except UserError as error:
            return Check("host", runtime, "FAIL", str(error))
    difference, versions = engine.manifest.difference, engine.manifest.versions
    if difference is None:
        return Check("host", runtime, "PASS", "opens; computes nothing")
    libraries = " ".join(f"{k} {v}" for k, v in versions.items() if k == "onnxruntime")
    where = ", ".join(filter(None, (provider, libraries)))
    return Check("host", runtime, "PASS", f"{where}: difference {difference.max_rel:.1e}")


def _small_model(path: Path) -> Path:
    """A convolution, a ReLU, a pool and a linear layer with fixed random weights."""
    import numpy as np
    import onnx

    random = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(
        """check (float[batch, 3, 8, 8] x) => (float[batch, 10] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            y = Gemm(f, v)
        }"""
    )
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (16, 10))):
        array = random.standard_normal(shape).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, path)
    return path
