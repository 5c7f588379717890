"""Every version of every operator is in a table, or refused on purpose."""

from __future__ import annotations

import onnx
import pytest

from prunedeploy.graph.schemas import schema
from prunedeploy.passes.opset import OLDEST
from prunedeploy.passes.opset.rules import DEFINED, NO_OLDER_FORM, RULES
from prunedeploy.passes.opset.widened import NEWEST, WIDENED

VERSIONS = [
    (each.name, each.since_version)
    for each in onnx.defs.get_all_schemas_with_history()
    if each.domain == "" and OLDEST < each.since_version <= NEWEST
]


def places(op: str, opset: int) -> int:
    tables = (WIDENED, DEFINED, NO_OLDER_FORM)
    return sum(op in table.get(opset, ()) for table in tables) + ((op, opset) in RULES)


def test_every_version_of_every_operator_is_in_one_table() -> None:
    assert len(VERSIONS) > 300
    assert [pair for pair in VERSIONS if places(*pair) != 1] == []


def test_the_tables_name_no_other() -> None:
    named = {
        (op, n) for table in (WIDENED, DEFINED, NO_OLDER_FORM) for n in table for op in table[n]
    }
    assert (named | set(RULES)) - set(VERSIONS) == set()


@pytest.mark.parametrize(
    ("op", "opset"), [(op, n) for n, ops in WIDENED.items() for op in sorted(ops)]
)
def test_what_is_widened_was_there_before(op: str, opset: int) -> None:
    """With the same attributes and inputs; those that are new may be left out."""
    newer, older = schema(op, opset), schema(op, opset - 1)
    assert newer is not None
    assert older is not None
    assert newer.since_version == opset
    assert set(older.attributes) <= set(newer.attributes)
    assert newer.min_input <= older.max_input
    for name, attribute in newer.attributes.items():
        if name in older.attributes:
            assert attribute.default_value == older.attributes[name].default_value
        else:
            assert not attribute.required
