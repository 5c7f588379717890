"""Small ONNX networks for tests, written in a line an operator, in float64 by default."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper


class Net:
    """A network under construction: every method adds a node and returns its output's name."""

    def __init__(
        self,
        channels: int = 5,
        size: int | str = 7,
        seed: int = 0,
        dtype: type = np.float64,
        opset: int = 20,
        batch: int | str = "batch",
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs = [self._info("input", [batch, channels, size, size])]
        self.input = "input"

    def _info(self, name: str, shape: list[int | str] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(self.dtype), shape
        )

    def weight(self, array: np.ndarray | list, name: str = "") -> str:
        """An initializer; floats take the network's dtype."""
        array = np.asarray(array)
        name = name or f"w{len(self.weights)}"
        self.weights[name] = array.astype(self.dtype) if array.dtype.kind == "f" else array
        return name

    def node(
        self, op: str, *inputs: str, outputs: int = 1, **attributes: object
    ) -> str | list[str]:
        """Any operator."""
        names = [f"{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        domain = str(attributes.pop("domain", ""))
        node = helper.make_node(op, list(inputs), names, f"{op}_{len(self.nodes)}", domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def conv(
        self,
        source: str,
        shape: tuple[int, int],
        kernel: int = 3,
        *,
        pad: int | None = None,
        dead: object = (),
        unread: object = (),
        bias: float | None = 0.3,
        dead_bias: float | None = None,
        group: int = 1,
        name: str = "",
        **attributes: object,
    ) -> str:
        """A convolution (in channels, out channels).

        Rows ``dead`` have zero weights, and the bias ``dead_bias`` where it is given; columns
        ``unread`` have zero weights. Biases are drawn with scale ``bias``; None for none at all.
        """
        ins, outs = shape
        w = self.random.standard_normal((outs, ins // group, kernel, kernel))
        w /= np.sqrt(ins // group * kernel * kernel)
        w[list(dead)] = 0
        w[:, list(unread)] = 0
        name = name or f"conv{len(self.nodes)}"
        inputs = [source, self.weight(w, f"{name}.weight")]
        if bias is not None:
            b = self.random.standard_normal(outs) * bias
            if dead_bias is not None:
                b[list(dead)] = dead_bias
            inputs.append(self.weight(b, f"{name}.bias"))
        pad = kernel // 2 if pad is None else pad
        return self.node("Conv", *inputs, pads=[pad] * 4, group=group, **attributes)

    def linear(self, source: str, shape: tuple[int, int], unread: object = ()) -> str:
        """A Gemm (in features, out features), weights [out, in]."""
        w = self.random.standard_normal(shape[::-1]) / np.sqrt(shape[0])
        w[:, list(unread)] = 0
        b = self.random.standard_normal(shape[1])
        return self.node("Gemm", source, self.weight(w), self.weight(b), transB=1)

    def model(self, *outputs: str) -> ir.Model:
        """The network with these outputs."""
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("odd", 1)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))
