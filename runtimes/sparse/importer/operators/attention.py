"""Attention as one operator (opset 23), taken apart into products that views feed."""

from __future__ import annotations

import math

import numpy as np

from prunedeploy.runtimes.sparse.importer.expr import Expr, number
from prunedeploy.runtimes.sparse.importer.graph import SoftmaxOp, Tensor, constant
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer


def attention(call: Call) -> Tensor:
    """softmax(scale Q K' + mask) V; queries in groups may share keys and values.

    Heads are axes (keys and values, queries of a group), so that sharing is broadcasting.
    """
    if any(call.optional(index) is not None for index in (4, 5, 6)):
        raise call.refuse("keys and values of the past are not known")
    if call.number("softcap", 0.0):
        raise call.refuse("softcap is not known")
    if any(f"{side}_window_size" in call.node.attributes for side in ("left", "right")):
        raise call.refuse("a window of keys is not known")  # it came with opset 25
    build = call.build
    queries, keys, values = (call.real(index) for index in range(3))
    flat = queries.rank == 3
    if flat:
        queries = _heads(call, queries, call.integer("q_num_heads", 0))
        keys, values = (_heads(call, x, call.integer("kv_num_heads", 0)) for x in (keys, values))
    batch, heads, length, size = queries.shape
    shared = keys.shape[1]
    if not shared or heads % shared:
        raise call.refuse(f"{heads} heads of queries do not share {shared} of keys")
    split = build.reshape(queries, (batch, shared, heads // shared, length, size))
    right = build.transpose(keys, (0, 1, 3, 2))
    right, last = (build.reshape(x, (*x.shape[:2], 1, *x.shape[2:])) for x in (right, values))
    scale = call.number("scale", 1.0 / math.sqrt(size))
    scores = Expr("mul", (build.operand(build.matmul(split, right)), number(scale)))
    whole = (batch, shared, heads // shared, length, keys.shape[2])
    for mask in _masks(call, whole):
        scores = Expr("add", (scores, build.operand(mask)))
    softmax = SoftmaxOp(build.name, [build.elementwise(scores, whole)], Tensor(whole), 4, False)
    y = build.matmul(build.add(softmax), last)
    y = build.reshape(y, (batch, heads, length, values.shape[3]))
    if not flat:
        return y
    y = build.transpose(y, (0, 2, 1, 3))
    return build.reshape(y, (batch, length, heads * values.shape[3]))


def _heads(call: Call, x: Tensor, heads: int) -> Tensor:
    if not heads or x.shape[2] % heads:
        raise call.refuse("its numbers of heads do not fit")
    parted = call.build.reshape(x, (*x.shape[:2], heads, x.shape[2] // heads))
    return call.build.transpose(parted, (0, 2, 1, 3))


def _masks(call: Call, whole: tuple[int, ...]) -> list[Tensor]:
    """The tensors that are added to the scores: the mask given, and the causal one."""
    build, masks = call.build, []
    mask = call.optional(3)
    if mask is not None:
        if mask.shape[-1] != whole[4]:
            raise call.refuse("its mask is shorter than the keys")
        wide = build.reshape(mask, (1,) * (4 - mask.rank) + mask.shape)
        heads = wide.shape[1]
        parts = whole[1:3] if heads > 1 else (1, 1)
        wide = build.reshape(wide, (wide.shape[0], *parts, *wide.shape[2:]))
        if mask.dtype == "bool":
            kept = Expr("where", (build.operand(wide), number(0.0), number(-math.inf)))
            wide = build.elementwise(kept, wide.shape)
        masks.append(wide)
    if call.integer("is_causal", 0):
        ahead = np.triu(np.ones(whole[3:], bool), 1)
        masks.append(constant(np.where(ahead, -np.inf, 0).astype(np.float32)))
    return masks


TABLE: dict[str, Importer] = {"Attention": attention}
