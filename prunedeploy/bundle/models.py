"""The models of a bundle, lowered for the device's TensorRT, and trtexec's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.engines.bundle_record import ModelFile, Plan, Tensor
from prunedeploy.engines.lowering import Precision, lower
from prunedeploy.graph.sizes import OPEN_SIZE, resolve
from prunedeploy.runtimes.tensorrt.dialects import trtexec_arguments
from prunedeploy.targets import Target
from prunedeploy.targets.tensorrt import Dialect, dialect

FOLDER, BUILT = "models", "built"
WORKSPACE = 1024  # MiB of scratch memory where the default is too little: 16 MiB in 8.2
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")


def write(
    sources: Mapping[str, Path],
    target: Target,
    folder: Path,
    feeds: Mapping[str, Array],
    progress: Callable[[str], None],
) -> tuple[tuple[ModelFile, ...], tuple[str, ...]]:
    """Write every source in every precision of the target, and note what could not be written.

    Args:
        sources: ONNX files by what they are: "model", "baseline".
        target: the machine; its toolchain says which opsets and precisions it takes.
        folder: the bundle's folder; the files go into ``FOLDER`` in it.
        feeds: the recorded inputs, on which the difference is measured.
        progress: called with one line of text for each step.
    """
    (folder / FOLDER).mkdir()
    files: list[ModelFile] = []
    notes: list[str] = []
    for of, source, precision in _wanted(sources, target):
        name = f"{of}.{precision}"
        progress(f"writing {name} for {target.name}")
        file = f"{FOLDER}/{name}.onnx"
        try:
            done = lower(
                source, folder / file, target=target.name, precision=precision, feeds=feeds
            )
        except UserError as error:
            notes.append(f"no {name}: {error}")
            continue
        files.append(
            ModelFile(name, file, of, precision, done.opset, done.ir_version, done.difference)
        )
    return tuple(files), tuple(notes)


def _wanted(sources: Mapping[str, Path], target: Target) -> Iterator[tuple[str, Path, Precision]]:
    limits = target.toolchain
    for of, source in sources.items():
        for precision in PRECISIONS:
            if precision == "float32" or (limits and precision in limits.precisions):
                yield of, source, precision


def plans(
    models: tuple[ModelFile, ...], inputs: tuple[Tensor, ...], target: Target, batch: int
) -> tuple[Plan, ...]:
    """The calls of trtexec to make on the target; none where it has no TensorRT."""
    if target.toolchain is None or "tensorrt" not in target.runtimes:
        return ()
    trtexec = dialect(target.toolchain.name.rpartition(" ")[2] + (".0" * _is_major(target)))
    return tuple(_plan(model, inputs, trtexec, batch, target) for model in models)


def _is_major(target: Target) -> bool:
    """ "TensorRT 10" names no minor version."""
    return target.toolchain is not None and "." not in target.toolchain.name


def _plan(
    model: ModelFile, inputs: tuple[Tensor, ...], trtexec: Dialect, batch: int, target: Target
) -> Plan:
    plan = f"{BUILT}/{model.name}.plan"
    chosen = resolve(inputs, batch, OPEN_SIZE)  # as the recorded inputs have them
    dynamic = [x for x in inputs if any(isinstance(dim, str) for dim in x.shape)]
    sizes = {x.name: list(chosen[x.name]) for x in dynamic}
    arguments = trtexec_arguments(
        trtexec,
        model.file,
        plan,
        float16=model.precision == "float16",
        sparse=target.sparse_tensor_cores and trtexec.typed != "never",
        shapes={name: [size] * 3 for name, size in sizes.items()},
        workspace=WORKSPACE if trtexec.since < (8, 4) else 0,
    )
    arguments.append("--skipInference" if trtexec.since >= (10, 0) else "--buildOnly")
    run = [f"--loadEngine={plan}", "--warmUp=500"]
    if sizes:
        shapes = (f"{name}:{'x'.join(map(str, size))}" for name, size in sizes.items())
        run.append(f"--shapes={','.join(shapes)}")
    return Plan(model.name, plan, model.of, model.precision, tuple(arguments), tuple(run))
