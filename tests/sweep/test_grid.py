"""Grids: lists in the place of values, tables that stand several times, mistakes."""

from __future__ import annotations

import tomllib

import pytest

from prunedeploy import UserError
from prunedeploy.sparsify.recipe import Recipe
from prunedeploy.sweep.grid import expand

BASE = """
network = "resnet8_digits"
seed = [0, 1]
[data]
path = "digits"
mean = [0.5]
std = [0.3]
[train]
epochs = [1, 2]
"""


def grid(text: str) -> tuple[Recipe, ...]:
    return expand(tomllib.loads(BASE + text), "g")


def test_every_combination_of_lists_and_each_table() -> None:
    rows = grid("""
[[method]]
name = "dense"
[[method]]
name = ["snip", "snap"]
sparsity = [0.5, 0.9]
options = { shuffle = [true, false] }
""")
    assert len(rows) == 2 * 2 * (1 + 2 * 2 * 2)
    assert len({repr(row) for row in rows}) == len(rows)
    assert [row.seed for row in rows] == [0] * 18 + [1] * 18  # the first key is the outermost
    assert rows[0].method.name == "dense"
    assert rows[0].data.mean == (0.5,)  # a list of numbers is the value there


def test_a_list_of_lists_where_a_list_is_the_value() -> None:
    rows = grid("""
[method]
name = "dense"
[deploy]
batches = [[1], [1, 8]]
runtimes = ["ort"]
seeds = [1]
""")
    batches = [row.deploy.batches for row in rows if row.deploy is not None]
    assert batches == [(1,), (1, 8)] * 2
    assert {row.seed for row in rows if row.deploy is None} == {0}
    assert len(rows) == 2 + 4  # what does not deploy is one row, whatever would be measured


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[method]\nname = []", "g, [method]: name is an empty list"),
        ('[method]\nname = "dens"', "no method is called 'dens'"),
        ('[method]\nname = "snip"\nsparsity = [0.5, "x"]', "[method]: sparsity should be a number"),
        (
            '[method]\nname = "snip"\noptions = { shuffle = [] }',
            "[method]: options is an empty list",
        ),
        ('[method]\nname = "dense"\n[deploy]\nseeds = 1', "seeds should be a list of whole"),
        ("method = 3", "[method] should be a table, found 3"),
        ("method = []", "method is an empty list"),
    ],
)
def test_mistakes_are_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        expand({**tomllib.loads(BASE), **tomllib.loads(text)}, "g")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_without_end_is_refused() -> None:
    seeds = ", ".join(map(str, range(100_001)))
    table = tomllib.loads(f"seed = [{seeds}]\n" + BASE.replace("seed = [0, 1]", ""))
    table["method"] = {"name": "dense"}
    with pytest.raises(UserError, match="state from 1 to 100000"):
        expand(table, "g")
