"""Operators on text, and counts of n-grams."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from prunedeploy.reference.table import Numbers, Table, has, integer, integers, same, text


def _words(x: Numbers) -> list[str]:
    return [w.decode() if isinstance(w, bytes) else str(w) for w in x.reshape(-1).tolist()]


def _array(words: list[str], shape: tuple[int, ...]) -> Numbers:
    return np.array(words, object).reshape(shape)


def stored(tensor: ir.TensorProtocol) -> Numbers:
    """A constant as an array; texts, which are stored as bytes, as ONNX Runtime hands them out."""
    array = tensor.numpy()
    return _array(_words(array), array.shape) if tensor.dtype == ir.DataType.STRING else array


def _concat(_: ir.Node, x: Numbers, y: Numbers) -> Numbers:
    left, right = np.broadcast_arrays(_array(_words(x), x.shape), _array(_words(y), y.shape))
    return np.asarray(left + right, object)


def _split(node: ir.Node, x: Numbers) -> tuple[Numbers, Numbers]:
    """Parts of every text, filled up with empty ones, and how many there were."""
    delimiter = text(node, "delimiter", "") or None
    cuts = integer(node, "maxsplit", -1) if has(node, "maxsplit") else -1
    parts = [word.split(delimiter, cuts) if word or delimiter is None else [] for word in _words(x)]
    longest = max(map(len, parts), default=0)
    flat = [word for each in parts for word in (*each, *[""] * (longest - len(each)))]
    return _array(flat, (*x.shape, longest)), np.array(list(map(len, parts)), np.int64).reshape(
        x.shape
    )


def _full_match(node: ir.Node, x: Numbers) -> Numbers:
    pattern = re.compile(text(node, "pattern", ""), re.ASCII)
    matches = [pattern.fullmatch(word) is not None for word in _words(x)]
    return np.array(matches, bool).reshape(x.shape)


CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


def _normalise(node: ir.Node, x: Numbers) -> Numbers:
    """Remove the stop words and change the case; return one empty text where none is left."""
    change = CASES[text(node, "case_change_action", "NONE")]
    same_case = bool(integer(node, "is_case_sensitive", 0))
    key: Callable[[str], str] = str if same_case else str.lower
    stops = {key(word) for word in node.attributes.get_strings("stopwords", [])}
    left = [change(word) for word in _words(x) if key(word) not in stops] or [""]
    return _array(left, (1, len(left)) if x.ndim == 2 else (len(left),))


def _ngrams(node: ir.Node) -> dict[tuple[Any, ...], int]:
    """The index of each n-gram in the lists of the node."""
    if has(node, "pool_strings"):
        pool: list[Any] = list(node.attributes.get_strings("pool_strings", []))
    else:
        pool = integers(node, "pool_int64s")
    starts = [*integers(node, "ngram_counts"), len(pool)]
    grams: dict[tuple[Any, ...], int] = {}
    for length, (start, end) in enumerate(itertools.pairwise(starts), 1):
        for position in range(start, end, length):
            grams[tuple(pool[position : position + length])] = len(grams)
    return grams


def _tf_idf(node: ir.Node, x: Numbers) -> Numbers:
    """Counts of the n-grams with up to ``max_skip_count`` elements left out between any two."""
    grams, columns = _ngrams(node), integers(node, "ngram_indexes")
    weights = list(node.attributes.get_floats("weights", [])) or [1.0] * len(columns)
    shortest, longest = integer(node, "min_gram_length", 1), integer(node, "max_gram_length", 1)
    mode, skips = text(node, "mode", "TF"), integer(node, "max_skip_count", 0)
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    y = np.zeros((len(rows), max(columns) + 1), np.float32)
    for index, row in enumerate(rows):
        items = _words(row) if row.dtype.kind in "OUS" else [int(i) for i in row]
        # one element has no element left out: it counts once
        steps = [
            (n, s) for n in range(shortest, longest + 1) for s in range(1 if n == 1 else skips + 1)
        ]
        for length, skip in steps:
            span = (length - 1) * (skip + 1)
            for start in range(len(items) - span):
                gram = tuple(items[start : start + span + 1 : skip + 1])
                if (position := grams.get(gram)) is not None:
                    y[index, columns[position]] += 1
    scale = np.ones(y.shape[1], np.float32)
    for column, weight in zip(columns, weights, strict=True):
        scale[column] = weight
    if mode == "IDF":
        y = np.minimum(y, 1) * scale
    elif mode == "TFIDF":
        y = y * scale
    elif mode != "TF":
        raise ValueError(f"mode {mode!r} is not known")
    return y if x.ndim == 2 else y.reshape(-1)


TABLE: Table = {
    "RegexFullMatch": same(_full_match, 20),
    "StringConcat": same(_concat, 20),
    "StringNormalizer": same(_normalise, 10),
    "StringSplit": same(_split, 20),
    "TfIdfVectorizer": same(_tf_idf, 9),
}
