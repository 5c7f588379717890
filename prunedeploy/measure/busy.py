"""How busy the machine is with other work, before a measurement begins."""

from __future__ import annotations

import time
from pathlib import Path

STAT = Path("/proc/stat")
SECONDS = 0.3  # that the processors are watched
NOTABLE = 0.15  # a share from which on times are visibly longer


def busy_share(seconds: float = SECONDS, stat: Path = STAT) -> float | None:
    """The share of all processors' time that was used while this process waited ``seconds``.

    From the first line of ``/proc/stat`` (proc(5)): user, nice, system, idle, iowait, ... in ticks.
    None where the system does not say.
    """
    before = _ticks(stat)
    time.sleep(seconds)
    after = _ticks(stat)
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _ticks(stat: Path) -> tuple[int, int] | None:
    """Ticks that were used, and all ticks, since the machine started."""
    try:
        fields = stat.read_text().splitlines()[0].split()
        ticks = [int(field) for field in fields[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    except (OSError, ValueError, IndexError):
        return None
