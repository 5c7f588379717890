"""The machines that engines are built for, one record each, and which of them is this one."""

from __future__ import annotations

import difflib

from prunedeploy.core.errors import UserError
from prunedeploy.targets.machine import cores, detected, gpus, host_isa, why_not_here
from prunedeploy.targets.table import TARGETS
from prunedeploy.targets.target import ISA_FLAGS, LANES, PRECISIONS, Peak, Target, Toolchain
from prunedeploy.targets.user import user_targets

__all__ = [
    "ISA_FLAGS", "LANES", "PRECISIONS", "TARGETS", "Peak", "Target", "Toolchain", "by_name",
    "cores", "gpus", "host_isa", "targets", "why_not_here",
]  # fmt: skip


def targets() -> tuple[Target, ...]:
    """All targets: the host, as this machine was detected to be, those of the table, the user's.

    Raises:
        UserError: the user's file cannot be read (see ``targets/user.py``).
    """
    known = (detected(target) if target.name == "host" else target for target in TARGETS)
    return (*known, *user_targets())


def by_name(name: str) -> Target:
    """The target called ``name``, or known by it as an alias.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    known = targets()
    for target in known:
        if name == target.name or name in target.aliases:
            return target
    names = [alias for target in known for alias in (target.name, *target.aliases)]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    raise UserError(f"there is no target {name!r}: {hint}")
