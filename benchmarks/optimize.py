"""``prunedeploy optimize`` on networks of many kinds, as its users have them: one table.

    python benchmarks/optimize.py prepare FOLDER     # ResNet-18 saved in six ways, and ONNX files
    python benchmarks/optimize.py run FOLDER [--only WORD] [-o RESULTS.json]

``prepare`` makes what its environment can: BERT and ViT need transformers. 90 % of the weights of
every layer are zero but for MobileNetV1, whose trained weights are read from the real data. ``run``
keeps each row as soon as it is there. It ends with status 1 where the outputs differ or where the
chosen engine is more than 5 % slower than the fastest of those that were measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "optimize.json"
ZEROS, SLOWEST = 0.9, 0.95
UNET = '''"""A small U-Net, as its author has it."""

import torch
from torch import nn


def double(inputs, outputs):
    layers = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, width=32, classes=3):
        super().__init__()
        self.down = nn.ModuleList([double(3, width), double(width, 2 * width)])
        self.bottom = double(2 * width, 4 * width)
        wide, narrow = (4 * width, 2 * width), (2 * width, width)
        self.up = nn.ModuleList([nn.ConvTranspose2d(*each, 2, 2) for each in (wide, narrow)])
        self.join = nn.ModuleList([double(4 * width, 2 * width), double(2 * width, width)])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.head(x)


def factory():
    return UNet()
'''


def sparse(module: Any) -> Any:
    """``module`` with 90 % of the weights of each layer pruned, by torch's own tool."""
    import torch
    from torch.nn.utils import prune

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear | torch.nn.ConvTranspose2d):
            prune.l1_unstructured(layer, "weight", amount=ZEROS)
    return module.eval()


def plain(module: Any) -> Any:
    """``module`` without its masks, the zeros in its weights."""
    from torch.nn.utils import prune

    for layer in module.modules():
        if any(True for _ in getattr(layer, "_forward_pre_hooks", {})):
            prune.remove(layer, "weight")
    return module


def dense(name: str) -> Any:
    """The network of that name with the weights that its layers begin with."""
    import torch

    from prunedeploy.models import by_name

    torch.manual_seed(0)
    record = by_name(name)
    shapes = {key: tuple(shape) for key, shape in record.layout().items()}
    module = record.build(shapes).to_empty(device="cpu")
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return module


def prepare_resnet(folder: Path) -> None:
    """ResNet-18 as people save it: six files."""
    import torch
    from safetensors.torch import save_file

    module = dense("resnet18")
    sparse(module)
    masked = module.state_dict()
    torch.save(masked, folder / "resnet18_masks.pt")
    wrapped = {f"module.{key}": value for key, value in masked.items()}
    whole = {"epoch": 90, "arch": "resnet18", "state_dict": wrapped, "best_acc1": 0.7}
    torch.save(whole, folder / "resnet18_training.pth.tar")
    state = plain(module).state_dict()
    torch.save(state, folder / "resnet18_state.pt")
    torch.save(state, folder / "resnet18_old.pth", _use_new_zipfile_serialization=False)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "resnet18.safetensors")
    torch.save(module, folder / "resnet18_module.pt")


def prepare_unet(folder: Path) -> None:
    """A U-Net of one's own, and the file that makes it."""
    import torch

    path = folder / "unet_factory.py"
    path.write_text(UNET)
    scope: dict[str, Any] = {}
    exec(compile(UNET, str(path), "exec"), scope)
    torch.manual_seed(0)
    torch.save(plain(sparse(scope["factory"]())).state_dict(), folder / "unet.pt")


def prepare_yolo(folder: Path) -> None:
    """A detector with NonMaxSuppression at its end, as exporters of YOLO write it."""
    import numpy as np
    import onnx
    import operators_models
    import torch
    from onnx import TensorProto, helper, numpy_helper

    network = operators_models.create("own:yolo", "sdpa")
    raw = folder / "yolo_nms.onnx"
    for layer in network.module.modules():
        if isinstance(layer, torch.nn.Conv2d):  # as large after pruning as it was before
            fan = layer.weight[0].numel() * (1 - ZEROS)
            torch.nn.init.normal_(layer.weight, std=max(fan, 1.0) ** -0.5)
    sparse_network = plain(sparse(network.module))
    torch.onnx.export(sparse_network, network.inputs, str(raw), dynamo=False, opset_version=17)
    model = onnx.shape_inference.infer_shapes(onnx.load(raw))
    graph, predictions = model.graph, model.graph.output[0]
    # an untrained head says the same everywhere: its scores are spread, few of them high
    with torch.no_grad():
        raw_scores = sparse_network(torch.randn(16, *network.inputs[0].shape[1:]))[:, 4:]
    gain = float(4 / raw_scores.std())
    middle = float(raw_scores.flatten()[::7].quantile(0.99))
    _, width, count = [each.dim_value for each in predictions.type.tensor_type.shape.dim]
    constants = {
        "zero": np.array([0]),
        "four": np.array([4]),
        "end": np.array([width]),
        "last": np.array([2]),
        "most": np.array([50]),
        "gain": np.array([gain], np.float32),
        "middle": np.array([middle], np.float32),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.5], np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in constants.items())
    output = f"{predictions.name}_rows"
    graph.node.extend(
        [
            helper.make_node("Transpose", [predictions.name], [output], perm=[0, 2, 1]),
            helper.make_node("Slice", [output, "zero", "four", "last"], ["boxes"]),
            helper.make_node("Slice", [output, "four", "end", "last"], ["raw_scores"]),
            helper.make_node("Sub", ["raw_scores", "middle"], ["centred"]),
            helper.make_node("Mul", ["centred", "gain"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["scores_last"]),
            helper.make_node("Transpose", ["scores_last"], ["scores"], perm=[0, 2, 1]),
            helper.make_node(
                "NonMaxSuppression",
                ["boxes", "scores", "most", "iou", "least"],
                ["selected"],
                center_point_box=1,
            ),
        ]
    )
    for name, type_ in (("boxes", TensorProto.FLOAT), ("scores", TensorProto.FLOAT)):
        shape = [1, count, 4] if name == "boxes" else [1, width - 4, count]
        graph.output.append(helper.make_tensor_value_info(name, type_, shape))
    graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, [None, 3]))
    del graph.output[0]
    onnx.checker.check_model(model)
    onnx.save(model, raw)


def prepare_opset9(folder: Path) -> None:
    """VGG-16 for CIFAR-10 at opset 9, as an exporter of 2019 wrote it."""
    import onnx
    import torch

    module = dense("vgg16_bn_cifar")
    path = folder / "vgg16_opset9.onnx"
    example = torch.randn(1, 3, 32, 32)
    torch.onnx.export(plain(sparse(module)), (example,), str(path), dynamo=False, opset_version=9)
    assert onnx.load(path).opset_import[0].version == 9


def prepare_transformers(folder: Path) -> None:
    """BERT-base at 128 tokens and ViT-base, by torch's default exporter."""
    import torch
    from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    bert = sparse(BertModel(BertConfig()))
    ids, mask = torch.randint(0, 30000, (1, 128)), torch.ones(1, 128, dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        plain(bert), (ids, mask), str(folder / "bert.onnx"), input_names=names, dynamo=True
    )
    vit = plain(sparse(ViTForImageClassification(ViTConfig())))
    image = torch.randn(1, 3, 224, 224)
    torch.onnx.export(
        vit, (image,), str(folder / "vit.onnx"), input_names=["pixel_values"], dynamo=True
    )


def prepare_mobilenet(folder: Path) -> None:
    """MobileNetV1 with its trained weights, where the real data is."""
    import cpu_models

    if (cpu_models.DATA / "mobilenet_v1_imagenet_s90.npz").is_file():
        made = cpu_models.dynamic("mobilenet_v1_real", ZEROS)
        (folder / "mobilenet_v1.onnx").write_bytes(made.read_bytes())


PARTS: dict[str, Callable[[Path], None]] = {
    "resnet18": prepare_resnet,
    "unet": prepare_unet,
    "yolo": prepare_yolo,
    "vgg16_opset9": prepare_opset9,
    "mobilenet_v1": prepare_mobilenet,
    "transformers": prepare_transformers,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "unet.pt": {"arch": "unet_factory.py:factory", "input_shape": (1, 3, 128, 128)},
    "resnet18_module.pt": {"trust": True, "input_shape": (1, 3, 224, 224)},
}


def prepare(folder: Path, only: str) -> None:
    """What this environment can make."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PARTS.items():
        if only in name:
            try:
                make(folder)
            except ImportError as error:
                print(f"{name}: not made, {error}")


def row(path: Path) -> dict[str, Any]:
    """The seconds, the runtime and the speed of one network's engine."""
    import prunedeploy

    options = dict(SPECIAL.get(path.name, {}))
    if "arch" in options:
        options["arch"] = f"{path.parent}/{options['arch']}"
    with tempfile.TemporaryDirectory() as folder:
        done = prunedeploy.optimize(path, f"{folder}/o", **options)
    assert done.engine is not None
    assert done.measured is not None
    manifest, difference = done.engine.manifest, done.measured.candidates[0].difference
    return {
        "network": path.name,
        "runtime": manifest.runtime,
        "seconds": round(done.seconds, 1),
        "speed": round(done.measured.ratios[0].value, 3),
        "busy": done.measured.busy,
        "difference": difference.max_rel,
        "verdict": difference.verdict,
        "passed": difference.passed,
        "raced": manifest.choice and [asdict(each) for each in manifest.choice.times],
    }


def wrong(row: dict[str, Any]) -> bool:
    """Whether the outputs differ, or another runtime was faster by more than 5 %."""
    if not row["passed"] or row["speed"] < SLOWEST:
        return True
    totals: dict[str, float] = {}
    for each in row["raced"] or ():
        totals[each["runtime"]] = totals.get(each["runtime"], 0.0) + each["seconds"]
    return bool(totals) and min(totals.values()) < SLOWEST * totals[row["runtime"]]


def run(folder: Path, only: str, out: Path) -> int:
    """The rows that are missing, then the table."""
    from prunedeploy.measure.environment import environment

    rows = json.loads(out.read_text())["rows"] if out.is_file() else {}
    endings = {".pt", ".pth", ".tar", ".safetensors", ".onnx"}
    for path in sorted(folder.iterdir()):
        if path.suffix in endings and only in path.name and path.name not in rows:
            rows[path.name] = row(path)
            print(json.dumps(rows[path.name]), flush=True)
            out.write_text(json.dumps({"rows": rows, "environment": environment()}, indent=1))
    print("| network | seconds to engine | runtime | against ONNX Runtime | difference |")
    print("|---|---:|---|---:|---:|")
    for each in rows.values():
        figures = f"{each['seconds']:.0f} | {each['runtime']} | {each['speed']:.2f}x"
        print(f"| {each['network']} | {figures} | {each['difference']:.1g} |")
    return int(any(map(wrong, rows.values())))


def main() -> None:
    """Parse, prepare or run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.step == "prepare":
        prepare(options.folder, options.only)
        return
    sys.exit(run(options.folder, options.only, options.output))


if __name__ == "__main__":
    main()
