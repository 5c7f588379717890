"""Elements of other types than float32: how they are loaded, stored and turned into one another.

In the arena all is float32; the caller's arrays may hold integers and truth values.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32
from prunedeploy.runtimes.sparse.plan.views import Dtype


@dataclass(frozen=True)
class Type:
    """A type of elements: its bytes, its name in PTX, and the kind of register that holds it."""

    size: int
    ptx: str
    register: str


TYPES: dict[Dtype, Type] = {
    "float32": Type(4, "f32", "f32"),
    "int64": Type(8, "s64", "u64"),
    "int32": Type(4, "s32", "u32"),
    "uint8": Type(1, "u8", "u32"),
    "bool": Type(1, "u8", "u32"),
}


def load(entry: Entry, address: str, dtype: Dtype) -> str:
    """A register with the element at ``address``, which nobody writes meanwhile."""
    kind = TYPES[dtype]
    value = entry.register(kind.register)
    entry.add(f"ld.global.nc.{kind.ptx} {value}, [{address}]")
    return value


def store(entry: Entry, address: str, dtype: Dtype, value: str) -> None:
    """Write a register of this type to ``address``."""
    entry.add(f"st.global.{TYPES[dtype].ptx} [{address}], {value}")


def converted(entry: Entry, value: str, source: Dtype, target: Dtype) -> str:
    """A register with ``value`` as another type: towards zero, and true for all but zero."""
    if source == target:
        return value
    old, new = TYPES[source], TYPES[target]
    if target == "bool":
        holds, result = entry.register("pred"), entry.register("u32")
        zero = f32(0) if source == "float32" else "0"
        # NaN counts as true, as in C
        relation = "neu" if source == "float32" else "ne"
        kind = "u32" if old.ptx == "u8" else old.ptx
        entry.add(
            f"setp.{relation}.{kind} {holds}, {value}, {zero}", f"selp.u32 {result}, 1, 0, {holds}"
        )
        return result
    result = entry.register(new.register)
    from_ = "u32" if old.ptx == "u8" else old.ptx
    to = "s32" if new.ptx == "u8" else new.ptx  # the store takes the low bits
    if from_.strip("us") == to.strip("us"):
        entry.add(f"mov.b{to.strip('us')} {result}, {value}")
        return result
    rounding = ".rn" if target == "float32" else ".rzi" if source == "float32" else ""
    entry.add(f"cvt{rounding}.{to}.{from_} {result}, {value}")
    return result
