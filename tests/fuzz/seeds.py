"""The seeds: small files of every kind that the commands read, made by code."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from torch import nn

OPSETS = (7, 11, 13, 18, 21)


class Small(nn.Module):
    """Convolutions with dead channels, a norm and a linear layer on 3x8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.fc = nn.Conv2d(6, 4, 3, bias=False), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))  # type: ignore[no-any-return]


def small() -> Small:
    """The network, always with the same weights."""
    torch.manual_seed(0)
    net = Small().eval()
    with torch.no_grad():
        net.conv1.weight[1:4] = 0
        net.conv2.weight[:, ::2] = 0
    return net


def _states() -> list[Any]:
    """Contents of checkpoints, as trainers write them."""
    net = small()
    state = net.state_dict()
    masks = {name: (tensor != 0).float() for name, tensor in state.items() if tensor.dim() == 4}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    pruned = dict(state)
    for name, mask in masks.items():
        pruned[f"{name}_orig"], pruned[f"{name}_mask"] = pruned.pop(name), mask
    kinds = {
        n: t.to(k)
        for (n, t), k in zip(state.items(), (torch.bfloat16, torch.half) * 9, strict=False)
    }
    return [
        {"state_dict": state, "epoch": 3, "optimizer": optimizer.state_dict()},
        pruned,
        {"model": kinds, "ema": state, "args": {"arch": "resnet20", "lr": np.float64(0.1)}},
        {
            "net": {n: t.to_sparse() if t.dim() == 4 else t for n, t in state.items()},
            "masks": masks,
        },
    ]


def save(folder: Path, name: str, data: bytes) -> None:
    """One file of a seed."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _each(folder: Path, name: str, contents: list[bytes]) -> None:
    for number, data in enumerate(contents):
        save(folder / str(number), name, data)


def packed(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def zips(folder: Path) -> None:
    """torch.save's format of today."""
    _each(folder, "net.pt", [*map(packed, _states()), packed(small())])


def legacy(folder: Path) -> None:
    """torch.save before 1.6, and plain pickles."""
    states = _states()
    arrays = {name: tensor.numpy() for name, tensor in states[1].items()}
    files = [packed(state, _use_new_zipfile_serialization=False) for state in (*states, small())]
    _each(folder, "net.pt", [*files, pickle.dumps({"model": arrays}, 2), pickle.dumps(arrays, 4)])


def tars(folder: Path) -> None:
    """torch.save before 0.1.10, as a tar of pickles; written by hand, nothing else can any more."""
    weight = small().conv1.weight.detach().numpy()
    key = "140"
    storages = _pickles(1, (key, "cpu", "FloatStorage")) + weight.size.to_bytes(8, "little")
    storages += weight.tobytes()
    tensors = _pickles(1, (key, 140, "torch.FloatTensor")) + (4).to_bytes(4, "little") + bytes(4)
    sizes, strides = weight.shape, [step // 4 for step in weight.strides]
    tensors += np.array([*sizes, *strides, 0], "<i8").tobytes()
    stream = io.BytesIO()
    members = {"sys_info": _pickles({"little_endian": True}), "pickle": _pickles({"w": 1}),
        "tensors": tensors, "storages": storages}  # fmt: skip
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    _each(folder, "net.pt", [stream.getvalue()])


def _pickles(*values: object) -> bytes:
    return b"".join(pickle.dumps(value, 2) for value in values)


def safetensors(folder: Path) -> None:
    """Hugging Face's format."""
    from safetensors.torch import save as pack

    states = [small().state_dict(), {"w": torch.zeros(0, 3), "half": torch.ones(2, 3).bfloat16()}]
    _each(folder, "net.safetensors", [pack(state, {"format": "pt"}) for state in states])


def npz(folder: Path) -> None:
    """NumPy's archive."""
    stream = io.BytesIO()
    np.savez(stream, **{n: t.numpy() for n, t in small().state_dict().items()})
    _each(folder, "net.npz", [stream.getvalue()])


def torchscript(folder: Path) -> None:
    """torch.jit's programs."""
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(small(), torch.rand(2, 3, 8, 8)), stream)
    _each(folder, "net.pt", [stream.getvalue()])


def pt2(folder: Path) -> None:
    """torch.export's programs."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(small(), (torch.rand(2, 3, 8, 8),)), stream)
    _each(folder, "net.pt2", [stream.getvalue()])


def masked(folder: Path) -> None:
    """A checkpoint, and its masks in a file of their own."""
    state = small().state_dict()
    for number, kind in enumerate((torch.float32, torch.bool, torch.uint8)):
        masks = {name: (t != 0).to(kind) for name, t in state.items() if t.dim() == 4}
        save(folder / str(number), "net.pt", packed(state))
        save(folder / str(number), "mask.pt", packed(masks))


# -- models ----------------------------------------------------------------------------------------


GRAPHS = (
    """g (float[n, 3, 8, 8] input) => (float[n, 5] output) {
        c = Conv <pads = [1, 1, 1, 1]> (input, w)  r = Relu(c)
        p = GlobalAveragePool(r)  f = Flatten(p)  output = Gemm(f, v) }""",
    """g (float[n, 3, 8, 8] input) => (float[n, 6] output) {
        c = Conv <pads = [1, 1, 1, 1]> (input, w)  b = BatchNormalization (c, s, s, s, s)
        a = Add(b, b)  m = MaxPool <kernel_shape = [8, 8]> (a)  f = Flatten(m)
        output = Softmax(f) }""",
    """g (float[n, 3, 8, 8] input) => (float[n, 192] output) {
        t = Transpose <perm = [0, 2, 3, 1]> (input)  s = Sigmoid(t)  m = Mul(s, t)
        h = Shape(m)  k = Cast <to = 1> (h)  l = Cast <to = 7> (k)  i = Identity(h)
        e = Reshape(m, i)  output = Reshape(e, flat) }""",
)


def model(number: int, opset: int) -> onnx.ModelProto:
    """Graph ``number`` with weights; some channels are dead."""
    random = np.random.default_rng(number)
    graph = onnx.parser.parse_graph(GRAPHS[number])
    w = random.standard_normal((6, 3, 3, 3)).astype(np.float32)
    w[1:4] = 0
    weights = {
        "w": w,
        "v": random.standard_normal((6, 5)).astype(np.float32),
        "s": random.random(6).astype(np.float32) + 0.5,
        "flat": np.array([-1, 192]),
    }
    used = {name for node in graph.node for name in node.input}
    for name in sorted(used & set(weights)):
        graph.initializer.append(onnx.numpy_helper.from_array(weights[name], name))
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _branching() -> onnx.ModelProto:
    """An If and a Loop around a linear layer."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 16]>
        g (float[n, 4] input, bool flag) => (float[n, 4] output) {
            three = Constant <value = int64 {3}> ()
            a = If (flag) <
                then_branch = t () => (float[n, 4] p) { p = Relu(input) },
                else_branch = e () => (float[n, 4] q) { q = Neg(input) }>
            go = Constant <value = bool {1}> ()
            output = Loop (three, go, a) <
                body = b (int64 i, bool c, float[n, 4] x) => (bool d, float[n, 4] y) {
                    d = Identity(c)  y = Add(x, x) }>
        }"""
    )


def models(folder: Path) -> None:
    """Graphs at old and new opsets."""
    made = [model(number, opset) for number in range(len(GRAPHS)) for opset in OPSETS]
    _each(folder, "net.onnx", [x.SerializeToString() for x in (*made, _branching())])


def model_external(folder: Path) -> None:
    """A model whose weights lie beside it."""
    made = model(0, 18)
    (folder / "0").mkdir(parents=True)
    onnx.save(
        made, folder / "0/net.onnx", save_as_external_data=True, size_threshold=0, location="w"
    )


def plain_model(path: Path) -> Path:
    """One valid model."""
    path.write_bytes(model(0, 18).SerializeToString())
    return path


# -- engines, arrays, records ----------------------------------------------------------------------


def engine(fixed: Path, runtime: str) -> Path:
    """An engine of the plain model."""
    from prunedeploy.engines import building

    options: Any = {"tune": "none", "batch": (1, 2)} if runtime == "sparse" else {}
    path = fixed / f"{runtime}.engine"
    building.build(plain_model(fixed / "net.onnx"), "host", runtime, path, **options)
    return path


def array() -> bytes:
    """An input of the plain model."""
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
    return stream.getvalue()


def engines(runtime: str, folder: Path) -> None:
    """The folder of an engine, and an input."""
    folder.mkdir(parents=True)
    path = engine(folder, runtime)
    for file in sorted(path.iterdir()):
        save(folder / "0", f"engine/{file.name}", file.read_bytes())
    shutil.rmtree(path)
    save(folder / "fixed", "x.npy", array())
    (folder / "net.onnx").rename(folder / "fixed/net.onnx")


def arrays(folder: Path) -> None:
    """Inputs by position and by name, and labelled images, for a fixed engine."""
    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    engine(fixed, "ort")
    stream = io.BytesIO()
    np.savez(stream, input=np.ones((2, 3, 8, 8), np.float32))
    labelled = io.BytesIO()
    np.savez(labelled, images=np.zeros((4, 3, 8, 8), np.uint8), labels=np.arange(4))
    save(folder / "0", "x.npy", array())
    save(folder / "1", "x.npz", stream.getvalue())
    save(folder / "2", "data.npz", labelled.getvalue())


def results(folder: Path) -> None:
    """The records of shrink, bench and predict."""
    from prunedeploy.cli import main

    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    net, built = plain_model(fixed / "net.onnx"), engine(fixed, "ort")
    commands = (
        ["shrink", net, "-o", fixed / "s.onnx"],
        ["bench", built, "--baseline", net, "--rounds", 3, "-o", fixed / "bench.json"],
        ["predict", net, "--target", "jetson", "--runtime", "sparse", "-o", fixed / "predict.json"],
    )
    for number, command in enumerate(commands):
        assert main([*map(str, command)]) == 0
        name = ("s.json", "bench.json", "predict.json")[number]
        save(folder / str(number), "result.json", (fixed / name).read_bytes())


def shrunk(folder: Path) -> None:
    """What shrink writes: model, dense baseline and record."""
    from prunedeploy.cli import main

    (folder / "0").mkdir(parents=True)
    net = plain_model(folder / "net.onnx")
    assert main(["shrink", str(net), "-o", str(folder / "0/out.onnx")]) == 0


TARGETS = """[camera]
what = "the camera's board"
like = "jetson-orin"
aliases = ["cam"]
cores = 6
bytes-per-second = 68e9
peaks = { float32 = 1.3e12, float16 = 10e12 }
toolchain = { opset = 17, ir-version = 8 }

[old]
arch = "x86_64"
isa = ["avx2", "fma"]
hz = 2e9
cpu = "haswell"
runtimes = ["sparse"]
"""


def targets(folder: Path) -> None:
    """The user's own targets."""
    save(folder / "0", "prunedeploy.targets.toml", TARGETS.encode())
    (folder / "fixed").mkdir()
    plain_model(folder / "fixed/net.onnx")


def convolution() -> Any:
    """A layer that the tuner decides about."""
    from prunedeploy.runtimes.sparse.plan.lower import lower
    from prunedeploy.runtimes.sparse.plan.steps import Conv

    plan = lower(onnx_ir.from_proto(model(0, 18)), 1, {})
    return next(step for step in plan.steps if isinstance(step, Conv))


def schedules(folder: Path) -> None:
    """What the tuner remembers of this machine."""
    from prunedeploy.runtimes.sparse.schedule import candidates
    from prunedeploy.runtimes.sparse.schedule.tune import Choice, _Store

    step = convolution()
    for number, schedule in enumerate(candidates.ranked(step, "avx2", 1)[::9]):
        store = _Store(folder / str(number), "avx2", 1)
        store.update({store.key(step, "quick"): Choice(schedule, schedule, 1e-6, 1e-6)})
        next((folder / str(number)).iterdir()).rename(folder / str(number) / "schedules.json")


# -- bundles and devices ---------------------------------------------------------------------------


def bundle(path: Path) -> Any:
    """A bundle for a machine that builds its engines itself."""
    from prunedeploy.bundle.write import write_bundle

    return write_bundle(plain_model(path.parent / "net.onnx"), "jetson-nano", path, batch=2)


def bundles(folder: Path) -> None:
    """A bundle as an archive, and its manifest alone with all files in place."""
    from prunedeploy.bundle import archive

    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    bundle(fixed / "net.bundle")
    save(folder / "0", "net.bundle/bundle.json", (fixed / "net.bundle/bundle.json").read_bytes())
    archive.pack(fixed / "net.bundle", fixed / "net.bundle.tar.gz", "net.bundle")
    save(folder / "1", "net.bundle.tar.gz", (fixed / "net.bundle.tar.gz").read_bytes())


def device(folder: Path) -> None:
    """What a device answers: events, and an archive of results."""
    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    made = bundle(fixed / "net.bundle")
    specs = made.bundle.outputs
    common = {"of": "model", "error": "", "runs": 4, "samples_ns": [1000, 1100],
        "outputs": {spec.name: "out/output_0.npy" for spec in specs}}  # fmt: skip
    document = {
        "type": "DeviceResult", "bundle_sha256": made.sha256, "complete": True, "missing": [],
        "identity": {"board": "a board", "cores": 4}, "before": {"celsius": {"cpu": 40.0}},
        "seen": {"cpu_khz": [1e6, 2e6]}, "after": {}, "tegrastats": "RAM 1/2", "throttled": False,
        "candidates": [
            {**common, "name": "model.float32", "runtime": "tensorrt", "precision": "float32"},
            {**common, "name": "sparse", "runtime": "sparse", "precision": "float32", "threads": 2},
        ],
    }  # fmt: skip
    files = {
        "n/results/result.json": json.dumps(document).encode(),
        "n/results/out/output_0.npy": (made.path / specs[0].file).read_bytes(),
        "n/built/model.float32.plan": b"plan",
        "n/sparse/model.so": b"library of the device",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    events = ({"event": "step", "say": "building"}, {"event": "result", "result": document})
    for number in range(2):  # in the second the archive is never sent
        save(
            folder / str(number), "events", b"".join(json.dumps(x).encode() + b"\n" for x in events)
        )
        save(folder / str(number), "result.tar.gz", stream.getvalue() if number == 0 else b"")
    save(folder / "2", "document.json", json.dumps(document).encode())
