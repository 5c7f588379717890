"""Hashes of the engines of the reference networks, to show that a change of the code changes none.

    python benchmarks/identity.py --write before.json     # before the change
    python benchmarks/identity.py --check before.json     # behind it
        [--networks resnet18,encoder] [--isas avx512,avx2,neon] [--jobs 2]

Every network of ``identity_models.py`` becomes a C project for AVX-512, AVX2 and NEON, without
tuning and for one thread, so that this machine and its load have no say in it; its Makefile then
compiles it, with the system's compiler for this architecture and ziglang for AArch64. Hashes are
kept of the model that is built from, of the machine code and the weights, of every C text and of
what the compiler made of it. Names are no part of the first and the last: of a model the graph and
its constants count, of an object file or a library the sections that are loaded, without those of
symbols.

``--check`` prints a line a difference. Exit status 1: a model, machine code, weights or compiled
code differ. C texts alone may: identifiers in them were renamed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import identity_models
import onnx
from onnx import numpy_helper

import prunedeploy

MODEL, PAYLOAD, COMPILED = "model", "machine code and weights", "compiled code"
SOURCES, RECORDS = "C sources", "Makefile and records"
STRICT = (MODEL, PAYLOAD, COMPILED)
PARTS = {".bin": PAYLOAD, ".c": SOURCES, ".h": SOURCES}  # by suffix; the others are RECORDS
LIBRARY = "model.so"
ZIG_TRIPLE = "aarch64-linux-gnu.2.27"
MENTIONED = 6  # files of a part that a line names
PACKAGES = ("prunedeploy", "torch", "onnx", "onnxscript", "numpy")

# of the ELF format
KIND = b"\x7fELF\x02\x01"  # 64 bits, little-endian
ALLOCATED = 2  # flag of sections that are loaded
EMPTY = 8  # type of sections that take no room in the file
# tables of symbols, strings, hashes of names, versions of them and what points into these
NAMES = (3, 5, 6, 7, 11, 0x6FFFFFF6, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF)

Hashes = dict[str, str]  # by file
Parts = dict[str, Hashes]


@dataclass(frozen=True)
class Isa:
    """An instruction set: of which architecture, and the flags of a target that has it."""

    name: str
    arch: str
    flags: tuple[str, ...]

    @property
    def target(self) -> str:
        """The name of its target."""
        return f"identity-{self.name}"

    @property
    def row(self) -> str:
        """Its target in a file of targets; one core, so that no other number is taken."""
        return (
            f'[{self.target}]\narch = "{self.arch}"\nisa = {json.dumps(self.flags)}\n'
            'runtimes = ["sparse"]\ncores = 1\n'
        )


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", "x86_64", ("avx2", "fma", "avx512")),
        Isa("avx2", "x86_64", ("avx2", "fma")),
        Isa("neon", "aarch64", ("neon",)),
    )
}


@dataclass(frozen=True)
class Record:
    """All hashes, by engine and part, and the versions of what made them."""

    versions: dict[str, str]
    engines: dict[str, Parts]

    def text(self) -> str:
        """As JSON."""
        content = {"versions": self.versions, "engines": self.engines}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Choice:
    """The networks that are to be built, and how."""

    networks: tuple[str, ...]
    isas: tuple[Isa, ...]
    jobs: int


def read(path: Path) -> Record:
    """The record that ``--write`` writes."""
    content = json.loads(path.read_text())
    return Record(content["versions"], content["engines"])


# -- hashes ----------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def model_hash(path: Path) -> str:
    """The hash of a model's nodes, in order, and its constants; names and metadata do not count."""
    graph = onnx.load(path).graph
    numbers: dict[str, int] = {"": -1}
    digest = hashlib.sha256()

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.input:
        digest.update(f"input {number(value.name)}".encode() + value.type.SerializeToString())
    for node in graph.node:
        for name in node.input:
            if name in constants and name not in numbers:
                array = numpy_helper.to_array(constants[name])
                digest.update(f"{number(name)} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
        ends = [[number(name) for name in names] for names in (node.input, node.output)]
        digest.update(f"{node.domain} {node.op_type} {ends}".encode())
        for attribute in sorted(node.attribute, key=lambda each: each.name):
            digest.update(attribute.SerializeToString(deterministic=True))
    digest.update(str([number(value.name) for value in graph.output]).encode())
    return digest.hexdigest()


def code_hash(path: Path) -> str:
    """The hash of the code and data of an object file or a library, without names of symbols."""
    data = path.read_bytes()
    if not data.startswith(KIND):
        raise SystemExit(f"{path.name} is not a 64-bit object file of Linux")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    digest = hashlib.sha256()
    for index in range(count):
        header = struct.unpack_from("<IIQQQQIIQQ", data, table + index * size)
        _, kind, flags, _, begin, length, *_ = header
        if flags & ALLOCATED and kind not in NAMES:
            digest.update(struct.pack("<IQQ", kind, flags, length))
            digest.update(b"" if kind == EMPTY else data[begin : begin + length])
    return digest.hexdigest()


# -- engines ---------------------------------------------------------------------------------------


def compiler(isa: Isa) -> tuple[str, ...] | None:
    """A compiler for ``isa``; None where there is none."""
    if isa.arch == platform.machine():
        named = next(filter(None, map(shutil.which, ("gcc", "clang"))), None)
        if named is not None:
            return (named,)
    if isa.arch == "aarch64" and importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-P", "-m", "ziglang", "cc", "-target", ZIG_TRIPLE)
    return None


def engine(model: Path, isa: Isa, batch: int, folder: Path, jobs: int) -> Parts:
    """Emit ``model`` as C into ``folder`` and compile it there."""
    sizes = (batch,) if batch > 1 else ()
    prunedeploy.emit_c(model, isa.target, folder, batch=sizes, threads=1, tune="none")
    parts: Parts = {}
    for file in sorted(folder.iterdir()):
        hashes = parts.setdefault(PARTS.get(file.suffix, RECORDS), {})
        hashes[file.name] = sha256(file.read_bytes())
    command = compiler(isa)
    if command is not None:
        run = ["make", "-s", f"-j{jobs}", f"CC={shlex.join(command)}"]
        done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{model.stem} does not compile for {isa.name}:\n{done.stderr}")
        objects = [*sorted(folder.glob("*.o")), folder / LIBRARY]
        parts[COMPILED] = {file.name: code_hash(file) for file in objects}
    return parts


def engines(choice: Choice) -> Iterator[tuple[str, Parts]]:
    """All of ``choice``, one after the other, by what they are called."""
    with tempfile.TemporaryDirectory(prefix="prunedeploy-") as name:
        scratch = Path(name)
        rows = scratch / "targets.toml"
        rows.write_text("\n".join(isa.row for isa in choice.isas))
        os.environ["PRUNEDEPLOY_TARGETS"] = str(rows)
        for network in choice.networks:
            row = identity_models.NETWORKS[network]
            model = identity_models.write(network, scratch)
            hashes = {"graph and constants": model_hash(model)}
            for isa in choice.isas:
                for batch in row.batches:
                    title = f"{network}, {isa.name}, batch {batch}"
                    folder = scratch / f"{network}.{isa.name}.{batch}.c"
                    parts = engine(model, isa, batch, folder, choice.jobs)
                    shutil.rmtree(folder)
                    if row.built and batch == 1 and COMPILED in parts:
                        parts[COMPILED] |= built(model, isa, batch, scratch / title)
                    yield title, {MODEL: hashes, **parts}
            for file in scratch.glob(f"{network}.*"):
                file.unlink()


def built(model: Path, isa: Isa, batch: int, path: Path) -> Hashes:
    """The library of an engine as ``prunedeploy.build`` makes it."""
    sizes = (batch,) if batch > 1 else ()
    made = prunedeploy.build(model, isa.target, "sparse", path, batch=sizes, threads=1, tune="none")
    hashes = {f"built {LIBRARY}": code_hash(made.path / LIBRARY)}
    shutil.rmtree(made.path)
    return hashes


def record(choice: Choice) -> Record:
    """All hashes of ``choice``; tells how it goes."""
    engines_of: dict[str, Parts] = {}
    begin = time.perf_counter()
    for title, parts in engines(choice):
        engines_of[title] = parts
        print(f"{title} ({time.perf_counter() - begin:.0f} s)", file=sys.stderr, flush=True)
    return Record(versions(choice.isas), engines_of)


def versions(isas: Iterable[Isa]) -> dict[str, str]:
    """The versions of Python, the packages and the compilers."""
    packages = {"python": platform.python_version(), "machine": platform.machine()}
    packages |= {name: metadata.version(name) for name in PACKAGES}
    for isa in isas:
        if command := compiler(isa):
            run = [*command, "--version"]
            done = subprocess.run(run, capture_output=True, text=True, check=True)
            packages[f"compiler for {isa.name}"] = done.stdout.splitlines()[0]
    return packages


# -- differences -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A line of the output; ``strict`` where it makes the check fail."""

    text: str
    strict: bool = False


def compare(before: Record, now: Record) -> Iterator[Finding]:
    """The differences, of the engines that ``now`` has."""
    for name, version in sorted(now.versions.items()):
        if (known := before.versions.get(name)) not in (version, None):
            yield Finding(f"note: {name} was {known}, is {version}")
    for title, parts in now.engines.items():
        if title not in before.engines:
            yield Finding(f"{title}: not in the file", strict=True)
            continue
        yield from _compare_parts(title, before.engines[title], parts)


def _compare_parts(title: str, before: Parts, now: Parts) -> Iterator[Finding]:
    for part in (*STRICT, SOURCES, RECORDS):
        if part == COMPILED and (part in before) != (part in now):
            side = "in the file" if part in now else "now"
            yield Finding(f"note: {title}: {part} not compared: no compiler {side}")
        elif names := _differing(before.get(part, {}), now.get(part, {})):
            more = len(names) - MENTIONED
            shown = ", ".join(names[:MENTIONED]) + (f" and {more} more" if more > 0 else "")
            text = f"{title}: {part}: {shown}"
            yield Finding(text, True) if part in STRICT else Finding(f"note: {text}")


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files whose hashes differ, and those that only one side has."""
    differing = []
    for name in sorted({*before, *now}):
        if name not in now:
            differing.append(f"{name} (gone)")
        elif name not in before:
            differing.append(f"{name} (new)")
        elif before[name] != now[name]:
            differing.append(name)
    return differing


def check(before: Record, now: Record) -> int:
    """Print what differs; the exit status."""
    findings = list(compare(before, now))
    for finding in findings:
        print(finding.text)
    failed = sum(finding.strict for finding in findings)
    print(f"{len(now.engines)} engines, {failed} differences that count")
    return 1 if failed else 0


def main() -> int:
    """Parse, build, write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--write", type=Path, metavar="FILE", help="keep the hashes there")
    task.add_argument("--check", type=Path, metavar="FILE", help="compare with those in it")
    parser.add_argument("--networks", default=",".join(identity_models.NETWORKS))
    parser.add_argument("--isas", default=",".join(ISAS))
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once")
    options = parser.parse_args()
    networks, isas = options.networks.split(","), options.isas.split(",")
    for names, known in ((networks, list(identity_models.NETWORKS)), (isas, list(ISAS))):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(known)}")
    before = read(options.check) if options.check else None
    for isa in isas:
        if compiler(ISAS[isa]) is None:
            print(f"no compiler for {isa} here: its C is not compiled", file=sys.stderr)
    warnings.simplefilter("ignore")  # the exporter's
    now = record(Choice(tuple(networks), tuple(ISAS[isa] for isa in isas), options.jobs))
    if before is not None:
        return check(before, now)
    options.write.write_text(now.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
