"""A recipe written as the TOML file that it came from, without what is as by default."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from prunedeploy.sparsify.recipe import Recipe
from prunedeploy.sparsify.settings import key_of


def text_of(recipe: Recipe) -> str:
    """The recipe as TOML."""
    lines = [f"seed = {recipe.seed}"]
    if recipe.country:
        lines.append(f"country = {_toml(recipe.country)}")
    for name in ("network", "data", "train", "method", "deploy"):
        record = getattr(recipe, name)
        if record is not None:
            lines += ["", f"[{name}]", *_entries(record)]
    return "\n".join(lines) + "\n"


def _entries(record: Any) -> list[str]:
    lines = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default and field.name != "seed":
            lines.append(f"{key_of(field.name)} = {_toml(value)}")
    return lines


def _toml(value: Any) -> str:
    """A value in TOML: texts and flags are written as JSON has them."""
    if isinstance(value, dict):
        inner = ", ".join(f"{key_of(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
