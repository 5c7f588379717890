"""Building an engine for a GPU: a model becomes a PTX module, and a library that launches it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from prunedeploy.core.errors import UnsupportedModelError, UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.runtimes.api import BuildOptions, Payload
from prunedeploy.runtimes.sparse import numpy_session
from prunedeploy.runtimes.sparse.build import batch_sizes, check_batched, is_batched
from prunedeploy.runtimes.sparse.codegen import project as projects
from prunedeploy.runtimes.sparse.codegen.work import Work, work
from prunedeploy.runtimes.sparse.gpu.assemble import Cubins, assemble, assembler
from prunedeploy.runtimes.sparse.gpu.emit import emit_module, price
from prunedeploy.runtimes.sparse.gpu.launch import LaunchTable, Module, Priced
from prunedeploy.runtimes.sparse.gpu.types import TYPES
from prunedeploy.runtimes.sparse.payload import HEADER, LAYERS, LIBRARY, LOADER, MODEL_HEADER, PTX
from prunedeploy.runtimes.sparse.plan.lower import Refusal, lower
from prunedeploy.runtimes.sparse.plan.steps import Plan
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import GPUS, capability

NO_WORK = Work(0, 0)
ALIGNMENT = 64  # bytes: where a cubin begins


def build_payload(model: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
    """Write the PTX, the library that launches it, its header and the list of its layers.

    Raises:
        UserError: a step that no kernel computes, a GPU without figures, or no compiler.
    """
    tools = compiling.toolchain(target)
    module, inputs, outputs = module_of(model, target, options)
    cubins = _cubins(module, target, options)
    project = project_of(module, target, inputs, outputs, cubins)
    options.progress(f"compiling with {tools}")
    compiling.build_library(project, directory / LIBRARY, tools, ("-ldl",))
    (directory / PTX).write_text(module.text)
    (directory / MODEL_HEADER).write_text(projects.c_file(HEADER))
    layers = {str(batch): [asdict(x) for x in each] for batch, each in project.layers.items()}
    record = {"type": "Layers", "isa": project.isa, "layers": layers}
    (directory / LAYERS).write_text(json.dumps(record, indent=1) + "\n")
    shutil.copyfile(numpy_session.__file__, directory / LOADER)
    return Payload(
        files=(LIBRARY, PTX, MODEL_HEADER, LAYERS, LOADER),
        versions={tools.name: tools.version} | ({"ptxas": cubins.version} if cubins else {}),
        batches=project.batches,
        threads=1,
        arch=target.arch,
        isa=project.isa,
    )


def _cubins(module: Module, target: Target, options: BuildOptions) -> Cubins | None:
    """The assembled module where there is a ptxas that knows the GPU; says so where it does not."""
    tool, arch = assembler(), capability(target)
    if tool is None:
        return None
    kernels = [launch.kernel for table in module.tables for launch in table.launches]
    options.progress(f"assembling {len(kernels)} kernels with ptxas {tool.version}")
    cubins = assemble(kernels, arch, tool)
    if cubins is None:
        options.progress(f"ptxas {tool.version} knows no sm_{arch}: the driver will compile")
    return cubins


def module_of(
    model: Path, target: Target, options: BuildOptions
) -> tuple[Module, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The module of ``model``, with its inputs and those outputs that are one a sample.

    Raises:
        UserError: as ``build_payload``, without the compiler.
    """
    plans, inputs, outputs = plans_of(model, target, options)
    try:
        module = emit_module(plans, target)
    except Refusal as refused:
        raise UnsupportedModelError("sparse", str(refused), refused.node) from None
    return module, inputs, tuple(spec for spec in outputs if is_batched(spec, plans))


def plans_of(
    model: Path, target: Target, options: BuildOptions
) -> tuple[list[Plan], tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The plan for each batch size, and the inputs and outputs of ``model``.

    Raises:
        UserError: the model cannot be lowered, or not for these batch sizes; nothing is known of
            the target's GPU.
    """
    from prunedeploy.graph import model as models

    if target.name not in GPUS:
        raise UserError(
            f"nothing is known of the GPU of {target.name}: choose from {', '.join(GPUS)}"
        )
    loaded = models.load(model)
    inputs, outputs = models.specs(loaded)
    try:
        plans = [_plan(loaded, batch) for batch in batch_sizes(inputs, options.batches)]
    except Refusal as refused:
        raise UnsupportedModelError("sparse", str(refused), refused.node) from None
    check_batched(plans, outputs)
    return plans, inputs, outputs


def priced(model: Path, target: Target, batch: int) -> list[Priced]:
    """The launches of the engine that would be built for ``batch``; nothing is emitted.

    Raises:
        UserError: as ``build_payload``, without the compiler.
    """
    options = BuildOptions(batches=(batch,) * (batch > 1))
    (plan,), *_ = plans_of(model, target, options)
    try:
        return price(plan, target)
    except Refusal as refused:
        raise UnsupportedModelError("sparse", str(refused), refused.node) from None


def _plan(model: object, batch: int) -> Plan:
    plan = lower(model, batch, batch_innermost=False)  # type: ignore[arg-type]
    if isinstance(plan, Refusal):
        raise plan
    return plan


def project_of(
    module: Module,
    target: Target,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    cubins: Cubins | None = None,
) -> projects.Project:
    """The C project of the library: the runner, the launch tables, and the module in it.

    Behind the PTX lie the cubins, where there are some, each on a boundary of ``ALIGNMENT``.
    """
    isa = f"sm_{capability(target)}"
    code = _aligned(module.text.encode() + b"\0")  # the driver takes a string of C
    begins = []
    for part in cubins.parts if cubins else ():
        begins.append(len(code))
        code += _aligned(part)
    files = {
        **projects.closure(("gpu.c",)),
        "model.c": _model(module, isa, capability(target), inputs, outputs)
        + _cubin_table(begins)
        + _part_table(module, cubins),
        "weights.c": projects.blob("pd_weights", projects.WEIGHTS, module.constants, ".rodata"),
        "code.c": projects.blob("pd_code", projects.CODE, code, ".rodata"),
    }
    pairs = zip(module.tables, module.plans, strict=True)
    return projects.Project(
        files=dict(sorted(files.items())),
        weights=module.constants,
        isa=isa,
        batches=tuple(table.batch for table in module.tables),
        layers={table.batch: _layers(table, plan) for table, plan in pairs},
        code=code,
    )


def _layers(table: LaunchTable, plan: Plan) -> tuple[projects.Layer, ...]:
    """A layer a launch; the work of a step is that of its last one."""
    steps = {step.name: step for step in plan.steps}
    rows = []
    for index, launch in enumerate(table.launches):
        kernel = launch.kernel
        following = table.launches[index + 1 : index + 2]
        last = not any(other.kernel.step == kernel.step for other in following)
        todo = work(steps[kernel.step]) if last else NO_WORK
        kind = type(steps[kernel.step]).__name__
        rows.append(
            projects.Layer(kernel.step, kind, kernel.choice, **asdict(todo), kernel=kernel.kind)
        )
    return tuple(rows)


# -- model.c ---------------------------------------------------------------------------------------


def _model(
    module: Module,
    isa: str,
    capability: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> str:
    lines = ['#include "gpu.h"']
    rows = []
    for table, plan in zip(module.tables, module.plans, strict=True):
        lines += _launches(table)
        sizes = [
            _sizes(
                f"{what}_{table.batch}",
                offsets,
                [TYPES[p.dtype].size * plan.buffers[p.buffer].size for p in ports],
            )
            for what, offsets, ports in (
                ("input", table.inputs, plan.inputs),
                ("output", table.outputs, plan.outputs),
            )
        ]
        lines += [line for each in sizes for line in each]
        names = (f"{x}_{table.batch}" for x in ("launches", "names", *PORTS))
        numbers = (table.batch, len(table.launches), table.size, table.error, int(table.checks))
        rows.append(f"{{{', '.join([*map(str, numbers), *names])}}}")
    first = module.plans[0]
    lines.append(f"const pd_gpu_plan pd_gpu_plans[] = {{{', '.join(rows)}}};")
    lines.append(f"const int pd_capability = {capability};")
    lines += projects.tensor_tables("input", first.inputs, inputs)
    lines += projects.tensor_tables("output", first.outputs, outputs)
    batches = ", ".join(str(table.batch) for table in module.tables)
    lines.append(f"static const int batches[] = {{{batches}}};")
    fields = {
        "abi": "PD_ABI",
        "version": projects.c_string(metadata.version("prunedeploy")),
        "isa": projects.c_string(isa),
        "inputs": len(first.inputs),
        "input": "inputs",
        "outputs": len(first.outputs),
        "output": "outputs",
        "batches": len(module.tables),
        "batch": "batches",
        "threads": 1,
        "arena": max(table.size for table in module.tables),
        "weights": len(module.constants),
    }
    record = "".join(f"    .{name} = {value},\n" for name, value in fields.items())
    lines.append(f"const pd_model pd_this_model = {{\n{record}}};")
    return "\n".join(lines) + "\n"


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def _cubin_table(begins: Sequence[int]) -> str:
    numbers = ", ".join(map(str, [*begins, 0]))
    return (
        f"const int pd_cubin_count = {len(begins)};\n"
        f"const size_t pd_cubin_begin[] = {{{numbers}}};\n"
    )


def _part_table(module: Module, cubins: Cubins | None) -> str:
    """The cubin of each launch, of all plans one after the other."""
    launches = (launch for table in module.tables for launch in table.launches)
    parts = [cubins.part_of[launch.kernel.name] if cubins else 0 for launch in launches]
    return f"const int pd_cubin_of[] = {{{', '.join(map(str, [*parts, 0]))}}};\n"


PORTS = ("input", "input_size", "output", "output_size")


def _launches(table: LaunchTable) -> list[str]:
    batch, lines, rows, names = table.batch, [], [], []
    for number, launch in enumerate(table.launches):
        kernel = launch.kernel
        offsets = ", ".join(map(str, launch.offsets))
        lines.append(f"static const size_t offsets_{batch}_{number}[] = {{{offsets}}};")
        shape = f"{kernel.grid[0]}, {kernel.grid[1]}, {kernel.block}"
        pointers = f"{len(launch.offsets)}, offsets_{batch}_{number}"
        rows.append(f"    {{{projects.c_string(kernel.name)}, {shape}, {pointers}}},\n")
        names.append(f"    {projects.c_string(kernel.step)},\n")
    # a plan without steps would leave an empty list, which C does not know
    lines.append(f"static const pd_launch launches_{batch}[] = {{\n{''.join(rows)}    {{0}}}};")
    lines.append(f"static const char *const names_{batch}[] = {{\n{''.join(names)}    0}};")
    return lines


def _sizes(name: str, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
    what, _, batch = name.rpartition("_")
    begins = ", ".join(map(str, [*offsets, 0]))
    sizes = ", ".join(map(str, [*lengths, 0]))
    return [
        f"static const size_t {what}_{batch}[] = {{{begins}}};",
        f"static const size_t {what}_size_{batch}[] = {{{sizes}}};",
    ]
