"""The work of one node of an ONNX graph: how many multiply-accumulates it takes.

Every figure of multiply-accumulates (MACs) of an ONNX model comes from here: the sizes that reports
print, the layers that ``inspect`` shows, the cost of variants, and the predictions. Zeros count
like any other weight. Two other counts exist on purpose: ``prunedeploy.graph.layers.module_macs``
counts the modules of a torch network while it runs, and the sparse runtime counts the non-zeros
that the steps of its plan compute with (``prunedeploy.runtimes.sparse.codegen.work``).
"""

from __future__ import annotations

import math

import onnx_ir as ir

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")


def macs(node: ir.Node) -> int:
    """The multiply-accumulates of ``node`` for one sample.

    The first dimension of its output (of its input, for ConvTranspose) is taken to be the batch and
    may be open. Returns 0 for operators other than convolutions, matrix products and recurrent
    layers, and where another dimension is not known.
    """
    if node.op_type in RECURRENT:
        return _of_recurrent(node)
    if node.op_type not in (*CONVOLUTIONS, *PRODUCTS):
        return 0
    weight, swept = node.inputs[1], swept_value(node)
    if weight is None or weight.shape is None or swept is None or swept.shape is None:
        return 0
    elements, kernel = list(swept.shape)[1:], list(weight.shape)
    if not all(isinstance(dim, int) for dim in (*elements, *kernel)):
        return 0
    count = math.prod(dim for dim in elements if isinstance(dim, int))
    sizes = [dim for dim in kernel if isinstance(dim, int)]
    if node.op_type in CONVOLUTIONS:
        return count * math.prod(sizes[1:])
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", False)
    return count * (sizes[-1] if transposed else sizes[-2:][0])  # B may be a vector


def _of_recurrent(node: ir.Node) -> int:
    """Every step multiplies with all weights of the inputs and of the hidden state, W and R."""
    sequence, *weights = node.inputs[:3]
    if sequence is None or sequence.shape is None:
        return 0
    steps = sequence.shape[node.attributes.get_int("layout", 0)]
    if not isinstance(steps, int) or None in weights:
        return 0
    shapes = [list(w.shape) if w is not None and w.shape is not None else [0] for w in weights]
    if not all(isinstance(dim, int) for shape in shapes for dim in shape):
        return 0
    sizes = ([dim for dim in shape if isinstance(dim, int)] for shape in shapes)
    return steps * sum(map(math.prod, sizes))


def swept_value(node: ir.Node) -> ir.Value | None:
    """The value each element of which meets one filter: the output, or ConvTranspose's input."""
    return node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]
