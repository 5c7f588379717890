"""Reads the processor time that a control group (a container's CPU limit) grants this process.

``runtimes/sparse/c/processors.h`` reads the same files for programs that embed an engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float:
    """Processors' worth of time, the least of all groups that this process is in.

    Args:
        root: where control groups are mounted.
        own: the list of the process's groups, ``hierarchy:controllers:path`` a line. In a container
            that does not see its own place in the tree the paths are not there, and what lies at
            the root counts alone.

    Returns:
        A number above 0; infinity where there is no limit.
    """
    return min((_limit(folder) for folder in _folders(root, own)), default=math.inf)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """The process's groups and all those around them."""
    yield root
    try:
        lines = own.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) < 3:
            continue
        controllers, path = parts[1], PurePosixPath(parts[2].lstrip("/"))
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / controllers if controllers else root
        yield from (mounted / part for part in (path, *path.parents))


def _limit(folder: Path) -> float:
    """Version 2 keeps quota and period in one file, version 1 in two; in microseconds."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return limit if limit > 0 else math.inf
