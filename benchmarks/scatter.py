"""A residual branch computed narrow and scattered: which form is fastest, and does it ever pay?

    python benchmarks/scatter.py [--rounds 60] [--batch 1] [--network]

The ends of ResNet-50's blocks, 1x1 convolution + Add + Relu, behind another convolution so that
layouts are those of a network, with rows dead at random. Microseconds of the dense form, and how
many each other form saves (negative: loses): processor time of one thread, the fastest of
interleaved runs. ``predicted`` is the cost model's.
The last table is what the model is made of: MACs and bytes a second on this machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import helper, numpy_helper

from prunedeploy import passes, targets
from prunedeploy.models import by_name
from prunedeploy.passes.simplify import scatter_branches
from prunedeploy.shrinking.export import to_model

# (input channels, output channels, side) of the last convolution of a block in each stage
STAGES = ((64, 256, 56), (128, 512, 28), (256, 1024, 14), (512, 2048, 7))
Body = Callable[["Graph", list[int], int], str]


class Graph:
    """One node a line, as in an ONNX text, with random weights."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: np.ndarray) -> str:
        """An initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, out: int, into: int) -> str:
        """A 1x1 convolution."""
        w = self.random.standard_normal((out, into, 1, 1)).astype(np.float32) / into**0.5
        return self.node("Conv", x, self.weight(w))

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """Any operator."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def session(self, inputs: dict[str, list[int]], output: str) -> onnxruntime.InferenceSession:
        """The graph in ONNX Runtime, on one thread."""
        infos = [helper.make_tensor_value_info(k, 1, s) for k, s in inputs.items()]
        last = helper.make_tensor_value_info(output, 1, None)
        graph = helper.make_graph(self.nodes, "g", infos, [last], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options)


def dense(graph: Graph, _: list[int], into: int, width: int) -> str:
    """All rows."""
    return graph.conv("k", width, into)


def pad_gather(graph: Graph, live: list[int], into: int, width: int) -> str:
    """One channel of zeros behind the live ones, and a Gather that repeats it."""
    y = graph.conv("k", len(live), into)
    pads = np.zeros(8, np.int64)
    pads[5] = 1
    y = graph.node("Pad", y, graph.weight(pads))
    return graph.node("Gather", y, order(graph, live, width), axis=1)


def concat_gather(graph: Graph, live: list[int], into: int, width: int) -> str:
    """The same with a Concat: needs the batch and the size, so not for dynamic ones."""
    y = graph.conv("k", len(live), into)
    side = next(side for k, _, side in STAGES if k == into)
    y = graph.node("Concat", y, graph.weight(np.zeros((1, 1, side, side), np.float32)), axis=1)
    return graph.node("Gather", y, order(graph, live, width), axis=1)


def row_of_zeros(graph: Graph, live: list[int], into: int, width: int) -> str:
    """One dead row stays in the layer, and the Gather repeats its result: nothing to pad."""
    return graph.node(
        "Gather", graph.conv("k", len(live) + 1, into), order(graph, live, width), axis=1
    )


def pad_only(graph: Graph, live: list[int], into: int, width: int) -> str:
    """Live rows first: what a layer would cost whose channels could be put in order."""
    pads = np.zeros(8, np.int64)
    pads[5] = width - len(live)
    return graph.node("Pad", graph.conv("k", len(live), into), graph.weight(pads))


def order(graph: Graph, live: list[int], width: int) -> str:
    """Where each channel comes from: its row, or the one behind the live ones."""
    index = np.full(width, len(live), np.int64)
    index[live] = np.arange(len(live))
    return graph.weight(index)


FORMS = {f.__name__: f for f in (dense, pad_gather, concat_gather, row_of_zeros, pad_only)}


def block(
    form: str, live: list[int], stage: tuple[int, int, int], batch: int
) -> Callable[[], None]:
    """The end of a block, ready to run."""
    into, width, side = stage
    graph = Graph()
    graph.nodes.append(helper.make_node("Relu", [graph.conv("input", into, into)], ["k"]))
    shortcut = graph.conv("shortcut", width, width // 4)
    total = graph.node("Relu", graph.node("Add", FORMS[form](graph, live, into, width), shortcut))
    out = graph.conv(total, 16, width)
    shapes = {"input": [batch, into, side, side], "shortcut": [batch, width // 4, side, side]}
    session = graph.session(shapes, out)
    feeds = {k: graph.random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    return lambda: session.run(None, feeds) and None


def fastest(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Microseconds of processor time of each, run in turn; the fastest: other work only adds."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds + 3):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            best[name] = min(best[name], (time.process_time() - begin) * 1e6)
    return best


def predicted(stage: tuple[int, int, int], live: int, batch: int) -> float:
    """Microseconds that the cost model says are saved."""
    into, width, side = stage
    machine = targets.by_name("host")
    cost = scatter_branches.cost(machine, into, width, live + 1, batch * side * side, 4)
    return cost.saved * 1e6 if cost is not None else float("nan")


def rates(rounds: int) -> None:
    """MACs a second of 1x1 convolutions, bytes a second of copies through a Gather."""
    print("\n| channels in, out, side | G MAC/s | G bytes/s of Pad, Gather |\n|---|---:|---:|")
    for into, width, side in STAGES:
        one, two, three = Graph(), Graph(), Graph()
        shape = {"k": [1, into, side, side]}
        big = {"k": [1, width, side, side]}
        index = two.weight(np.random.default_rng(0).permutation(width))
        pads = three.weight(np.array([0, 0, 0, 0, 0, 1, 0, 0]))
        sessions = {
            "conv": (one.session(shape, one.conv("k", width, into)), shape),
            "gather": (two.session(big, two.node("Gather", "k", index, axis=1)), big),
            "pad": (three.session(big, three.node("Pad", "k", pads)), big),
        }
        runs = {}
        for name, (session, shapes) in sessions.items():
            feeds = {k: np.ones(s, np.float32) for k, s in shapes.items()}
            runs[name] = lambda s=session, f=feeds: s.run(None, f) and None
        times = fastest(runs, rounds)
        macs = into * width * side**2 / times["conv"] / 1e3
        moved = 2 * 4 * width * side**2 / 1e3
        print(
            f"| {into}, {width}, {side} | {macs:.0f} "
            f"| {moved / times['pad']:.1f}, {moved / times['gather']:.1f} |"
        )


def network(fraction: float, rounds: int) -> str:
    """A whole ResNet-50 with dead rows at the end of each block: predicted and measured."""
    torch.manual_seed(0)
    module = by_name("resnet50").factory().eval()
    for name, layer in module.named_modules():
        if name.startswith("layer") and name.endswith((".conv3", ".bn3")):
            width = layer.weight.shape[0]
            dead = np.random.default_rng(name.split(".")[1].encode()[0]).permutation(width)[
                : int(fraction * width)
            ]
            layer.weight.data[dead] = 0
            if layer.bias is not None:
                layer.bias.data[dead] = 0
    model = to_model(module, (1, 3, 224, 224))
    image = {"input": np.ones((1, 3, 224, 224), np.float32)}
    runs, notes = {}, ()
    for each in (*passes.DEFAULT[:-1], None, passes.DEFAULT[-1], None):
        if each is not None:
            notes = each(model).notes
            continue
        proto = ir.to_proto(model).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(proto, options)
        runs[len(runs)] = lambda s=session: s.run(None, image) and None
    times = fastest({str(k): run for k, run in runs.items()}, rounds)
    taken = [note.figures for note in notes if note.code == "branch-scattered"]
    saved = sum(1e6 * (each["left_out_seconds"] - each["moved_seconds"]) for each in taken)
    before, after = times["0"], times["1"]
    ratios = f"{before / (before - saved):.2f} | {before / after:.2f}"
    return f"| {fraction:.0%} | {len(taken)} of 16 | {before / 1e3:.1f} ms | {ratios} |"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="residual branches computed narrow")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--network", action="store_true", help="a whole ResNet-50 instead")
    options = parser.parse_args()
    if options.network:
        print("| dead | scattered | dense | predicted | measured |\n|---|---:|---:|---:|---:|")
        for fraction in (0.5, 0.75, 0.9):
            print(network(fraction, options.rounds), flush=True)
        return
    names = [name for name in FORMS if name != "dense"]
    names = [n for n in names if n != "concat_gather" or options.batch == 1]
    print(f"| channels, side | dead | dense | predicted | {' | '.join(names)} |")
    print(f"|---|---:|---:|---:|{'---:|' * len(names)}")
    for stage in STAGES:
        for fraction in (0.5, 0.75, 0.9):
            width = stage[1]
            chosen = np.random.default_rng(1).permutation(width)[: int(width * (1 - fraction))]
            live = sorted(chosen.tolist())
            times = fastest(
                {f: block(f, live, stage, options.batch) for f in ["dense", *names]}, options.rounds
            )
            saved = " | ".join(f"{times['dense'] - times[name]:.0f}" for name in names)
            cells = f"{times['dense']:.0f} | {predicted(stage, len(live), options.batch):.0f}"
            print(f"| {width}, {stage[2]} | {fraction:.0%} | {cells} | {saved} |", flush=True)
    rates(options.rounds)


if __name__ == "__main__":
    main()
