"""Iterators over the graphs, nodes and tensors of an ONNX model in its protobuf form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import onnx

Graph: TypeAlias = onnx.GraphProto
Node: TypeAlias = onnx.NodeProto
STANDARD = ("", "ai.onnx")


def graphs(graph: Graph) -> Iterator[Graph]:
    """``graph`` and every graph inside of its nodes."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def bodies(node: Node) -> Iterator[Graph]:
    """The bodies and branches of one node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def inner_graphs(node: Node) -> Iterator[Graph]:
    """The bodies and branches of one node, and the graphs inside of those."""
    for body in bodies(node):
        yield from graphs(body)


def all_graphs(model: onnx.ModelProto) -> Iterator[Graph]:
    """Every graph of the model, those inside of its functions included."""
    yield from graphs(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from inner_graphs(node)


def all_nodes(model: onnx.ModelProto) -> Iterator[Node]:
    """Every node of the model, those of functions included."""
    for graph in all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def attribute_tensors(node: Node) -> Iterator[onnx.TensorProto]:
    """The tensors among a node's own attributes; those of its subgraphs are their graphs'."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
    for each in sparse_attributes(node):
        yield from (each.values, each.indices)


def sparse_attributes(node: Node) -> Iterator[onnx.SparseTensorProto]:
    """The sparse tensors among a node's own attributes."""
    for attribute in node.attribute:
        yield from attribute.sparse_tensors
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor


def graph_tensors(graph: Graph) -> Iterator[onnx.TensorProto]:
    """A graph's initializers, the parts of sparse ones included."""
    yield from graph.initializer
    for each in graph.sparse_initializer:
        yield from (each.values, each.indices)


def label(node: Node) -> str:
    """How messages name a node."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    name = node.name or next(iter(node.output), "")
    return f"{operator} ({name})" if name else operator


class InvalidError(Exception):
    """The model is not valid ONNX; the message says what is wrong and where."""
