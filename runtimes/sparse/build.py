"""Building: a model lowered, its layers tuned, written as C and compiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from prunedeploy import targets
from prunedeploy.core.errors import UnsupportedModelError, UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.runtimes.api import BuildOptions, Payload
from prunedeploy.runtimes.sparse.codegen.project import (
    Options,
    Project,
    TooLargeError,
    c_file,
    emit_project,
)
from prunedeploy.runtimes.sparse.payload import HEADER, LAYERS, LIBRARY, MODEL_HEADER
from prunedeploy.runtimes.sparse.plan.batch_innermost import to_batch_innermost
from prunedeploy.runtimes.sparse.plan.memory import allocate
from prunedeploy.runtimes.sparse.plan.per_sample import per_sample_plan
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Tiling
from prunedeploy.runtimes.sparse.schedule.tune import Effort, Progress, is_tiled, tune
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.runtimes.sparse.toolchain.makefile import makefile, readme
from prunedeploy.targets import Target

MOST_BATCH = 4096
SHORT = 256  # terms of a sum that rounds little


def build_payload(model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
    """An engine's files into ``directory``."""
    tools = compiling.toolchain(target)
    project, threads = project_of(model, target, tools, options)
    options.tell(f"compiling with {tools}")
    compiling.build_library(project, directory / LIBRARY, tools)
    (directory / MODEL_HEADER).write_text(c_file(HEADER))
    (directory / LAYERS).write_text(layers_json(project))
    return Payload(
        files=(LIBRARY, MODEL_HEADER, LAYERS),
        versions={tools.name: tools.version},
        batches=project.batches,
        threads=threads,
        arch=target.arch,
        isa=project.isa,
    )


def write_sources(model: Path, target: Target, directory: Path, options: BuildOptions) -> None:
    """The C project into ``directory``; without a compiler here nothing is measured either."""
    from prunedeploy.graph import model as models
    from prunedeploy.reference import randomness

    randomness.refuse_random(models.load(model))  # what is built here is compared as well
    try:
        tools = compiling.toolchain(target)
    except UserError:
        tools = None
    project, _ = project_of(model, target, tools, options)
    compiling.write(project, directory)
    (directory / MODEL_HEADER).write_text(c_file(HEADER))  # under the name it has in an engine
    (directory / LAYERS).write_text(layers_json(project))
    (directory / "Makefile").write_text(makefile(project, target))
    (directory / "README.md").write_text(readme(project, target))


def layers_json(project: Project) -> str:
    """What every step is and has to do, by batch."""
    layers = {str(batch): [asdict(x) for x in found] for batch, found in project.layers.items()}
    return json.dumps({"type": "Layers", "isa": project.isa, "layers": layers}, indent=1) + "\n"


def project_of(
    model: Path, target: Target, tools: compiling.Toolchain | None, options: BuildOptions
) -> tuple[Project, int]:
    """The C project, and the number of threads that it is cut for."""
    import onnx_ir as ir

    from prunedeploy.graph import model as models

    loaded: ir.Model = models.load(model)
    inputs, outputs = models.specs(loaded)
    threads = options.threads or target.cores or targets.cores()
    plans = [plan_of(loaded, batch, threads) for batch in _batches(inputs, options.batches)]
    _check_batched(plans, outputs)
    tuned: list[dict[str, Tiling]] = [{} for _ in plans]
    if tools is not None and options.tune != "none" and targets.why_not_here(target) is None:
        tuned = [tilings(plan, tools, threads, options.tune, options.tell) for plan in plans]
    isa = compiling.isa_of(target)
    if options.accuracy_level:
        tuned = [
            limit_rounding(plan, found, isa, threads, options.accuracy_level)
            for plan, found in zip(plans, tuned, strict=True)
        ]
    written = Options(
        isa=isa,
        threads=threads,
        version=metadata.version("prunedeploy"),
        inputs=inputs,
        outputs=tuple(spec for spec in outputs if _is_batched(spec, plans)),
        tuned=tuned,
    )
    try:
        return emit_project(plans, written), threads
    except TooLargeError:
        options.tell("programs would not fit into a library: building without them")
    small = [rolled(plan, found, isa, threads) for plan, found in zip(plans, tuned, strict=True)]
    return emit_project(plans, replace(written, tuned=small)), threads


def tilings(
    plan: Plan, tools: compiling.Toolchain, threads: int, effort: Effort, tell: Progress
) -> dict[str, Tiling]:
    """How every layer of ``plan`` is cut, measured with as many threads as will compute it."""
    found = dict(tune(plan, tools, threads if plan.repeats == 1 else 1, effort, None, tell).tilings)
    if plan.suffix is not None:
        found |= tune(plan.suffix.plan, tools, threads, effort, None, tell).tilings
    return found


def limit_rounding(
    plan: Plan, tuned: dict[str, Tiling], isa: str, threads: int, level: int = 2
) -> dict[str, Tiling]:
    """``tuned`` without the ways whose rounding is the largest.

    That is, at level 1, minimal filtering of more than three rows at once; at level 2 of more than
    two, and direct sums of more than ``SHORT`` terms.
    """

    def is_rough(step: Conv, way: Tiling) -> bool:
        if way.kernel in ("winograd", "winograd2d"):
            return way.pieces > 4 - level
        return level > 1 and way.kernel in choose.LONGEST and choose.longest(step, way) > SHORT

    return _without(plan, tuned, isa, threads, is_rough)


def rolled(plan: Plan, tuned: dict[str, Tiling], isa: str, threads: int) -> dict[str, Tiling]:
    """``tuned`` without programs, which are larger than what other kernels store."""
    return _without(plan, tuned, isa, threads, lambda _, way: way.kernel == "unrolled")


def _without(
    plan: Plan,
    tuned: dict[str, Tiling],
    isa: str,
    threads: int,
    unwanted: Callable[[Conv, Tiling], bool],
) -> dict[str, Tiling]:
    """``tuned`` with the model's best other way, where one is ``unwanted`` and there is another."""
    found = dict(tuned)
    late = plan.suffix.plan.steps if plan.suffix is not None else ()
    for step in (*plan.steps, *late):
        if isinstance(step, Conv) and is_tiled(step):
            ways = choose.ranked(step, isa, threads)
            usual = found.get(step.name, ways[0])
            if unwanted(step, usual):
                others = (way for way in ways if not unwanted(step, way))
                found[step.name] = next(others, usual)
    return found


def plan_of(model: Any, batch: int, threads: int) -> Plan:
    """The plan for a batch of ``model``: for the whole of it, or for each sample.

    Raises:
        UserError: the runtime cannot compute it; the message says why.
    """
    if batch == 1 or not _is_open(model):
        return _lower(model, batch)
    whole = _lower(model, batch, batch_innermost=False)
    return per_sample_plan(whole, _lower(model, 1), threads) or allocate(to_batch_innermost(whole))


def _is_open(model: Any) -> bool:
    """Whether the model leaves the batch of its inputs open."""
    return all(
        value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int)
        for value in model.graph.inputs
    )


def _lower(model: Any, batch: int, batch_innermost: bool = True) -> Plan:
    from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower

    found = lower(model, batch, batch_innermost=batch_innermost)
    if isinstance(found, Refusal):
        raise UnsupportedModelError("sparse", str(found))
    return found


def _batches(inputs: tuple[TensorSpec, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes to build for, each once, as the model allows.

    Raises:
        UserError: the model has one fixed batch, and another is wanted.
    """
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if bad := [size for size in wanted if not 1 <= size <= MOST_BATCH]:
        raise UserError(f"a batch of {bad[0]} cannot be built: give 1 to {MOST_BATCH}")
    if isinstance(first, int):
        if set(wanted) - {first}:
            raise UserError(
                f"the model takes batches of {first} only: leave out --batch, "
                "or export it with a dynamic batch"
            )
        return (first,)
    return tuple(sorted(set(wanted))) or (1,)


def _is_batched(spec: TensorSpec, plans: list[Plan]) -> bool:
    """Whether the first axis of an output is the batch, in every plan."""
    if not spec.shape or isinstance(spec.shape[0], int):
        return False
    return all(
        port.shape[:1] == (plan.batch,)
        for plan in plans
        for port in plan.outputs
        if port.name == spec.name
    )


def _check_batched(plans: list[Plan], outputs: tuple[TensorSpec, ...]) -> None:
    if len(plans) == 1:
        return
    for spec in outputs:
        if not _is_batched(spec, plans):
            raise UserError(
                f"the first axis of output {spec.name!r} is not the batch: "
                "build for one batch size only"
            )
