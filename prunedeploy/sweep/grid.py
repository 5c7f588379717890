"""A grid: a recipe with lists in the place of values, and tables that stand several times.

Every key may have a list of values, and ``network``, ``data``, ``train``, ``method`` and ``deploy``
may stand several times as ``[[method]]``. Within one table all combinations count; tables of one
name are alternatives. ``seeds`` in ``deploy`` restricts what is deployed to some of the seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.sparsify import recipe as recipes
from prunedeploy.sparsify.recipe import DataSource, Deploy, MethodChoice, NetworkChoice, Recipe
from prunedeploy.sparsify.settings import ELEMENTS, KINDS, OPTIONS, kinds_of
from prunedeploy.sparsify.trainer import TrainSettings

RECORDS = {
    "network": NetworkChoice,
    "data": DataSource,
    "train": TrainSettings,
    "method": MethodChoice,
    "deploy": Deploy,
}
MAX_ROWS = 100_000
SEEDS = "seeds"


def read(path: str | Path) -> tuple[Recipe, ...]:
    """The recipes of a grid, each once, in the order of the file.

    Raises:
        UserError: unreadable, or a mistake, in one line that names the key.
    """
    return expand(recipes.read_toml(Path(path)), str(path))


def expand(table: Mapping[str, Any], where: str) -> tuple[Recipe, ...]:
    """The recipes of a grid that a TOML file's tables state."""
    sections = {name: _section(name, value, where) for name, value in table.items()}
    count = 1
    for variants in sections.values():
        count *= len(variants)
    if not 0 < count <= MAX_ROWS:
        raise UserError(f"{where} states {count} rows: state from 1 to {MAX_ROWS}")
    rows = []
    for chosen in itertools.product(*sections.values()):
        one = dict(zip(sections, chosen, strict=True))
        seeds = None
        if isinstance(one.get("deploy"), Mapping):
            one["deploy"] = dict(one["deploy"])
            seeds = _seeds(one["deploy"].pop(SEEDS, None), where)
        row = recipes.from_table(one, where)
        if seeds is not None and row.seed not in seeds:
            row = replace(row, deploy=None)
        rows.append(row)
    unique = {repr(row): row for row in rows}
    return tuple(unique.values())


def _seeds(value: Any, where: str) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise UserError(f"{where}, [deploy]: seeds should be a list of whole numbers")
    return value


def _section(name: str, value: Any, where: str) -> list[Any]:
    """All that one top-level key may be: values, or tables without lists."""
    several = value if isinstance(value, list) else [value]
    if not several:
        raise UserError(f"{where}: {name} is an empty list")
    if name not in RECORDS:
        return several
    variants: list[Any] = []
    for each in several:
        variants += _variants(name, each, where) if isinstance(each, Mapping) else [each]
    return variants


def _variants(name: str, table: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The combinations of the lists in a table."""
    kinds = kinds_of(RECORDS[name])
    axes: list[list[tuple[str, Any]]] = []
    for key, value in table.items():
        kind = kinds.get(key, "")
        if kind == KINDS[OPTIONS] and isinstance(value, Mapping):
            choices: list[Any] = _options(value)
        elif isinstance(value, list) and key != SEEDS and _is_axis(value, kind):
            choices = value
        else:
            choices = [value]
        if not choices:
            raise UserError(f"{where}, [{name}]: {key} is an empty list")
        axes.append([(key, choice) for choice in choices])
    return [dict(chosen) for chosen in itertools.product(*axes)]


def _options(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    axes = [
        [(key, each) for each in (value if isinstance(value, list) else [value])]
        for key, value in table.items()
    ]
    return [dict(chosen) for chosen in itertools.product(*axes)]


def _is_axis(value: list[Any], kind: str) -> bool:
    """Whether a list has values in turn; where a list is the value, a list of lists has them."""
    return kind not in ELEMENTS or (bool(value) and all(isinstance(each, list) for each in value))
