"""The manifest of a device bundle, and how a bundle is distinguished from an engine."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, read_small, sha256
from prunedeploy.core.measurements import Forecast
from prunedeploy.core.records import Difference, Dim

MANIFEST = "bundle.json"
MAX_MANIFEST_BYTES = 64 << 20
ARCHIVE = ".tar.gz"
#: what reading an archive that is none raises; ValueError for text that is none as well
UNREADABLE = (OSError, KeyError, tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError)
MAX_MEMBERS = 10_000  # of an archive, until its manifest: bundles have dozens
FOLDER = ".bundle"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NOT_AN_ENGINE = (
    "is a device bundle for {target}, not an engine: nothing in it was built or measured on that "
    "device yet; run its build.sh and bench.py there, or give --remote user@host"
)


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model, and the file that holds its recorded values."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    file: str


@dataclass(frozen=True)
class ModelFile:
    """A model as the device takes it; ``of`` says whether it is the model or its dense baseline."""

    name: str
    file: str
    of: str
    precision: str
    opset: int
    ir_version: int
    difference: Difference  # from the model it was made from, on the recorded inputs


@dataclass(frozen=True)
class Plan:
    """An engine that TensorRT is to build there, and trtexec's arguments for it."""

    name: str
    plan: str
    of: str
    precision: str
    build: tuple[str, ...]
    run: tuple[str, ...]


@dataclass(frozen=True)
class SparsePart:
    """The sparse engine: compiled, or as C sources where ``why`` says why not.

    ``glibc`` is the newest version of the C library whose symbols it needs.
    """

    isa: str
    batches: tuple[int, ...]
    threads: int
    compiled: bool
    compiler: str
    glibc: str
    why: str


@dataclass(frozen=True)
class Bundle:
    """The manifest of a bundle. ``kind`` is there for whoever reads the file.

    The recorded inputs are ``runs`` batches of ``batch``; ``tolerances`` are those of
    ``prunedeploy.reference.verify`` by precision. ``predicted`` is what the model should take
    there: no one has measured it. ``missing`` names what an engine of the target's cannot be built
    from: "sparse engine", "float32 model"; ``notes`` say why.
    """

    kind: str
    target: str
    arch: str
    system: str
    model: str
    model_sha256: str
    baseline_sha256: str | None
    batch: int
    runs: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tolerances: dict[str, float]
    models: tuple[ModelFile, ...]
    plans: tuple[Plan, ...]
    sparse: SparsePart | None
    notes: tuple[str, ...]  # what could not be put into it, and why
    versions: dict[str, str]
    files: dict[str, str]
    predicted: tuple[Forecast, ...] = ()
    missing: tuple[str, ...] = ()  # of what the target should have


@dataclass(frozen=True)
class Written:
    """A bundle on disk: a folder or an archive of one, and its manifest."""

    path: Path
    bundle: Bundle
    sha256: str  # of the manifest, and through it of every file


def is_bundle(path: Path) -> bool:
    """Whether ``path`` looks like one, whole or not: a folder, or an archive of one."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    if not path.name.endswith(ARCHIVE) or not path.is_file():
        return False
    try:
        return bool(_from_archive(path))
    except UNREADABLE:
        return False


def refusal(path: Path) -> str:
    """The message for a user who gives the bundle at ``path`` as an engine."""
    try:
        target = read(path).bundle.target
    except UserError:
        target = "another machine"
    return f"{path} {NOT_AN_ENGINE.format(target=target)}"


def read(path: Path) -> Written:
    """Read the manifest of the bundle at ``path``; its files are not checked.

    Raises:
        UserError: it is none.
    """
    try:
        text = _from_archive(path) if path.is_file() else read_small(path / MANIFEST)
        bundle = from_json(Bundle, text.decode())
    except UNREADABLE:
        raise UserError(f"{path} is not a device bundle: it has no readable {MANIFEST}") from None
    except UserError as error:
        raise UserError(f"{path} is not a device bundle: {MANIFEST} is {error}") from None
    # a manifest is data from strangers, and engines are called by these names
    named = [*(plan.name for plan in bundle.plans), *(model.name for model in bundle.models)]
    if bad := [name for name in named if not PLAIN_NAME.fullmatch(name)]:
        raise UserError(f"{path} is not a device bundle: its manifest names {bad[0][:99]!a}")
    for name in bundle.files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(f"{path} is not a device bundle: its manifest names {name}")
    return Written(path, bundle, hashlib.sha256(text).hexdigest())


def check(folder: Path) -> Written:
    """The bundle in ``folder``, every file of it checked against its hash.

    Raises:
        UserError: it is none, or a file is missing or is not what was written.
    """
    written = read(folder)
    for name, expected in written.bundle.files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not complete: {name} is missing; write it again")
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name} is not what was written: write the bundle again")
    return written


def _from_archive(path: Path) -> bytes:
    with tarfile.open(path) as archive:
        for member in islice(archive, MAX_MEMBERS):
            if member.isfile() and PurePosixPath(member.name).name == MANIFEST:
                if member.issparse() or member.size > MAX_MANIFEST_BYTES:
                    break
                file = archive.extractfile(member)
                if file is not None:
                    return file.read()
    raise KeyError(MANIFEST)
