"""The machines that engines are built for, one row each, and which of them is this one."""

from __future__ import annotations

import difflib

from prunedeploy.core.errors import UserError
from prunedeploy.targets.machine import cores, detected, gpus, host_isa, why_not_here
from prunedeploy.targets.row import ISA_FLAGS, LANES, PRECISIONS, Peak, Target, Toolchain
from prunedeploy.targets.table import TARGETS
from prunedeploy.targets.user import user_targets

__all__ = [
    "ISA_FLAGS",
    "LANES",
    "PRECISIONS",
    "TARGETS",
    "Peak",
    "Target",
    "Toolchain",
    "by_name",
    "cores",
    "gpus",
    "host_isa",
    "targets",
    "why_not_here",
]


def targets() -> tuple[Target, ...]:
    """Every row of the table, the host's filled in with what this machine is, then the user's.

    Raises:
        UserError: the user's file cannot be read (see ``targets/user.py``).
    """
    rows = (detected(row) if row.name == "host" else row for row in TARGETS)
    return (*rows, *user_targets())


def by_name(name: str) -> Target:
    """The target called ``name``, or known by it as an alias.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    rows = targets()
    for row in rows:
        if name == row.name or name in row.aliases:
            return row
    names = [alias for row in rows for alias in (row.name, *row.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    raise UserError(f"there is no target {name!r}: {hint}")
