"""Recipes: every mistake names its key, the key of a row is of what it depends on."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, to_json
from prunedeploy.sparsify import recipe as recipes
from prunedeploy.sparsify.recipe import Recipe, from_table, row_key, to_toml, training_key

TEXT = """
network = "resnet8_digits"
seed = 3
[data]
path = "digits"
hold-out = 100
[train]
epochs = 2
weight-decay = 1e-4
[method]
name = "imp"
sparsity = 0.9
options = { rounds = 2, rewind = 0.5 }
[deploy]
batches = [1, 8]
"""


def table() -> dict[str, object]:
    return tomllib.loads(TEXT)


def test_a_recipe_is_read_and_written(tmp_path: Path) -> None:
    recipe = from_table(table(), "r")
    assert recipe.train.seed == recipe.seed == 3
    assert recipe.train.weight_decay == 1e-4
    assert recipe.method.options == {"rounds": 2, "rewind": 0.5}
    assert recipe.deploy is not None
    assert recipe.deploy.batches == (1, 8)
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe))
    assert recipes.read(file) == recipe
    assert from_json(Recipe, to_json(recipe)) == recipe


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("", "sede", 1, "there is no key 'sede': did you mean seed?"),
        ("", "seed", "a", "seed should be a whole number, found 'a'"),
        ("", "seed", -1, "seed should be from 0"),
        ("", "network", "resnet21", "[network]: no network is called 'resnet21'"),
        ("", "network", {"name": "resnet20", "checkpoint": "no.pt"}, "checkpoint no.pt is no file"),
        ("", "method", [{"name": "omp"}], "several tables [[method]] are a grid"),
        ("", "data", 3, "[data] should be a table, found 3"),
        ("data", "pth", "x", "[data]: there is no key 'pth': did you mean path?"),
        ("data", "mean", [0.5, "a"], "[data]: mean should be a list of numbers"),
        ("data", "limit", True, "[data]: limit should be a whole number, found True"),
        ("train", "lr", "high", "[train]: lr should be a number, found 'high'"),
        ("train", "seed", 1, "[train]: there is no key 'seed'"),
        ("train", "schedule", "cosin", "[train]: no schedule is called 'cosin'"),
        ("train", "epochs", 0, "[train]: epochs"),
        ("method", "name", "snap!", "[method]: no method is called 'snap!'"),
        ("method", "sparsity", 1, "[method]: sparsity should be from 0 to below 1"),
        ("method", "options", {"rounds": [1]}, "[method]: options.rounds should be a plain value"),
        ("deploy", "target", "jetsn", "[deploy]: "),
        ("deploy", "runtimes", ["oort"], "[deploy]: there is no runtime 'oort'"),
        ("deploy", "predict", True, "[deploy]: predict is for a target with figures"),
        ("deploy", "batches", [0], "[deploy]: name a runtime, and batches and rounds from 1"),
        ("deploy", "remote", "me@nano", "[deploy]: host is this machine"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    section: str, key: str, value: object, said: str
) -> None:
    changed = table()
    inner = changed[section] if section else changed
    assert isinstance(inner, dict)
    inner[key] = value
    with pytest.raises(UserError) as caught:
        from_table(changed, "r.toml")
    assert str(caught.value).startswith("r.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["network", "data", "train", "method"])
def test_what_is_missing_is_named(name: str) -> None:
    changed = table()
    del changed[name]
    with pytest.raises(UserError, match=f"r: {name} is missing"):
        from_table(changed, "r")


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        recipes.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("network = ")
    with pytest.raises(UserError, match="cannot read the recipe"):
        recipes.read(tmp_path / "bad.toml")


def test_the_key_depends_on_all_that_the_row_does() -> None:
    recipe = from_table(table(), "r")
    assert recipe.deploy is not None
    changes = [
        recipe,
        replace(recipe, train=replace(recipe.train, lr=0.2)),
        replace(recipe, train=replace(recipe.train, seed=4)),
        replace(recipe, method=replace(recipe.method, sparsity=0.95)),
        replace(recipe, method=replace(recipe.method, options={})),
        replace(recipe, network=replace(recipe.network, name="resnet20")),
        replace(recipe, deploy=replace(recipe.deploy, batches=(1,))),
        replace(recipe, deploy=None),
    ]
    assert len({row_key(each, "data") for each in changes}) == len(changes)
    assert len({training_key(each, "data") for each in changes}) == len(changes) - 2
    assert row_key(recipe, "data") != row_key(recipe, "other data")


def test_the_key_is_of_the_data_not_of_their_path(tmp_path: Path) -> None:
    recipe = from_table(table(), "r")
    moved = replace(recipe, data=replace(recipe.data, path="elsewhere"))
    assert row_key(moved, "data") == row_key(recipe, "data")
    keys = set()
    for content in (b"one", b"other"):
        file = tmp_path / content.decode()
        file.write_bytes(content)
        network = replace(recipe.network, checkpoint=str(file))
        keys.add(row_key(replace(recipe, network=network), "data"))
    assert len(keys) == 2
