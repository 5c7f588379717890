"""How the names in a file are to be read: prefixes, and parts of the file that are not the network.

Training scripts save what trains with the network: a loss with weights of its own, an average of
the weights, a teacher. A part is only left out where the rest is all of the network, what it is
called says that it is something else, and the user is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prunedeploy.checkpoint.naming import words
from prunedeploy.core.errors import UserError

DEPTH = 3  # parts of a prefix
SHOWN = 3
COUNTER = "num_batches_tracked"
AVERAGE = frozenset(("ema", "average", "averaged", "shadow"))
# What a part of a file is called that is no part of the network that is run.
OTHER_PARTS = AVERAGE | frozenset(
    (
        *("criterion", "criteria", "loss", "losses", "metric", "metrics", "acc", "accuracy"),
        *("auroc", "teacher"),
    )
)
ORIGINAL = re.compile(r"parametrizations\.([^.]+)\.original[01]?$")
PARAMETRIZED = re.compile(r"parametrizations\.[^.]+\.")


@dataclass(frozen=True)
class Reading:
    """Names without ``prefix``; those that do not begin with it are left out, as are those under
    ``without``. ``inside`` drops ``module.`` inside of names, too."""

    prefix: str = ""
    inside: bool = False
    without: frozenset[str] = frozenset()

    def aliases(self, names: Iterable[str]) -> dict[str, str]:
        """Each name that is not left out, to how it is read."""
        plain_names = {}
        for name in names:
            plain = name.replace(".module.", ".") if self.inside else name
            if plain.startswith(self.prefix) and _first(plain) not in self.without:
                plain_names[name] = plain.removeprefix(self.prefix)
        return plain_names

    def note(self, names: Iterable[str]) -> str | None:
        """A description of the parts of ``names`` that are left out."""
        names = list(names)
        kept = self.aliases(names)
        left = [name for name in names if name not in kept]
        if not left:
            return None
        parts = dict.fromkeys(_other_part(name, self.prefix) for name in left)
        shown = ", ".join(list(parts)[:SHOWN]) + (", ..." if len(parts) > SHOWN else "")
        begin = f"weights whose names begin with {self.prefix}; " if self.prefix else ""
        return f"{begin}left out: {shown} ({len(left)} tensors)"


def of_all(names: Iterable[str]) -> list[Reading]:
    """Ways to read all names: as they are, without ``module.`` inside, without a common prefix."""
    names = list(names)
    readings = [Reading()]
    plain = [name.replace(".module.", ".") for name in names]
    inside = plain != names and len(set(plain)) == len(names)
    if inside:
        readings.append(Reading("", True))
        names = plain
    prefix = ""
    while names:
        head, dot, _ = names[0].removeprefix(prefix).partition(".")
        if not dot or not all(name.startswith(f"{prefix}{head}.") for name in names):
            break
        prefix += f"{head}."
        readings.append(Reading(prefix, inside))
    return readings


def choose(names: Iterable[str], fits: Callable[[Reading], bool]) -> Reading | None:
    """The reading that is all of a network, or None where there is none.

    Raises:
        UserError: several parts are such, and none of them is an average of the other.
    """
    names = list(names)
    for reading in of_all(names):
        if fits(reading):
            return reading
    fitting = (reading for reading in _parts(names) if fits(reading))
    parts = list({frozenset(reading.aliases(names)): reading for reading in fitting}.values())
    if len(parts) > 1:
        parts = [x for x in parts if not AVERAGE & set(words(x.prefix))] or parts
    if len(parts) > 1:
        shown = ", ".join(reading.prefix.removesuffix(".") for reading in parts)
        raise UserError(f"holds several sets of weights ({shown}): name one with --weights")
    return parts[0] if parts and _is_all(parts[0], names) else None


def for_names(names: Iterable[str], wanted: set[str]) -> Reading:
    """The reading for a network whose state_dict has the names ``wanted``: where none is all of it,
    the one with the most of them.

    Raises:
        UserError: as ``choose``.
    """
    names = list(names)
    chosen = choose(names, whole_for(names, wanted))
    if chosen is not None:
        return chosen
    plain = _plain(wanted)
    return max(of_all(names), key=lambda x: len(_plain(x.aliases(names).values()) & plain))


def advice(names: Iterable[str], fits: Callable[[Reading], bool]) -> str | None:
    """Advice where one part of the file alone is the network."""
    for reading in _parts(list(names)):
        if reading.prefix and fits(reading):
            prefix = reading.prefix.removesuffix(".")
            return f"those under {prefix} fit alone: take them with --weights {prefix}"
    return None


def whole_for(names: Iterable[str], wanted: set[str]) -> Callable[[Reading], bool]:
    """Whether a reading of ``names`` is all of a network with the names ``wanted``."""
    names = list(names)
    return lambda reading: _is_whole(reading, names, wanted)


def _parts(names: list[str]) -> Iterator[Reading]:
    """Readings that leave out a part."""
    besides = frozenset(head for name in names if OTHER_PARTS & set(words(head := _first(name))))
    for inside in (False, True):
        plain = [name.replace(".module.", ".") if inside else name for name in names]
        if inside and (plain == names or len(set(plain)) != len(names)):
            return
        prefixes = dict.fromkeys(
            ".".join(parts[:depth]) + "."
            for parts in (name.split(".") for name in plain)
            for depth in range(1, min(DEPTH, len(parts) - 1) + 1)
        )
        readings = [Reading("", inside, besides)] if besides else []
        for reading in (*readings, *(Reading(prefix, inside) for prefix in prefixes)):
            if 0 < len(reading.aliases(names)) < len(names):
                yield reading


def _is_all(reading: Reading, names: list[str]) -> bool:
    """Whether what is left out is called something that is no part of a network."""
    kept = reading.aliases(names)
    left = {_other_part(name, reading.prefix) for name in names if name not in kept}
    return all(OTHER_PARTS & set(words(part)) for part in left)


def _other_part(name: str, prefix: str) -> str:
    """The part of the file that a name belongs to, beside the one under ``prefix``."""
    parts, others = name.split("."), prefix.split(".")
    same = 0
    while same < min(len(parts), len(others)) - 1 and parts[same] == others[same]:
        same += 1
    return ".".join(parts[: same + 1])


def _is_whole(reading: Reading, names: list[str], wanted: set[str]) -> bool:
    have, want = _plain(reading.aliases(names).values()), _plain(wanted)
    return have <= want and all(
        name in have or name.endswith((COUNTER, "_mask", ".mask")) for name in want
    )


def _plain(names: Iterable[str]) -> set[str]:
    """Names of weights, whatever they are computed from; counters of BatchNorm do not count."""
    names = set(names)
    plain = set()
    for name in names:
        if name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in names:
            plain.add(name.removesuffix("_orig"))
        elif ORIGINAL.search(name):
            plain.add(ORIGINAL.sub(r"\1", name))
        elif not PARAMETRIZED.search(name) and not name.endswith(COUNTER):
            plain.add(name)
    return plain


def _first(name: str) -> str:
    return name.partition(".")[0]
