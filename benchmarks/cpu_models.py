"""The networks that ``cpu.py`` measures, with scattered zeros and sane random weights, as ONNX.

In every convolution and linear layer but the first and the last the weights of least magnitude
are zero; depthwise convolutions stay dense. BatchNorm has the statistics of one random batch, so
activations keep their range however deep and however sparse the network is, and is folded. The
encoder is what lies between an embedding and a head, so that all its linear layers are sparse.
Each file is written once, into a cache folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from prunedeploy import passes
from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.graph import shapes
from prunedeploy.models import by_name
from prunedeploy.models.mobilenet_v1 import from_npz
from prunedeploy.passes.opset import lowered
from prunedeploy.shrinking.export import to_model

VERSION = 1  # of what this file makes: another number is another cache
CACHE = Path(tempfile.gettempdir()) / "prunedeploy-benchmarks"
SIMPLER = ("fold-constants", "fold-batchnorm", "simplify-reshapes", "remove-identity")
PEER_OPSET, PEER_IR = 13, 7  # what DeepSparse 1.8 reads
DATA = Path(__file__).parents[2] / "shared" / "data"
REAL_WEIGHTS = DATA / "mobilenet_v1_imagenet_s90.npz"
CALIBRATED_ON = 8  # samples whose statistics BatchNorm takes


@dataclass(frozen=True)
class Network:
    """A row of ``NETWORKS``; ``make`` gives the network at a sparsity, in eval mode.

    ``older`` says that ONNX Runtime is the faster for an older opset, which it then gets: it fuses
    a bias with the Gelu behind only where that is spelled out.
    """

    title: str
    shape: tuple[int, ...]  # of one sample
    make: Callable[[float], nn.Module]
    older: bool = False


class EncoderLayer(nn.Module):
    """Attention and feed-forward of BERT, normalised behind each residual sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mixed, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) to the same."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.mixed(attended))
        y: Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return y


def _recipe(name: str) -> Callable[[float], nn.Module]:
    def make(sparsity: float) -> nn.Module:
        recipe = by_name(name)
        module = recipe.factory()
        prune(layers_of(module)[1:-1], sparsity)
        return calibrate(module, recipe.input_shape)

    return make


def _encoder(width: int, heads: int, layers: int) -> Callable[[float], nn.Module]:
    def make(sparsity: float) -> nn.Module:
        module = nn.Sequential(*(EncoderLayer(width, heads, 4 * width) for _ in range(layers)))
        prune(layers_of(module), sparsity)
        for layer in module.modules():
            if isinstance(layer, nn.LayerNorm):
                nn.init.uniform_(layer.weight, 0.7, 1.3)
                nn.init.uniform_(layer.bias, -0.2, 0.2)
        return module.eval()

    return make


def _separable(sparsity: float) -> nn.Module:
    """Depthwise 3x3 and 5x5 between linear bottlenecks, in other widths than MobileNets have."""
    blocks: list[nn.Module] = []

    def add(out: int, into: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        blocks.extend([conv, nn.BatchNorm2d(out)])

    add(24, 3, 3, 2)
    width = 24
    for out, kernel, stride in (
        *((32, 3, 1), (48, 5, 2), (48, 3, 1), (80, 3, 2), (80, 5, 1), (80, 3, 1)),
        *((128, 5, 2), (128, 3, 1), (128, 5, 1), (224, 3, 2), (224, 5, 1), (224, 3, 1)),
    ):
        inner = 4 * width
        add(inner, width)
        blocks.append(nn.ReLU())
        add(inner, inner, kernel, stride, inner)
        blocks.append(nn.ReLU())
        add(out, inner)
        width = out
    add(1024, width)
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
    module = nn.Sequential(*blocks, *head)
    prune(layers_of(module)[1:-1], sparsity)
    return calibrate(module, (3, 192, 192))


def _real(sparsity: float) -> nn.Module:
    if sparsity != 0.9:
        raise UserError("the real MobileNetV1 was trained to 90 % zeros: use --sparsity 90")
    if not REAL_WEIGHTS.is_file():
        raise UserError(f"no weights of the real MobileNetV1: put them at {REAL_WEIGHTS}")
    return from_npz(REAL_WEIGHTS)


IMAGE = (3, 224, 224)
NETWORKS: dict[str, Network] = {
    "resnet50": Network("ResNet-50", IMAGE, _recipe("resnet50")),
    "mobilenet_v1_real": Network("MobileNetV1, real weights", IMAGE, _real),
    "mobilenet_v1": Network("MobileNetV1, random", IMAGE, _recipe("mobilenet_v1")),
    "mobilenet_v2": Network("MobileNetV2", IMAGE, _recipe("mobilenet_v2")),
    "resnet18": Network("ResNet-18", IMAGE, _recipe("resnet18")),
    "vgg16_cifar": Network("VGG-16 CIFAR, 32", (3, 32, 32), _recipe("vgg16_bn_cifar")),
    "bert": Network("BERT-base encoder, 128", (128, 768), _encoder(768, 12, 12), older=True),
    # those that predict.py learns from, so that it need not learn from the ones above
    "resnet34": Network("ResNet-34", IMAGE, _recipe("resnet34")),
    "densenet121": Network("DenseNet-121", IMAGE, _recipe("densenet121")),
    "squeezenet": Network("SqueezeNet 1.1", IMAGE, _recipe("squeezenet1_1")),
    "vgg11": Network("VGG-11", IMAGE, _recipe("vgg11_bn")),
    "wide_resnet32": Network("Wide ResNet-32-2 CIFAR", (3, 32, 32), _recipe("wide_resnet32_2")),
    "separable": Network("separable convolutions, 192", (3, 192, 192), _separable),
    "encoder": Network("encoder of width 512, 96", (96, 512), _encoder(512, 8, 6), older=True),
}


def dynamic(name: str, sparsity: float, cache: Path = CACHE) -> Path:
    """The network with whatever batch it is given."""
    network = NETWORKS[name]

    def write(path: Path) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            module = network.make(sparsity)
        program = to_model(module, (1, *network.shape))
        simplify(program)
        models.save(program, path)

    return _cached(cache, f"{_stem(name, sparsity)}.onnx", write)


def fixed(name: str, sparsity: float, batch: int, cache: Path = CACHE) -> Path:
    """The network for one batch: nothing is left in it that depends on a size."""

    def write(path: Path) -> None:
        program = models.load(dynamic(name, sparsity, cache))
        for value in (*program.graph.inputs, *program.graph.outputs):
            if value.shape is not None:
                value.shape = ir.Shape((batch, *value.shape.dims[1:]))
        simplify(program)
        models.save(program, path)

    return _cached(cache, f"{_stem(name, sparsity)}-b{batch}.onnx", write)


def older(name: str, sparsity: float, batch: int, cache: Path = CACHE) -> Path:
    """The same in an opset that DeepSparse reads."""

    def write(path: Path) -> None:
        program = models.load(fixed(name, sparsity, batch, cache))
        lowered(program, PEER_OPSET, PEER_IR)
        models.save(program, path)

    return _cached(cache, f"{_stem(name, sparsity)}-b{batch}-opset{PEER_OPSET}.onnx", write)


def for_onnxruntime(name: str, sparsity: float, batch: int, cache: Path = CACHE) -> Path:
    """The form of the two that ONNX Runtime is the faster with."""
    form = older if NETWORKS[name].older else fixed
    return form(name, sparsity, batch, cache)


def _stem(name: str, sparsity: float) -> str:
    return f"{name}-{100 * sparsity:g}"


def _cached(cache: Path, name: str, write: Callable[[Path], None]) -> Path:
    folder = cache / f"v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.is_file():
        unfinished = path.with_suffix(".part.onnx")
        write(unfinished)
        unfinished.replace(path)
    return path


def simplify(program: ir.Model) -> None:
    """The passes that any user's model goes through, as far as they leave every layer whole."""
    shapes.infer_shapes(program)
    for step in passes.before_cuts():
        if step.name in SIMPLER:
            step(program)
    shapes.infer_shapes(program)


def layers_of(module: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers that may have zeros, in order."""
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def prune(layers: list[nn.Conv2d | nn.Linear], sparsity: float) -> None:
    """Zero the smallest weights of each layer, and make up for the variance that goes with them."""
    for layer in layers:
        weight = layer.weight.data
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            continue
        before = weight.pow(2).mean()
        smallest = weight.abs().flatten().argsort()[: round(sparsity * weight.numel())]
        weight.view(-1)[smallest] = 0.0
        weight *= (before / weight.pow(2).mean()).sqrt()


def calibrate(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Statistics of one random batch, and scales and shifts that are not all alike."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.3)
    module.train()(torch.randn(CALIBRATED_ON, *shape))
    return module.eval()
