"""Checks the runtimes of this machine: builds and runs a small network with each of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunedeploy.core.errors import UserError
from prunedeploy.targets.target import Target


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
    from prunedeploy.runtimes.registry import RUNTIMES, refuse
    from prunedeploy.targets import by_name, targets

    host = by_name("host")
    checks = [_check(host, name) for name in RUNTIMES]
    for target in targets():
        if target.name != "host":
            reason = refuse(target, "auto") or "at hand: the host's runtimes serve it"
            checks.append(Check(target.name, ", ".join(target.runtimes), "-", reason))
            if "sparse" in target.runtimes:
                checks.append(Check(target.name, "sparse", "-", _compiler(target)))
    return tuple(checks)


def _compiler(target: Target) -> str:
    """The compiler that an engine of the sparse runtime would be built with."""
    from prunedeploy.runtimes.sparse.engine import Sparse
    from prunedeploy.runtimes.sparse.toolchain.compile import toolchain

    return Sparse().refuse(target) or f"compiled here with {toolchain(target)}"


def _check(host: Target, runtime: str) -> Check:
    from prunedeploy.engines import building, opening
    from prunedeploy.runtimes.registry import refuse

    if reason := refuse(host, runtime):
        return Check("host", runtime, "-", reason)
    with tempfile.TemporaryDirectory() as folder:
        try:
            sizes = (64, 0.9) if runtime == "hybrid" else (8, 0.0)  # of which a part pays
            model = small_model(Path(folder) / "check.onnx", *sizes)
            output = Path(folder) / "check.engine"
            # compares with the reference
            engine = building.build(model, "host", runtime, output, tune="none")
            with opening.open(engine) as session:
                provider = session.provider
        except UserError as error:
            return Check("host", runtime, "FAIL", str(error))
    difference, versions = engine.manifest.difference, engine.manifest.versions
    if difference is None:
        return Check("host", runtime, "PASS", "opens; computes nothing")
    ours = ("python", "prunedeploy", "onnx", "numpy")
    libraries = " ".join(f"{k} {v}" for k, v in versions.items() if k not in ours)
    where = ", ".join(filter(None, (provider, libraries)))
    return Check("host", runtime, "PASS", f"{where}: difference {difference.max_rel:.1e}")


def small_model(path: Path, size: int = 8, zeros: float = 0.0) -> Path:
    """A convolution, a ReLU, a pool and a linear layer with fixed random weights.

    Its images have ``size`` rows and columns, and the share ``zeros`` of its weights is zero.
    """
    import numpy as np
    import onnx

    random = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(
        """check (float[batch, 3, SIZE, SIZE] x) => (float[batch, 10] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            y = Gemm(f, v)
        }""".replace("SIZE", str(size))
    )
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (16, 10))):
        array = random.standard_normal(shape).astype(np.float32)
        array[random.random(shape) < zeros] = 0
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, path)
    return path
