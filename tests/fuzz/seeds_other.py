"""Seeds beside those of checkpoints, models and engines: weights in several files, plans of slices,
requests to a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import hybrids
import numpy as np
import seeds


def shards(folder: Path) -> None:
    """Weights in two files, and the index that says which is in which."""
    from safetensors.torch import save as pack

    state = seeds.small().state_dict()
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    for number, form in enumerate(("safetensors", "bin")):
        files = {f"model-0000{k + 1}.{form}": half for k, half in enumerate(halves)}
        index = {"weight_map": {name: file for file, half in files.items() for name in half}}
        place = folder / str(number)
        seeds.save(place, "model.safetensors.index.json", json.dumps(index).encode())
        for file, half in files.items():
            part = {name: state[name] for name in half}
            data = pack(part, {"format": "pt"}) if form == "safetensors" else seeds.packed(part)
            seeds.save(place, file, data)


def plans(folder: Path) -> None:
    """The sliced weights of a network and the plan that they go by."""
    import torch

    from prunedeploy.shrinking.pipeline import shrink

    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    place = fixed / "plan.pt"
    shrink(
        seeds.small(), torch.zeros(1, 3, 8, 8), output=fixed / "s.onnx", align=1, state_dict=place
    )
    seeds.save(folder / "0", "plan.pt", place.read_bytes())


def hybrid_engine(folder: Path) -> None:
    """The folder of an engine of ONNX Runtime with sparse parts, and an input."""
    network = hybrids.net()
    sparse = hybrids.convs(network, network.input)
    output = hybrids.pooled(network, hybrids.unknown(network, sparse))
    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    engine = hybrids.build(network, fixed, output)
    for file in sorted(path for path in engine.path.rglob("*") if path.is_file()):
        name = file.relative_to(engine.path)
        seeds.save(folder / "0", f"engine/{name}", file.read_bytes())
    shutil.rmtree(engine.path)
    shape = (2, *engine.manifest.inputs[0].shape[1:])
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.save(fixed / "x.npy", values)


def requests(folder: Path) -> None:
    """Bodies of inference requests in JSON, and with binary tensors; how much of them is JSON."""
    fixed = folder / "fixed"
    fixed.mkdir(parents=True)
    seeds.engine(fixed, "ort")
    values = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    tensor = {"name": "input", "datatype": "FP32", "shape": list(values.shape)}
    plain = {"id": "1", "inputs": [tensor | {"data": values.reshape(-1).tolist()}]}
    nested = {"inputs": [tensor | {"data": values.tolist()}], "outputs": [{"name": "output"}]}
    binary = {
        "inputs": [tensor | {"parameters": {"binary_data_size": values.nbytes}}],
        "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
    }
    for number, document in enumerate((plain, nested, binary)):
        text = json.dumps(document).encode()
        seeds.save(folder / str(number), "body.json", text)
        data = values.tobytes() if document is binary else b""
        seeds.save(folder / str(number), "tensors", data)
