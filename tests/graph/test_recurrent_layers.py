"""The weights of recurrent layers are layers, in ONNX files as in checkpoints."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn

from prunedeploy.graph import preparation
from prunedeploy.graph.layers import module_layers, module_macs, node_layers

# as torch's exporter writes it: the gates of a stored matrix change their order
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[7, n, 6] x) => (float[7, 1, n, 4] y)
<int64[1] a = {0}, int64[1] b = {4}, int64[1] c = {8}, int64[1] d = {12}> {
    reset = Slice (w, a, b)
    update = Slice (w, b, c)
    new = Slice (w, c, d)
    gates = Concat <axis = 0> (update, reset, new)
    W = Unsqueeze (gates, a)
    R = Unsqueeze (r, a)
    y = GRU <hidden_size = 4> (x, W, R)
}"""
MACS = 7 * 12 * (6 + 4)


def network() -> nn.GRU:
    gru = nn.GRU(6, 4, bias=False)
    with torch.no_grad():
        gru.weight_ih_l0[:, 2:] = 0
    return gru


def test_an_exported_gru_lists_the_weights_of_its_gates() -> None:
    gru = network()
    model = onnx.parser.parse_model(TEXT)
    for name, weight in (("w", gru.weight_ih_l0), ("r", gru.weight_hh_l0)):
        array = weight.detach().numpy()
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    program = preparation.from_proto(model).model
    inputs, hidden = (layer for node in program.graph for layer in node_layers(node))
    assert [inputs.name, hidden.name] == ["w", "r"]
    assert (inputs.op, inputs.shape, hidden.shape) == ("GRU", (12, 6), (12, 4))
    assert inputs.pattern.nonzero == np.count_nonzero(gru.weight_ih_l0.detach())
    assert (inputs.pattern.dead_inputs, hidden.pattern.dead_inputs) == (4, 0)
    assert (inputs.macs, hidden.macs) == (7 * 12 * 6, 7 * 12 * 4)


def test_a_gru_of_a_module_has_the_same_work() -> None:
    gru = network()
    macs = module_macs(gru, (7, 1, 6))
    assert sum(macs.values()) == MACS
    assert [layer.macs for layer in module_layers(gru, macs)] == [7 * 12 * 6, 7 * 12 * 4]
