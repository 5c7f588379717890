"""The two collections of networks by name, for the process that asks and the one that answers."""

from __future__ import annotations

from peers.case import Case, Spec
from peers.catalogue import PATTERNS
from peers.networks import ARCHITECTURES

COLLECTIONS: dict[str, tuple[Spec, ...]] = {
    "patterns": PATTERNS,
    "architectures": ARCHITECTURES,
}


def keys(collection: str, only: str = "") -> list[str]:
    """``name @ regime`` of every case whose name holds ``only``."""
    specs = [spec for spec in COLLECTIONS[collection] if only in spec.name]
    return [f"{spec.name} @ {regime}" for spec in specs for regime in spec.regimes]


def case(collection: str, key: str) -> Case:
    """Make one case."""
    name, regime = key.split(" @ ")
    spec = next(spec for spec in COLLECTIONS[collection] if spec.name == name)
    return spec.case(regime)
