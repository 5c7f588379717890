"""Building an engine: a model is lowered, its layers are tuned, C is emitted and compiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from prunedeploy import targets
from prunedeploy.core.errors import UnsupportedModelError, UserError
from prunedeploy.core.progress import Notice
from prunedeploy.core.records import TensorSpec
from prunedeploy.runtimes.api import BuildOptions, Payload
from prunedeploy.runtimes.sparse import numpy_session
from prunedeploy.runtimes.sparse.codegen import project as projects
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.payload import HEADER, LAYERS, LIBRARY, LOADER, MODEL_HEADER
from prunedeploy.runtimes.sparse.plan.batch_innermost import to_batch_innermost
from prunedeploy.runtimes.sparse.plan.memory import allocate
from prunedeploy.runtimes.sparse.plan.per_sample import per_sample_plan
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule
from prunedeploy.runtimes.sparse.schedule.tune import Effort, Progress, is_tiled, tune
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.runtimes.sparse.toolchain.makefile import makefile, readme
from prunedeploy.targets import Target

MAX_BATCH = 4096
SHORT_SUM = 256  # terms of a sum that rounds little


def build_payload(model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
    """Build an engine: its library, header and list of layers, written to ``directory``."""
    tools = compiling.toolchain(target)
    project, threads = project_of(model, target, tools, options)
    options.progress(f"compiling with {tools}")
    compiling.build_library(project, directory / LIBRARY, tools)
    (directory / MODEL_HEADER).write_text(projects.c_file(HEADER))
    (directory / LAYERS).write_text(layers_json(project))
    shutil.copyfile(numpy_session.__file__, directory / LOADER)
    return Payload(
        files=(LIBRARY, MODEL_HEADER, LAYERS, LOADER),
        versions={tools.name: tools.version},
        batches=project.batches,
        threads=threads,
        arch=target.arch,
        isa=project.isa,
    )


def write_sources(model: Path, target: Target, directory: Path, options: BuildOptions) -> None:
    """Write the C project to ``directory``, with a Makefile.

    Without a compiler on this machine nothing is measured.

    Raises:
        UserError: as ``project_of``; outputs that are random, or inputs too large to compute with.
    """
    from prunedeploy.graph import model as models
    from prunedeploy.reference import drawing, randomness

    loaded = models.load(model)
    randomness.refuse_random(loaded)  # what is built here is compared as well
    inputs, _ = models.specs(loaded)
    for batch in batch_sizes(inputs, options.batches):
        drawing.fed_shapes(inputs, batch)
    try:
        tools = compiling.toolchain(target)
    except UserError:
        tools = None
    project, _ = project_of(model, target, tools, options)
    compiling.write(project, directory)
    # under the name it has in an engine
    (directory / MODEL_HEADER).write_text(projects.c_file(HEADER))
    (directory / LAYERS).write_text(layers_json(project))
    (directory / "Makefile").write_text(makefile(project, target))
    (directory / "README.md").write_text(readme(project, target))


def layers_json(project: projects.Project) -> str:
    """Every step's operator, schedule and work, by batch size, as JSON."""
    layers = {str(batch): [asdict(x) for x in steps] for batch, steps in project.layers.items()}
    return json.dumps({"type": "Layers", "isa": project.isa, "layers": layers}, indent=1) + "\n"


def project_of(
    model: Path, target: Target, tools: compiling.Toolchain | None, options: BuildOptions
) -> tuple[projects.Project, int]:
    """The C project, and the number of threads that its work is divided for.

    Raises:
        UserError: the runtime cannot compute the model, or not in the batch sizes asked for.
    """
    import onnx_ir as ir

    from prunedeploy.graph import model as models

    loaded: ir.Model = models.load(model)
    inputs, outputs = models.specs(loaded)
    threads = options.threads or target.cores or targets.cores()
    isa = compiling.isa_of(target)
    batches = batch_sizes(inputs, options.batches)
    plans = [plan_of(loaded, batch, threads, ISAS[isa].on_bytes) for batch in batches]
    check_batched(plans, outputs)
    blocks = BlockCache()
    measured: list[dict[str, Schedule]] = [{} for _ in plans]
    # where the target's code cannot be run here nothing is measured
    if tools is not None and options.tune != "none" and targets.why_not_here(target) is None:
        given = (tools, threads, options.tune, options.progress, blocks, options.blocks)
        measured = [schedules(plan, *given) for plan in plans]
    if level := options.accuracy_level:
        pairs = zip(plans, measured, strict=True)
        measured = [limit_rounding(*pair, isa, threads, level, blocks) for pair in pairs]
    emitted = projects.Options(
        isa=isa,
        threads=threads,
        version=metadata.version("prunedeploy"),
        inputs=inputs,
        outputs=tuple(spec for spec in outputs if is_batched(spec, plans)),
        tuned=measured,
        blocks=blocks,
    )
    return _emit(plans, emitted, options.progress), threads


def _emit(plans: list[Plan], options: projects.Options, progress: Progress) -> projects.Project:
    try:
        return projects.emit_project(plans, options)
    except projects.TooLargeError:
        progress(Notice("the generated code would not fit into a library: building without it"))

    # generated code is larger than the weights that other kernels store
    def is_generated(_: Conv, schedule: Schedule) -> bool:
        return KERNELS[schedule.kernel].generated

    chosen = [
        _without(plan, dict(tuned), options.isa, options.threads, is_generated, options.blocks)
        for plan, tuned in zip(plans, options.tuned, strict=True)
    ]
    return projects.emit_project(plans, replace(options, tuned=chosen))


def schedules(
    plan: Plan,
    tools: compiling.Toolchain,
    threads: int,
    effort: Effort,
    progress: Progress,
    blocks: BlockCache | None = None,
    use_blocks: bool = True,
) -> dict[str, Schedule]:
    """The schedule of every layer, measured with as many threads as will compute it.

    A per-sample plan runs on one thread for each sample, its batched suffix on all of them.
    """
    alone = threads if plan.repeats == 1 else 1
    chosen = dict(tune(plan, tools, alone, effort, None, progress, blocks, use_blocks).schedules)
    if plan.suffix is not None:
        suffix = plan.suffix.plan
        chosen |= tune(suffix, tools, threads, effort, None, progress, blocks, use_blocks).schedules
    return chosen


def limit_rounding(
    plan: Plan,
    tuned: dict[str, Schedule],
    isa: str,
    threads: int,
    level: int = 2,
    blocks: BlockCache | None = None,
) -> dict[str, Schedule]:
    """``tuned`` without the schedules whose rounding is the largest.

    Args:
        plan: of the layers.
        tuned: the schedules that tuning chose, by layer.
        isa: the instruction set that is compiled for.
        threads: how many the plan will run with.
        level: at 1 Winograd of more than three output rows a tile is left out; at 2 that of more
            than two, and direct sums of more than ``SHORT_SUM`` terms.
        blocks: what is known of blocks in the weights.
    """

    def rounds_more(step: Conv, schedule: Schedule) -> bool:
        if KERNELS[schedule.kernel].winograd:
            return schedule.tile_rows > 4 - level
        return level > 1 and choose.longest(step, schedule) > SHORT_SUM

    return _without(plan, tuned, isa, threads, rounds_more, blocks)


def _without(
    plan: Plan,
    tuned: dict[str, Schedule],
    isa: str,
    threads: int,
    unwanted: Callable[[Conv, Schedule], bool],
    blocks: BlockCache | None = None,
) -> dict[str, Schedule]:
    """``tuned`` with the cost model's best other schedule in place of an ``unwanted`` one.

    Where there is no other the unwanted one stays.
    """
    chosen, blocks = dict(tuned), blocks or BlockCache()
    suffix = plan.suffix.plan.steps if plan.suffix is not None else ()
    for step in (*plan.steps, *suffix):
        if isinstance(step, Conv) and is_tiled(step):
            candidates = choose.ranked(step, isa, threads, blocks)
            usual = chosen.get(step.name, candidates[0])
            if unwanted(step, usual):
                others = (each for each in candidates if not unwanted(step, each))
                chosen[step.name] = next(others, usual)
    return chosen


def plan_of(model: Any, batch: int, threads: int, on_bytes: bool = False) -> Plan:
    """The plan for a batch of ``model``: of the whole batch, or a per-sample plan.

    Its quantised layers are computed on bytes, or in float32.

    Raises:
        UserError: the runtime cannot compute it; the message says why.
    """
    if batch == 1 or not _is_open(model):
        return _lower(model, batch, on_bytes)
    whole = _lower(model, batch, on_bytes, batch_innermost=False)
    per_sample = per_sample_plan(whole, _lower(model, 1, on_bytes), threads)
    return per_sample or allocate(to_batch_innermost(whole))


def _is_open(model: Any) -> bool:
    """Whether the model leaves the batch of its inputs open."""
    return all(
        value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int)
        for value in model.graph.inputs
    )


def _lower(model: Any, batch: int, on_bytes: bool, batch_innermost: bool = True) -> Plan:
    from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower

    plan = lower(model, batch, batch_innermost=batch_innermost, on_bytes=on_bytes)
    if isinstance(plan, Refusal):
        raise UnsupportedModelError("sparse", str(plan), plan.node)
    return plan


def batch_sizes(inputs: tuple[TensorSpec, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes to build for, each once, as the model allows.

    Raises:
        UserError: the model has one fixed batch, and another is wanted.
    """
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if bad := [size for size in wanted if not 1 <= size <= MAX_BATCH]:
        raise UserError(f"a batch of {bad[0]} cannot be built: give 1 to {MAX_BATCH}")
    if isinstance(first, int):
        if set(wanted) - {first}:
            raise UserError(
                f"the model takes batches of {first} only: leave out --batch, "
                "or export it with a dynamic batch"
            )
        return (first,)
    return tuple(sorted(set(wanted))) or (1,)


def is_batched(spec: TensorSpec, plans: list[Plan]) -> bool:
    """Whether the first axis of an output is the batch, in every plan."""
    if not spec.shape or isinstance(spec.shape[0], int):
        return False
    return all(
        port.shape[:1] == (plan.batch,)
        for plan in plans
        for port in plan.outputs
        if port.name == spec.name
    )


def check_batched(plans: list[Plan], outputs: tuple[TensorSpec, ...]) -> None:
    """Check that the outputs of several plans can be put together.

    Raises:
        UserError: the first axis of one is not the batch.
    """
    if len(plans) == 1:
        return
    for spec in outputs:
        if not is_batched(spec, plans):
            raise UserError(
                f"the first axis of output {spec.name!r} is not the batch: "
                "build for one batch size only"
            )
