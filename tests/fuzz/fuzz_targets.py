"""The targets: what reads files of strangers, each with its seeds.

A target runs in a folder that has the files of a case. Anything but success or one line for the
user is a finding: whatever it raises, and whatever of the case gets to run or to a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import fake_ssh
import seeds
import seeds_other
from mutate import Case

CHOSEN = re.compile(r"^taking .*, the newest result of shrink here$")  # goes before an answer


class FindingError(Exception):
    """Something that is neither success nor one line for the user."""


@dataclass(frozen=True)
class Target:
    """``run`` is given the folder of what is the same for all cases; ``repair`` makes a changed
    case whole again, so that it gets past checks that damage does not pass. A case may take
    ``seconds`` of the processor, for other work goes on, and ``memory`` in bytes.
    """

    name: str
    seeds: Callable[[Path], None]
    run: Callable[[Path], None]
    cost: int  # how many times longer than the fastest it takes
    repair: Callable[[Case, Random], None] = lambda case, random: None
    seconds: float = 30.0
    memory: int = 2 << 30


def command(*arguments: object) -> None:
    """The real command line, in this process.

    Raises:
        FindingError: another status than 0, 1 or 2, or 2 with other than one line.
        BaseException: a bug.
    """
    from prunedeploy.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*map(str, arguments)])
    said = err.getvalue()
    lines = [line for line in said.split("\n") if line and not CHOSEN.match(line)]
    refused = len(lines) == 1 and lines[0].startswith("prunedeploy: error: ")
    if status not in (0, 1, 2) or (status == 2 and not refused):
        raise FindingError(f"status {status}, {said[:500]!a}")
    if odd := {x for x in out.getvalue() + said if not x.isprintable() and x != "\n"}:
        raise FindingError(f"prints {sorted(odd)[:5]!a}: {(out.getvalue() + said)[:500]!a}")
    (out.getvalue() + said).encode()  # no surrogates
    if Path("PWNED").exists():
        raise FindingError("code of the file was run")


def _one_of(count: int, path: str) -> int:
    """One of ``count``, by the content of a file."""
    return zlib.crc32(Path(path).read_bytes()) % count


def _inspect(path: str) -> Callable[[Path], None]:
    def run(fixed: Path) -> None:
        command("inspect", path, *((), ("--json",))[_one_of(2, path)])

    return run


def _load(fixed: Path) -> None:
    """Into a network whose class the user names."""
    from prunedeploy.checkpoint import load
    from prunedeploy.core.errors import UserError

    with contextlib.suppress(UserError):
        load(Path("net.pt"), arch="seeds:small")
    if Path("PWNED").exists():
        raise FindingError("code of the file was run")


def _shrink_checkpoint(fixed: Path) -> None:
    command("shrink", "net.pt", "--arch", "seeds:small", "--input-shape", "1,3,8,8", "-o", "o.onnx")


def _plan(fixed: Path) -> None:
    """The plan of slices on the network that it was made of."""
    from prunedeploy.core.errors import UserError
    from prunedeploy.to_torch.slices import apply_plan

    with contextlib.suppress(UserError):
        apply_plan(seeds.small(), "plan.pt")
    if Path("PWNED").exists():
        raise FindingError("code of the file was run")


def _request(fixed: Path) -> None:
    """A request is answered, or refused with a status of the client's mistakes."""
    from prunedeploy.engines.engine_folder import read_engine
    from prunedeploy.serving.http.model import ServedModel
    from prunedeploy.serving.http.options import ServeOptions
    from prunedeploy.serving.http.refusal import Refusal

    body, data = Path("body.json").read_bytes(), Path("tensors").read_bytes()
    engine = read_engine(fixed / "ort.engine")

    async def answered() -> None:
        model = ServedModel(engine, "net", ServeOptions(threads=1), lambda name, run: None)
        model.start()
        try:
            await model.infer(body + data, len(body))
        finally:
            await model.stop()

    try:
        asyncio.run(answered())
    except Refusal as refusal:
        if not 400 <= refusal.status < 500:
            raise


def _masked(fixed: Path) -> None:
    command("inspect", "net.pt", "--mask", "mask.pt")


def _build(runtime: str) -> Callable[[Path], None]:
    def run(fixed: Path) -> None:
        options = ("--tune", "none") if runtime != "ort" else ()
        command("build", "net.onnx", "--runtime", runtime, *options, "-o", "e")

    return run


def _shrink(fixed: Path) -> None:
    command("shrink", "net.onnx", "-o", "out.onnx", *((), ("--json",))[_one_of(2, "net.onnx")])


def _lower(fixed: Path) -> None:
    precision = ("float32", "float16")[_one_of(2, "net.onnx")]
    command("lower", "net.onnx", "--target", "jetson", "--precision", precision, "-o", "l.onnx")


def _emit(fixed: Path) -> None:
    command("build", "net.onnx", "--emit", "c", "--tune", "none", "-o", "project")


def _predict(fixed: Path) -> None:
    command("predict", "net.onnx", "--target", "jetson")


def _engine(fixed: Path) -> None:
    """What run reads, and bench besides."""
    from prunedeploy.core.arrays import read_arrays
    from prunedeploy.core.errors import UserError
    from prunedeploy.engines.engine_folder import read_engine
    from prunedeploy.engines.opening import open as open_engine
    from prunedeploy.measure.profiling import profiles_of
    from prunedeploy.prediction.engines import forecast_of

    command("run", "engine", fixed / "x.npy", "-o", "y.npy")
    command("serve-repo", "engine", "-o", "repo")
    with contextlib.suppress(UserError):
        engine = read_engine("engine")
        forecast_of(engine, 1, 1)
        with open_engine(engine, 1) as session:
            names = [spec.name for spec in engine.manifest.inputs]
            feeds = dict.fromkeys(names, read_arrays(fixed / "x.npy"))
            profiles_of(["engine"], [engine], [session], feeds, 2, 1, 2)


def rehash(case: Case, random: Random) -> None:
    """Hashes as the files are, most of the time; those of programs stay, which hashes protect."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        manifest = json.loads(case["engine/manifest.json"])
        programs = {"model.onnx"} if "prunedeploy_ort.so" in manifest["files"] else set()
        for name in manifest[
            "files"
        ]:  # a hybrid engine's model holds the machine code of its parts
            data = case.get(f"engine/{name}")
            if name.endswith(".so") or name in programs:
                continue
            if data is not None and random.random() < 0.9:
                manifest["files"][name] = hashlib.sha256(data).hexdigest()
        text = json.dumps(manifest, ensure_ascii=False)
        case["engine/manifest.json"] = text.encode("utf-8", "surrogatepass")


def _arrays(fixed: Path) -> None:
    from prunedeploy.core.errors import UserError
    from prunedeploy.engines.engine_folder import read_engine
    from prunedeploy.measure import labelled

    (path,) = Path().iterdir()
    if path.name == "data.npz":  # what bench --data reads
        inputs = read_engine(fixed / "ort.engine").manifest.inputs
        with contextlib.suppress(UserError):
            list(labelled.load(path, inputs, ((0.5,), (0.5,))).batches(3))
        return
    command("run", fixed / "ort.engine", path, "-o", "y.npz")


def _report(fixed: Path) -> None:
    command("report", "result.json", *((), ("--json",))[_one_of(2, "result.json")])


def _record(fixed: Path) -> None:
    command("build", "--runtime", "ort", "-o", "e")


def _targets(fixed: Path) -> None:
    if _one_of(9, "prunedeploy.targets.toml"):
        command("predict", fixed / "net.onnx", "--target", "camera")
    else:
        command("build", fixed / "net.onnx", "--target", "old", "--emit", "c", "-o", "project")


def _schedules(fixed: Path) -> None:
    """A schedule out of a file is one that would be measured today."""
    from prunedeploy.runtimes.sparse.schedule import candidates
    from prunedeploy.runtimes.sparse.schedule.tune import _Store

    step = seeds.convolution()
    empty = _Store(Path("cache"), "avx2", 1)
    Path("cache").mkdir()
    Path("schedules.json").rename(empty._path)
    store = _Store(Path("cache"), "avx2", 1)
    choice = store.get(step, store.key(step, "quick"))
    known = list(candidates.candidates(step, "avx2", 1))
    if choice is not None and not (choice.schedule in known and choice.plain in known):
        raise FindingError(f"takes {choice}")


def _bundle(fixed: Path) -> None:
    from prunedeploy.bundle import archive
    from prunedeploy.core.errors import UserError
    from prunedeploy.engines import bundle_record

    (path,) = Path().iterdir()
    command("run", path, fixed / "x.npy", "-o", "y.npy")
    with contextlib.suppress(UserError):
        if path.is_dir():
            bundle_record.check(path)
            return
        Path("unpacked").mkdir()
        archive.unpack(path, Path("unpacked"))
        bundle_record.check(next(Path("unpacked").iterdir(), Path("unpacked")))


def _device(fixed: Path) -> None:
    """The device's side is a program that answers with the files of the case."""
    from prunedeploy.core.errors import UserError
    from prunedeploy.engines.bundle_record import read
    from prunedeploy.remote import collect, untrusted

    written = read(fixed / "net.bundle")
    if Path("document.json").exists():
        known = untrusted.document(Path("document.json").read_bytes().decode("utf-8", "replace"))
        with contextlib.suppress(UserError):
            collect.collect("device", written, known or {}, "", Path("nothing"))
        return
    _answered(fixed, written.path)


def _answered(fixed: Path, bundle: Path) -> None:
    there = fake_ssh.install(Path("bin").resolve(), "aarch64")
    for name in ("events", "result.tar.gz"):
        Path(name).rename(there / name)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{there}:{before}"
    try:
        options = ("--remote", "device", "--timeout", 20, "-o", "out")
        command("build", bundle, *options)
    finally:
        os.environ["PATH"] = before
    if strange := {path.name for path in Path().iterdir()} - {"bin", "out"}:
        raise FindingError(f"wrote {strange}")


TARGETS = {
    target.name: target
    for target in (
        Target("zip", seeds.zips, _inspect("net.pt"), 1),
        Target("legacy", seeds.legacy, _inspect("net.pt"), 1),
        Target("tar", seeds.tars, _inspect("net.pt"), 1),
        Target("safetensors", seeds.safetensors, _inspect("net.safetensors"), 1),
        Target("npz", seeds.npz, _inspect("net.npz"), 1),
        Target("torchscript", seeds.torchscript, _inspect("net.pt"), 1),
        Target("pt2", seeds.pt2, _inspect("net.pt2"), 2),
        Target("masks", seeds.masked, _masked, 1),
        Target("shards", seeds_other.shards, _inspect("model.safetensors.index.json"), 1),
        Target("load", seeds.zips, _load, 2),
        Target("plan", seeds_other.plans, _plan, 1),
        Target("checkpoint-shrink", seeds.zips, _shrink_checkpoint, 100),
        Target("onnx-inspect", seeds.models, _inspect("net.onnx"), 2),
        Target("onnx-external", seeds.model_external, _inspect("net.onnx"), 2),
        Target("onnx-predict", seeds.models, _predict, 4),
        Target("onnx-lower", seeds.models, _lower, 8),
        Target("onnx-shrink", seeds.models, _shrink, 12),
        Target("onnx-build", seeds.models, _build("ort"), 8),
        Target("onnx-emit", seeds.models, _emit, 8),
        Target("onnx-sparse", seeds.models, _build("sparse"), 200),
        Target("onnx-hybrid", seeds.models, _build("hybrid"), 200),
        Target("engine-ort", partial(seeds.engines, "ort"), _engine, 2, rehash),
        Target("engine-sparse", partial(seeds.engines, "sparse"), _engine, 2, rehash),
        Target("engine-hybrid", seeds_other.hybrid_engine, _engine, 4, rehash),
        Target("requests", seeds_other.requests, _request, 2),
        Target("arrays", seeds.arrays, _arrays, 2),
        Target("results", seeds.results, _report, 1),
        Target("record", seeds.shrunk, _record, 8),
        Target("targets", seeds.targets, _targets, 2),
        Target("schedules", seeds.schedules, _schedules, 2),
        Target("bundle", seeds.bundles, _bundle, 2),
        Target("device", seeds.device, _device, 60),
    )
}
