"""Finds the weight that a mask belongs to, by the names of both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

Words = tuple[str, ...]

MASK = frozenset(("mask", "masks"))
# What names of masks have beside the name of the weight, in the tools that write them.
DECORATION = MASK | frozenset(
    (
        *("binary", "bool", "boolean", "mma", "prune", "pruned", "pruner", "pruning"),
        *("sparse", "sparsity", "sparsifier", "dict", "state", "buffer", "ctx", "list", "by"),
        *("name", "param", "params", "layer", "layers", "element", "filter", "channel", "nm"),
        *(
            "score",
            "scores",
            "hook",
            "bit",
            "bits",
            "packed",
            "keep",
            "kept",
            "alive",
            "active",
            "fixed",
        ),
    )
)
# Masks that mark what is taken away; those of all known tools mark what stays.
INVERTED = frozenset(("pruned", "dropped", "drop", "removed", "remove", "zero", "zeros", "zeroed"))
# A mask whose name has no border between its parts: bitmask, weightmask, mask24.
INNER_MASK = re.compile(r"(?<=[a-z])(?<!^un)(?=masks?$)|(?<=^mask)(?=\d)|(?<=^masks)(?=\d)")
# NNCF keeps masks as operations of the layer.
OPERATION = re.compile(r"(?:^|\.)(?:pre_ops|post_ops)\.[^.]+\.op(?=\.|$)")
NO_WEIGHT = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Target:
    """The weight that a mask was found to belong to.

    ``explicit`` is True where the mask's name mentions the parameter itself, not only its layer.
    ``prefix`` is what one of the two names alone has in front of what they have in common.
    """

    name: str
    explicit: bool
    prefix: Words = ()

    @property
    def numbered(self) -> bool:
        """Whether the layer has a number alone for its name."""
        return all(part.isdecimal() for part in words(self.name)[:-1])


def words(name: str) -> Words:
    """The parts of a name in lower case: at dots, underscores and inner capitals.

    ``module``, which wrappers put into names, does not count.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", ".", OPERATION.sub("", name))
    parts = re.split(r"[^A-Za-z0-9]+", name.lower())
    parts = [inner for part in parts for inner in INNER_MASK.split(part)]
    return tuple(part for part in parts if part and part != "module")


def is_mask_key(key: str) -> bool:
    """Whether a key says of itself that masks are under it: ``mask_dict``, ``c1.weight_mask``; not
    ``mask_head``, which is a part of networks that compute masks of images."""
    parts = words(key)
    if not MASK & set(parts):
        return False
    last = set(words(key.rpartition(".")[2]))
    named = bool(MASK & last) and last - MASK <= {"weight", "bias"}
    return parts[-1] in MASK or DECORATION.issuperset(parts) or named


class Index:
    """The weights of a state_dict, to be found by the name of their mask."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._exact: dict[Words, list[str]] = {}
        self._ends: dict[Words, list[tuple[Words, str]]] = {}
        for name, tensor in state.items():
            if not tensor.is_floating_point() or not tensor.dim() or name.endswith(NO_WEIGHT):
                continue
            key = words(name)
            if not key:  # dots alone
                continue
            self._exact.setdefault(key, []).append(name)
            self._ends.setdefault(key[-2:], []).append((key, name))

    def mentioned(self, name: str) -> Iterator[str]:
        """The weights whose layer's name is in ``name``."""
        spelled = f".{'.'.join(words(name))}."
        for (*layer, last), names in self._exact.items():
            inside = f".{'.'.join(layer)}." in spelled
            if last == "weight" and layer and not layer[-1].isdecimal() and inside:
                yield from names

    def find(self, name: str, prefixes: bool = False, among: bool = False) -> Target | None:
        """The weight that a mask called ``name`` belongs to, or None when there is no telling.

        Args:
            name: of the mask, dots between its parts.
            prefixes: whether one of the names may have a prefix that the other has not.
            among: whether the mask is an entry of the state_dict itself, and not its own weight.
        """
        forms = list(_forms(name))
        for form, explicit in forms:
            if names := [x for x in self._exact.get(form, ()) if not among or x != name]:
                return Target(names[0], explicit) if len(names) == 1 else None
        for form, explicit in forms if prefixes else ():
            ends = [x for x in self._ends.get(form[-2:], ()) if not among or x[1] != name]
            # the weight has the prefix, or the mask has: then the longest weight is meant
            longer = [(key, weight) for key, weight in ends if key[-len(form) :] == form]
            shorter = [(key, weight) for key, weight in ends if form[-len(key) :] == key]
            if len(longer) == 1 and not shorter:
                (key, weight), *_ = longer
                return Target(weight, explicit, key[: -len(form)])
            if shorter and not longer:
                key, weight = max(shorter, key=lambda pair: len(pair[0]))
                return Target(weight, explicit, form[: -len(key)])
            if longer or shorter:
                return None
        return None


@dataclass(frozen=True)
class LeftOut:
    """The ``names`` of the weights that are left out of a set, and the index of all of it by the
    names in the file: what tells their masks from those of the weights that are taken."""

    index: Index
    names: frozenset[str]

    def has(self, target: Target | None) -> bool:
        """Whether what a mask was found to belong to is left out."""
        return target is not None and target.name in self.names


def _forms(name: str) -> Iterator[tuple[Words, bool]]:
    """Possible names of the weight, and whether the mask's name contains the parameter's."""
    parts = words(name)
    begin, end = 0, len(parts)
    while end > begin and parts[end - 1] in DECORATION:
        end -= 1
    while begin < end and parts[begin] in DECORATION:
        begin += 1
    components = [words(part) for part in OPERATION.sub("", name).split(".")]
    forms = [parts]
    if parts and parts[-1] in MASK:
        forms.append(parts[:-1])
    for at, component in enumerate(components):
        if MASK & set(component):
            left = tuple(word for word in component if word not in MASK)
            forms.append(tuple(chain(*components[:at], left, *components[at + 1 :])))
    forms.append(parts[begin:end])
    yield from ((form, True) for form in forms if form)
    yield from (((*form, "weight"), False) for form in forms)
