"""Building a hybrid engine: parts are cut out, built, measured, and joined to one model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from prunedeploy import targets
from prunedeploy.core.errors import NoGainError, UnsupportedModelError, UserError
from prunedeploy.core.files import sha256, to_json
from prunedeploy.graph import model as models
from prunedeploy.runtimes.api import BuildOptions, Payload
from prunedeploy.runtimes.hybrid import custom_op, race, work
from prunedeploy.runtimes.hybrid.folding import fold
from prunedeploy.runtimes.hybrid.joining import join, model_of, node_name
from prunedeploy.runtimes.hybrid.partition import Part, partition
from prunedeploy.runtimes.hybrid.placement import (
    OP_LIBRARY,
    PLACEMENT,
    PartRecord,
    Placement,
    StockNode,
)
from prunedeploy.runtimes.hybrid.session import held
from prunedeploy.runtimes.hybrid.survey import BATCH, Refusal, Survey, survey
from prunedeploy.runtimes.ort.cpu import PAYLOAD, Ort
from prunedeploy.runtimes.sparse.build import batch_sizes, build_payload
from prunedeploy.runtimes.sparse.importer.importer import label
from prunedeploy.runtimes.sparse.importer.prepare import prepare
from prunedeploy.runtimes.sparse.payload import LIBRARY
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets import Target

MARGIN = 1.02  # speed relative to ONNX Runtime alone that a hybrid engine has to reach


@dataclass(frozen=True)
class Built:
    """A part whose engine was built, with its seconds alone in both runtimes; 0: not measured."""

    part: Part
    engine: bytes
    payload: Payload
    seconds: float = 0.0
    stock_seconds: float = 0.0


@dataclass(frozen=True)
class _Job:
    """What stays the same while one engine is built."""

    source: Path
    model: ir.Model  # prepared and folded
    survey: Survey
    works: Mapping[str, work.Work]
    target: Target
    options: BuildOptions
    batches: tuple[int, ...]
    threads: int
    scratch: Path

    @property
    def measures(self) -> bool:
        return self.options.tune != "none"


def build_hybrid(source: Path, target: Target, directory: Path, options: BuildOptions) -> Payload:
    """Write the joined model, the custom op's library and the placement into ``directory``.

    Raises:
        UnsupportedModelError: no node with weights can be in the sparse runtime.
        NoGainError: no part pays for its cut, or the whole is not faster than ONNX Runtime alone.
    """
    library = directory / OP_LIBRARY
    library.write_bytes(custom_op.onnxruntime_library(target.name).read_bytes())
    # ONNX Runtime never unloads it: a second build into the folder must not write over what it runs
    loaded = held(library, sha256(library))
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as scratch:
        job = _job(source, target, options, Path(scratch))
        built, refused = _build_parts(job)
        kept, times = _choose(job, built, refused, directory / PAYLOAD, loaded)
    placement = _placement(job, kept, refused, times)
    (directory / PLACEMENT).write_text(to_json(placement))
    tools = compiling.toolchain(target)
    return Payload(
        files=tuple(sorted(path.name for path in directory.iterdir())),
        versions={tools.name: tools.version},
        batches=job.batches,
        threads=job.threads,
        arch=target.arch,
        isa=kept[0].payload.isa,
    )


def _job(source: Path, target: Target, options: BuildOptions, scratch: Path) -> _Job:
    loaded = models.load(source)
    inputs, _ = models.specs(loaded)
    batches = batch_sizes(inputs, options.batches)
    is_open = any(spec.shape and isinstance(spec.shape[0], str) for spec in inputs)
    # the third shows what depends on the batch by a comparison, or by a division
    several = (batches[0], 2 * batches[0] + 1, 16 * max(batches) + 3)
    sizes = several if is_open else batches[:1]
    model = prepare(loaded)
    fold(model, survey(model, sizes))
    seen = survey(model, sizes)
    threads = options.threads or target.cores or targets.cores()
    works = work.of_nodes(model.graph, seen)
    return _Job(source, model, seen, works, target, options, batches, threads, scratch)


# -- parts ----------------------------------------------------------------------------------------


def _build_parts(job: _Job) -> tuple[list[Built], dict[str, Refusal]]:
    """The parts that should pay, each with its engine; why the other nodes are in none.

    A node that cannot be lowered where it stands is left to ONNX Runtime, and the parts are cut
    anew around it.
    """
    seen, done = job.survey, dict[tuple[str, ...], Built]()
    while True:
        parts, refused = partition(job.model, seen)
        built: list[Built] = []
        for part in parts:
            if why := _why_not(job, part):
                refused |= _of_part(part, why)
                continue
            names = tuple(str(node.name) for node in part.nodes)
            made = done.get(names) or _build_part(job, part)
            if not isinstance(made, Built):
                seen = replace(seen, refused={**seen.refused, **made})
                break
            done[names] = made
            built.append(made)
        else:
            return built, refused


def _of_part(part: Part, why: Refusal) -> dict[str, Refusal]:
    return {str(node.name): why for node in part.nodes}


def _why_not(job: _Job, part: Part) -> Refusal | None:
    """Why no engine is built for ``part``, by what is known of it beforehand."""
    if not any(str(node.name) in job.works for node in part.nodes):
        return Refusal("no-weights", "there is no layer with weights in its part")
    gain = work.gain_of(part, job.works, job.survey, job.target)
    if gain <= 0:
        return Refusal("no-gain", f"its part should lose {-1e6 * gain:.0f} us by the cut")
    return None


def _build_part(job: _Job, part: Part) -> Built | dict[str, Refusal]:
    """The engine of ``part``; or the nodes that cannot be in it, and why."""
    folder = Path(tempfile.mkdtemp(dir=job.scratch))
    path = folder / "part.onnx"
    models.save(model_of(part, job.model, job.survey), path)
    specs = race.Specs(*models.specs(models.load(path)))
    is_open = any(spec.shape[:1] == (BATCH,) for spec in specs.inputs)
    options = replace(job.options, batches=job.batches if is_open else ())
    job.options.progress(f"building a part of {len(part.nodes)} nodes")
    try:
        payload = build_payload(path, job.target, folder, options)
    except UnsupportedModelError as error:
        why = Refusal("cannot-lower", error.reason)
        inside = any(node.name == error.node for node in part.nodes)
        return {error.node: why} if inside else _of_part(part, why)
    except UserError as error:  # of several batches, an output that has none
        return _of_part(part, Refusal("cannot-lower", str(error)))
    library = folder / LIBRARY
    made = Built(part, library.read_bytes(), payload)
    if not job.measures:
        return made
    ours, stock = race.time_part(path, library, specs, payload.batches, job.threads)
    return replace(made, seconds=ours, stock_seconds=stock)


# -- the whole ------------------------------------------------------------------------------------


def _choose(
    job: _Job, built: list[Built], refused: dict[str, Refusal], output: Path, library: Path
) -> tuple[list[Built], tuple[float, float]]:
    """Write the fastest model of those with some or all parts; its parts, and the times.

    ``refused`` is told of the parts that are left out.

    Raises:
        UnsupportedModelError, NoGainError: as ``build_hybrid``.
    """
    kept = [each for each in built if not job.measures or each.seconds < each.stock_seconds]
    for each in built:
        if each not in kept:
            refused |= _of_part(each.part, Refusal("no-gain", _slower(each)))
    if not kept:
        raise _nothing(job, refused)
    times = (0.0, 0.0)
    if job.measures:
        kept, times = _race(job, kept, library)
        for each in built:
            if each not in kept and each.seconds < each.stock_seconds:
                refused |= _of_part(each.part, Refusal("no-gain", "the whole is faster without"))
    join(job.model, [each.part for each in kept], [each.engine for each in kept], output)
    return kept, times


def _slower(built: Built) -> str:
    ours, stock = 1e3 * built.seconds, 1e3 * built.stock_seconds
    return f"its part takes {ours:.3g} ms in the sparse runtime, {stock:.3g} ms in ONNX Runtime"


def _nothing(job: _Job, refused: Mapping[str, Refusal]) -> UserError:
    """The error where no part is left, with the reason of the node with the most work."""
    known = [node for node in job.model.graph if str(node.name) in refused]
    nodes = [node for node in known if str(node.name) in job.works] or known
    heaviest = max(nodes, key=lambda node: _macs(job, [str(node.name)]))
    why = refused[str(heaviest.name)]
    reason = f"{label(heaviest)} ({heaviest.name}): {why.reason}"
    if why.code == "no-gain":
        return NoGainError("hybrid", f"no part of the model pays for its cut: {reason}")
    return UnsupportedModelError("hybrid", f"any layer with weights of this model: {reason}")


def _race(
    job: _Job, built: Sequence[Built], library: Path
) -> tuple[list[Built], tuple[float, float]]:
    """The parts of the fastest hybrid model, and its seconds beside those of ONNX Runtime alone.

    Tried are all parts, the half of them that gains the most alone, and the one that does.

    Raises:
        NoGainError: none is faster than ONNX Runtime alone.
    """
    ranked = sorted(built, key=lambda each: each.seconds - each.stock_seconds)
    counts = sorted({len(ranked), (len(ranked) + 1) // 2, 1}, reverse=True)
    chosen = [[each for each in built if each in ranked[:count]] for count in counts]
    paths = []
    for count, parts in zip(counts, chosen, strict=True):
        paths.append(job.scratch / f"hybrid{count}" / PAYLOAD)
        paths[-1].parent.mkdir()
        join(job.model, [x.part for x in parts], [x.engine for x in parts], paths[-1])
    stock = job.scratch / "stock"
    stock.mkdir()
    Ort().build(job.source, job.target, stock, BuildOptions())
    specs = race.Specs(*models.specs(models.load(job.source)))
    job.options.progress(f"timing it beside ONNX Runtime alone, threads {job.threads}")
    alone, *times = race.time_whole(
        stock / PAYLOAD, paths, library, specs, job.batches, job.threads
    )
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] * MARGIN > alone:
        raise NoGainError(
            "hybrid",
            f"a run takes {1e3 * times[best]:.3g} ms, and {1e3 * alone:.3g} ms in ONNX Runtime",
        )
    return chosen[best], (times[best], alone)


# -- the record -----------------------------------------------------------------------------------


def _macs(job: _Job, names: Iterable[str], nonzero: bool = False) -> int:
    own = [job.works[name] for name in names if name in job.works]
    return sum(each.nonzero if nonzero else each.macs for each in own)


def _placement(
    job: _Job,
    kept: Sequence[Built],
    refused: Mapping[str, Refusal],
    times: tuple[float, float],
) -> Placement:
    """Where every node is, and why."""
    parts = []
    for index, each in enumerate(kept):
        names = tuple(str(node.name) for node in each.part.nodes)
        work_of = (_macs(job, names), _macs(job, names, nonzero=True))
        parts.append(
            PartRecord(node_name(index), names, *work_of, each.seconds, each.stock_seconds)
        )
    inside = {name for part in parts for name in part.nodes}
    stock = []
    for node in job.model.graph:
        if (name := str(node.name)) not in inside:
            why = refused[name]
            stock.append(StockNode(name, label(node), why.code, why.reason, _macs(job, [name])))
    total = _macs(job, job.works)
    share = sum(part.macs for part in parts) / max(total, 1)
    return Placement(tuple(parts), tuple(stock), total, share, *times)
