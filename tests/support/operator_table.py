"""``docs/operators.md``: every operator of the ONNX standard, and what each part knows of it.

``python tests/support/operator_table.py`` writes the file anew.
"""

from __future__ import annotations

from pathlib import Path

import onnx.defs

from prunedeploy.passes.operators.operator import Operator
from prunedeploy.passes.operators.table import OPAQUE, OPERATORS
from prunedeploy.passes.opset.rules import DEFINED, NO_OLDER_FORM, RULES
from prunedeploy.passes.opset.widened import WIDENED
from prunedeploy.reference import registry
from prunedeploy.runtimes.sparse.importer.operators import TABLE as SPARSE
from prunedeploy.to_torch import layouts
from prunedeploy.to_torch.operators import OPERATORS as ON_TENSORS

TORCH = {*ON_TENSORS, *layouts.LAYOUTS, "Constant"}
FILE = Path(__file__).parents[2] / "docs" / "operators.md"
HEAD = """\
# Operators

This file is written by `tests/support/operator_table.py` from the tables of the code, and a test
fails when the two differ. It lists every operator of the ONNX standard, in its default domain.

- **since**: the opset of the operator's newest version.
- **shrink**: the fields of the operator's record in `passes/operators/` (the class `Operator` says
  what each is for). An operator without a record is *opaque*: it keeps all that it touches. To
  teach the passes an operator, add a record to the file of its family.
- **reference**: the reference evaluator runs it.
- **sparse**: the sparse runtime runs it.
- **PyTorch**: it can be written as a PyTorch program.
- **lowering**: the opsets whose changes to the operator are undone when a model is lowered:
  *12-13* by a rule or by leaving out what is new, *as others* by the operators that define it,
  *no form before* where no older opset has anything that it could become.

| operator | since | shrink | reference | sparse | PyTorch | lowering |
|---|---:|---|---|---|---|---|
"""


def standard() -> dict[str, int]:
    """The operators of the standard's default domain, and the opset of their newest version."""
    schemas = onnx.defs.get_all_schemas()
    return {s.name: s.since_version for s in schemas if not s.domain and not s.deprecated}


def known_fields(record: Operator) -> list[str]:
    """The fields of a record that say something."""
    said = {name: value for name, value in vars(record).items() if value and name != "name"}
    return [name.replace("_", " ") for name in said]


def lowering(name: str) -> str:
    """The opsets of which the operator's changes are undone, and those that nothing undoes."""
    ruled = {opset for operator, opset in RULES if operator == name}
    widened = {opset for opset, names in WIDENED.items() if name in names}
    said = [", ".join(map(str, sorted(ruled | widened)))]
    for table, what in ((DEFINED, "as others"), (NO_OLDER_FORM, "no form before")):
        said += [f"{what} {opset}" for opset, names in table.items() if name in names]
    return "; ".join(filter(None, said))


def table() -> str:
    """The text of the file."""
    lines = []
    for name, since in sorted(standard().items()):
        fields = known_fields(OPERATORS.get(name, OPAQUE))
        evaluated = name in registry.KERNELS or name in registry.BUILDERS
        marks = ["yes" if there else "" for there in (evaluated, name in SPARSE, name in TORCH)]
        cells = [name, str(since), ", ".join(fields) or "opaque", *marks, lowering(name)]
        lines.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    FILE.write_text(table())
