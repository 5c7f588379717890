"""The user's own targets, from a TOML file: one table a machine.

The file is the one that ``PRUNEDEPLOY_TARGETS`` names, else ``prunedeploy.targets.toml`` in the
current folder where there is one:

    [camera]
    what = "the camera's board"
    like = "jetson-orin"            # takes the rest from that target; else arch is needed
    cores = 6
    bytes-per-second = 68e9
    peaks = { float32 = 1.3e12, float16 = 10e12 }
    toolchain = { name = "TensorRT 8.6", opset = 17, ir-version = 8, precisions = ["float16"] }

Keys are the fields of ``Target`` and ``Toolchain`` with hyphens.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import read_text
from prunedeploy.targets.table import TARGETS
from prunedeploy.targets.target import ISA_FLAGS, PRECISIONS, Peak, Target, Toolchain

VARIABLE = "PRUNEDEPLOY_TARGETS"
FILE = Path("prunedeploy.targets.toml")

PLAIN = r"[A-Za-z0-9._+-]*"  # what a Makefile and a shell take as it is

TEXT, COUNT, NUMBER, TEXTS = "a text", "a whole number", "a number", "a list of texts"
FLAG, TABLE, NUMBERS = "true or false", "a table", "a table of numbers"
KINDS = {  # by the type of a field
    "str": TEXT,
    "str | None": TEXT,
    "int": COUNT,
    "float": NUMBER,
    "bool": FLAG,
    "tuple[str, ...]": TEXTS,
    "tuple[Peak, ...]": NUMBERS,
    "Toolchain | None": TABLE,
}


def _keys(record: type[Target | Toolchain]) -> dict[str, str]:
    """The keys for the fields of ``record``, and what each has to be."""
    fields = dataclasses.fields(record)
    return {field.name.replace("_", "-"): KINDS[str(field.type)] for field in fields}


TARGET_KEYS = {"what": TEXT, "like": TEXT, **_keys(Target)}
del TARGET_KEYS["name"]  # that of the table
TOOLCHAIN_KEYS = _keys(Toolchain)


def user_targets() -> tuple[Target, ...]:
    """The targets of the user's file; none without one.

    Raises:
        UserError: the file is named but not there, is not TOML, or says what makes no sense.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else FILE
    if not named and not path.is_file():
        return ()
    return read(path)


def read(path: Path) -> tuple[Target, ...]:
    """The targets of the file at ``path``.

    Raises:
        UserError: it cannot be read, is not TOML, or a target makes no sense.
    """
    try:
        tables = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:  # not TOML, or without end
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot read targets from {path}: {reason}") from None
    taken = {name for target in TARGETS for name in (target.name, *target.aliases)}
    targets: list[Target] = []
    for name, table in tables.items():
        where = f"{path}, target {name}"
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} stands outside of a target: put it below a [name]")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise UserError(f"{where}: a name is of small letters, digits and -")
        target = _target(where, name, table)
        for each in (target.name, *target.aliases):
            if each in taken:
                raise UserError(f"{where}: there is a target {each} already: take another name")
            taken.add(each)
        targets.append(target)
    return tuple(targets)


def _target(where: str, name: str, table: Mapping[str, Any]) -> Target:
    _check_keys(where, table, TARGET_KEYS)
    values = {key.replace("-", "_"): _value(value) for key, value in table.items()}
    base = Target(name, name, "")
    if (like := values.pop("like", None)) is not None:
        known = {target.name: target for target in TARGETS if target.name != "host"}
        if like not in known:
            raise UserError(f"{where}: like is {like!r}: choose from {', '.join(known)}")
        base = dataclasses.replace(known[like], name=name, aliases=(), board="")
    if "peaks" in values:
        values["peaks"] = _peaks(f"{where}, peaks", table["peaks"])
    if "toolchain" in values:
        values["toolchain"] = _toolchain(f"{where}, toolchain", table["toolchain"], base.toolchain)
    target = dataclasses.replace(base, **values)
    _check_target(where, target)
    return target


def _check_target(where: str, target: Target) -> None:
    if not target.arch:
        raise UserError(f'{where}: arch is missing: give it ("x86_64", "aarch64"), or like')
    if strange := [isa for isa in target.isa if isa not in ISA_FLAGS]:
        raise UserError(f"{where}: isa {strange[0]!r}: choose from {', '.join(ISA_FLAGS)}")
    if target.compute_capability is not None and not re.fullmatch(
        r"\d+\.\d", target.compute_capability
    ):
        raise UserError(
            f'{where}: compute-capability {target.compute_capability!r}: write it as "8.7"'
        )
    tools = target.toolchain
    words = (target.arch, target.cpu, *((tools.python, tools.glibc) if tools else ()))
    if bad := next((word for word in words if not re.fullmatch(PLAIN, word or "")), None):
        raise UserError(f"{where}: {bad!r} would reach a compiler's command: give a plain word")
    figures = [target.macs_per_second, target.bytes_per_second, target.hz, target.cache_bytes]
    if target.multiple < 1 or min(target.cores, *figures) < 0:
        raise UserError(f"{where}: multiple begins at 1, and no other number is negative")
    if not target.runtimes:
        raise UserError(f"{where}: runtimes is empty: name one at least")


def _peaks(where: str, table: Mapping[str, Any]) -> tuple[Peak, ...]:
    _check_keys(where, table, dict.fromkeys(PRECISIONS, NUMBER))
    if low := [name for name, number in table.items() if number <= 0]:
        raise UserError(f"{where}: {low[0]} is {table[low[0]]}: operations a second are positive")
    return tuple(Peak(name, float(number)) for name, number in table.items())


def _toolchain(where: str, table: Mapping[str, Any], base: Toolchain | None) -> Toolchain:
    _check_keys(where, table, TOOLCHAIN_KEYS)
    values = {key.replace("-", "_"): _value(value) for key, value in table.items()}
    if base is None:
        needed = ("name", "opset", "ir-version", "precisions")
        if missing := [key for key in needed if key not in table]:
            raise UserError(f"{where}: {missing[0]} is missing: give {', '.join(needed)}")
        return Toolchain(**values)
    return dataclasses.replace(base, **values)


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_keys(where: str, table: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(keys)}"
            raise UserError(f"{where}: there is no key {key!r}: {hint}")
        if not _is(value, keys[key]):
            raise UserError(f"{where}: {key} should be {keys[key]}, found {value!r}")


def _is(value: Any, kind: str) -> bool:
    if kind == TEXTS:
        return isinstance(value, list) and all(isinstance(x, str) for x in value)
    if kind in (COUNT, NUMBER):
        plain = int if kind == COUNT else int | float
        return isinstance(value, plain) and not isinstance(value, bool)
    return isinstance(value, str if kind == TEXT else bool if kind == FLAG else dict)
