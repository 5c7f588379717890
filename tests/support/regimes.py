"""Ground truth for the exact channel remover: networks with channels dead by construction.

Independent of the remover: each family's structure is written down by hand below, as the list of
its layers, each naming the channels it reads and writes by number. Channels that must go together
(residual adds, depthwise convolutions, option-A shortcuts) have one number, which is all the
coupling there is; a concatenation is a concatenation of numbers. The count then is arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from prunedeploy.models import by_name

Ids = Tensor | None
REGIMES = ("clean", "beta", "columns", "independent")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, with the BatchNorm that folds into it.

    ``reads`` and ``writes`` number the channels along the axes of its weight; for a linear layer
    behind a flatten, each channel's number repeats H * W times.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm2d | None
    reads: Tensor
    writes: Tensor

    @property
    def depthwise(self) -> bool:
        return isinstance(self.module, nn.Conv2d) and self.module.groups > 1

    @property
    def padded(self) -> bool:
        return isinstance(self.module, nn.Conv2d) and self.module.padding != (0, 0)


@dataclass
class Structure:
    """The layers of a network, the BatchNorms that fold into none, and its channel numbers."""

    network: nn.Module
    layers: list[Layer] = field(default_factory=list)
    free_norms: list[tuple[nn.BatchNorm2d, Tensor]] = field(default_factory=list)
    spaces: list[Tensor] = field(default_factory=list)  # the sets of numbers that may die
    total: int = 0

    def new(self, width: int, mortal: bool = True) -> Tensor:
        ids = torch.arange(self.total, self.total + width)
        self.total += width
        if mortal:
            self.spaces.append(ids)
        return ids

    def layer(self, name: str, reads: Tensor, norm: str = "", writes: Ids = None) -> Tensor:
        module = self.network.get_submodule(name)
        width, per_group = module.weight.shape[:2]
        if per_group == 1 and module.groups > 1:
            writes = reads
        elif isinstance(module, nn.Linear):
            reads = reads.repeat_interleave(per_group // len(reads))
        if writes is None:
            writes = self.new(width)
        folded = self.network.get_submodule(norm) if norm else None
        self.layers.append(Layer(name, module, folded, reads, writes))
        return writes

    def head(self, name: str, reads: Tensor) -> None:
        classes = self.network.get_submodule(name).weight.shape[0]
        self.layer(name, reads, writes=self.new(classes, mortal=False))

    def free_norm(self, name: str, reads: Tensor) -> None:
        self.free_norms.append((self.network.get_submodule(name), reads))

    def has(self, name: str) -> bool:
        return any(key.startswith(f"{name}.") for key in self.network.state_dict())

    def children(self, name: str) -> list[str]:
        return [f"{name}.{key}" for key, _ in self.network.get_submodule(name).named_children()]

    def blocks(self, *stages: str) -> list[str]:
        return [block for stage in stages if self.has(stage) for block in self.children(stage)]

    def parameters(self, dead: Tensor) -> int:
        """Values left in weights, biases and free BatchNorms without the dead channels."""
        total = 2 * sum(int((~dead[ids]).sum()) for _, ids in self.free_norms)
        for layer in self.layers:
            outputs, inputs = int((~dead[layer.writes]).sum()), int((~dead[layer.reads]).sum())
            kernel = layer.module.weight.shape[2:].numel()
            biased = layer.norm is not None or layer.module.bias is not None
            total += outputs * ((1 if layer.depthwise else inputs) * kernel + biased)
        return total


def _resnet(
    s: Structure, image: Tensor, norm: str = "bn1", shortcut: str = "downsample.1", fc: str = "fc"
) -> None:
    """A stage's stream is one set of channels: every last convolution of a block writes it."""
    x = s.layer("conv1", image, norm)
    for block in s.blocks("layer1", "layer2", "layer3", "layer4"):
        out = x
        if s.has(f"{block}.downsample"):
            out = s.layer(f"{block}.downsample.0", x, f"{block}.{shortcut}")
        last = 3 if s.has(f"{block}.conv3") else 2
        y = x
        for k in range(1, last):
            y = s.layer(f"{block}.conv{k}", y, f"{block}.bn{k}")
        x = s.layer(f"{block}.conv{last}", y, f"{block}.bn{last}", writes=out)
    s.head(fc, x)


def _cifar_resnet(s: Structure, image: Tensor) -> None:
    """Option A carries the channels of a stage on, as the middle ones of the next."""
    x = s.layer("conv1", image, "bn1")
    for block in s.blocks("layer1", "layer2", "layer3"):
        y = s.layer(f"{block}.conv1", x, f"{block}.bn1")
        half = (len(s.network.get_submodule(f"{block}.bn2").weight) - len(x)) // 2
        x = torch.cat([s.new(half), x, s.new(half)]) if half else x
        s.layer(f"{block}.conv2", y, f"{block}.bn2", writes=x)
    s.head("linear", x)


def _vgg(s: Structure, image: Tensor) -> None:
    x, features = image, s.network.get_submodule("features")
    for k, child in enumerate(features):
        if isinstance(child, nn.Conv2d):
            folds = isinstance(features[k + 1], nn.BatchNorm2d)
            x = s.layer(f"features.{k}", x, f"features.{k + 1}" if folds else "")
    if not s.has("classifier.6"):
        return s.head("classifier", x)
    return s.head("classifier.6", s.layer("classifier.3", s.layer("classifier.0", x)))


def _mobilenet_v1(s: Structure, image: Tensor) -> None:
    """A depthwise convolution and the 1x1 before it write the same channels."""
    x = s.layer("model.0.0", image, "model.0.1")
    for pair in s.children("model")[1:]:
        x = s.layer(f"{pair}.0", x, f"{pair}.1")
        x = s.layer(f"{pair}.3", x, f"{pair}.4")
    s.head("fc", x)


def _mobilenet_v2(s: Structure, image: Tensor) -> None:
    """The linear ends of a stage's blocks write one stream; inside, depthwise as in version 1."""
    stem, *blocks, last = s.children("features")
    x = s.layer(f"{stem}.0", image, f"{stem}.1")
    for block in blocks:
        *inner, project, norm = s.children(f"{block}.conv")
        y = x
        for conv in inner:
            y = s.layer(f"{conv}.0", y, f"{conv}.1")
        residual = s.network.get_submodule(block).residual
        x = s.layer(project, y, norm, writes=x if residual else None)
    x = s.layer(f"{last}.0", x, f"{last}.1")
    s.head("classifier.1", x)


def _densenet(s: Structure, image: Tensor) -> None:
    """Every layer's own BatchNorm reads the concatenation of all before: it folds into none."""
    x = s.layer("features.conv0", image, "features.norm0")
    for part in s.children("features"):
        if "transition" in part:
            s.free_norm(f"{part}.norm", x)
            x = s.layer(f"{part}.conv", x)
        for dense in s.children(part) if "denseblock" in part else ():
            s.free_norm(f"{dense}.norm1", x)
            y = s.layer(f"{dense}.conv1", x, f"{dense}.norm2")
            x = torch.cat([x, s.layer(f"{dense}.conv2", y)])
    s.free_norm("features.norm5", x)
    s.head("classifier", x)


def _squeezenet(s: Structure, image: Tensor) -> None:
    x = s.layer("features.0", image)
    for fire in s.children("features"):
        if s.has(f"{fire}.squeeze"):
            y = s.layer(f"{fire}.squeeze", x)
            x = torch.cat([s.layer(f"{fire}.expand{k}", y) for k in ("1x1", "3x3")])
    s.head("classifier.1", x)


def _wide_resnet(s: Structure, image: Tensor) -> None:
    """Only the first BatchNorm folds backwards: alone it is the sole reader of a convolution."""
    x = s.layer("conv1", image, "block1.layer.0.bn1")
    for block in s.blocks("block1.layer", "block2.layer", "block3.layer"):
        if block != "block1.layer.0":
            s.free_norm(f"{block}.bn1", x)
        out = s.layer(f"{block}.convShortcut", x) if s.has(f"{block}.convShortcut") else x
        y = s.layer(f"{block}.conv1", x, f"{block}.bn2")
        x = s.layer(f"{block}.conv2", y, writes=out)
    s.free_norm("bn1", x)
    s.head("fc", x)


FAMILIES: dict[str, Callable[[Structure, Tensor], None]] = {
    "ResNet": _resnet,
    "GraspResNet": partial(_resnet, norm="bn", shortcut="bn3", fc="linear"),
    "CifarResNet": _cifar_resnet,
    "VGG": _vgg,
    "MobileNetV1": _mobilenet_v1,
    "MobileNetV2": _mobilenet_v2,
    "DenseNet": _densenet,
    "SqueezeNet": _squeezenet,
    "WideResNet": _wide_resnet,
}


def describe(network: nn.Module) -> Structure:
    """The hand-written structure of a reference network, at whatever widths it has."""
    structure = Structure(network)
    image = structure.new(next(network.parameters()).shape[1], mortal=False)
    FAMILIES[type(network).__name__](structure, image)
    return structure


@torch.no_grad()
def apply(
    module: nn.Module, recipe_name: str, regime: str, fraction: float, seed: int, side: int = 0
) -> int:
    """Randomise ``module`` in place, make ``fraction`` of its channels dead, return what remains.

    The regimes; "dead" numbers are drawn from every set of channels, never all of one:

    - clean: all writers' weight rows, biases, gammas and betas are zero, and so are gamma and beta
      of BatchNorms that stand before a reader.
    - beta: the same, but the betas (biases, where there is no BatchNorm) are not zero: the channel
      holds a constant, of one sign for all its writers, so that ReLU stops about half of them.
    - columns: all readers' weights for the channel are zero; it is neither zero nor constant.
    - independent: every layer has its own zero rows (with bias, gamma, beta). Removable is what
      all writers of a residual stream leave zero; of a depthwise convolution and the 1x1 before
      it, one is enough, as the other's output is then constant or unread.

    Counted are weights and biases of convolutions and linear layers once everything removable is
    gone and every BatchNorm behind a convolution is folded into it (which gives that convolution a
    bias); a BatchNorm that cannot fold (DenseNet, Wide ResNet: it follows a concatenation or an
    add) counts two vectors, scale and shift; a convolution with neither keeps no bias. In the beta
    regime, what constants add to a zero-padded convolution counts as a table with one value an
    output channel for every kind of position, on an input of ``side`` by ``side`` (the recipe's
    where 0); other constants become biases.

    Returns:
        The number of parameters, or -1 where it is not derived: beta and independent where a
        BatchNorm cannot fold (constants then give biases to convolutions without one).
    """
    structure, random = describe(module), torch.Generator().manual_seed(seed)
    _randomise(module, by_name(recipe_name).input_shape, random)
    if regime == "independent":
        dead = _zero_rows(structure, fraction, random)
        return -1 if structure.free_norms else structure.parameters(dead)
    dead = torch.zeros(structure.total, dtype=torch.bool)
    for ids in structure.spaces:
        dead[_choose(ids, fraction, random)] = True
    if regime == "columns":
        for layer in structure.layers:
            if not layer.depthwise:
                layer.module.weight[:, dead[layer.reads]] = 0
        return structure.parameters(dead)
    constants = torch.zeros(structure.total)
    if regime == "beta":
        constants.uniform_(0.2, 1.0, generator=random)
        constants[torch.rand(structure.total, generator=random) < 0.5] *= -1
    for layer in structure.layers:
        _kill(layer, dead[layer.writes], constants[layer.writes])
    for norm, ids in structure.free_norms:
        _set_norm(norm, dead[ids], constants[ids])
    if regime == "clean":
        return structure.parameters(dead)
    if structure.free_norms:
        return -1
    side = side or by_name(recipe_name).input_shape[1]
    return structure.parameters(dead) + _tables(structure, dead, constants, side)


def _choose(ids: Tensor, fraction: float, random: torch.Generator) -> Tensor:
    """Which die; the first never does, so that no set is empty in any regime."""
    order = torch.randperm(len(ids) - 1, generator=random)
    return ids[1:][order[: int(fraction * len(ids))]]


def _zero_rows(structure: Structure, fraction: float, random: torch.Generator) -> Tensor:
    """Zero rows layer by layer; which numbers can go then."""
    mortal = torch.zeros(structure.total, dtype=torch.bool)
    mortal[torch.cat(structure.spaces)] = True
    all_zero, one_depthwise = mortal.clone(), torch.zeros_like(mortal)
    for layer in structure.layers:
        rows = torch.zeros_like(mortal)
        if mortal[layer.writes].all():
            rows[_choose(layer.writes, fraction, random)] = True
        _kill(layer, rows[layer.writes], torch.zeros(len(layer.writes)))
        if layer.depthwise:
            one_depthwise |= rows
        else:
            all_zero[layer.writes] &= rows[layer.writes]
    return all_zero | one_depthwise


def _tables(structure: Structure, dead: Tensor, constants: Tensor, side: int) -> int:
    """Values in the tables of what constants add at the borders of padded convolutions.

    A map of height H has as many kinds of rows as there are sets of taps that fall inside it.
    """
    sizes = _sizes(structure, side)
    total = 0
    for layer in structure.layers:
        # Behind a ReLU: negative constants are zeros.
        reaching = dead[layer.reads] & (constants[layer.reads] > 0)
        if layer.padded and not layer.depthwise and reaching.any():
            kinds = 1
            for axis in (0, 1):
                kernel, stride, pad = (
                    getattr(layer.module, key)[axis] for key in ("kernel_size", "stride", "padding")
                )
                size = sizes[layer.name][axis]
                places = range(0, size + 2 * pad - kernel + 1, stride)
                taps = {tuple(0 <= at + t - pad < size for t in range(kernel)) for at in places}
                kinds *= len(taps)
            total += int((~dead[layer.writes]).sum()) * kinds
    return total


def _sizes(structure: Structure, side: int) -> dict[str, tuple[int, int]]:
    """Height and width of what each layer reads, for an input of ``side`` by ``side``."""
    sizes: dict[str, tuple[int, int]] = {}
    hooks = [
        layer.module.register_forward_pre_hook(
            lambda _, inputs, name=layer.name: sizes.update({name: inputs[0].shape[2:]})
        )
        for layer in structure.layers
    ]
    stem = next(m for m in structure.network.modules() if isinstance(m, nn.Conv2d))
    structure.network.eval()(torch.zeros(1, stem.in_channels, side, side))
    for hook in hooks:
        hook.remove()
    return sizes


def _kill(layer: Layer, rows: Tensor, constants: Tensor) -> None:
    layer.module.weight[rows] = 0
    if layer.module.bias is not None:
        value = constants if layer.norm is None else torch.zeros_like(constants)
        layer.module.bias[rows] = value[rows].to(layer.module.bias)
    if layer.norm is not None:
        _set_norm(layer.norm, rows, constants)


def _set_norm(norm: nn.BatchNorm2d, rows: Tensor, betas: Tensor) -> None:
    norm.weight[rows] = 0
    norm.bias[rows] = betas[rows].to(norm.bias)


def _randomise(network: nn.Module, shape: tuple[int, int, int], random: torch.Generator) -> None:
    """He-normal weights, random affine parameters, and BatchNorm statistics from a random batch.

    Measured statistics keep the activations of deep residual networks in scale; a little noise on
    top keeps them from being exact.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = (2 / module.weight[0].numel()) ** 0.5
            module.weight.normal_(0, deviation, generator=random)
            if module.bias is not None:
                module.bias.uniform_(-0.2, 0.2, generator=random)
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5, generator=random)
        norm.bias.uniform_(-0.5, 0.5, generator=random)
        norm.train().momentum = 1.0
    if norms:
        stem, side = next(network.parameters()), min(shape[1], 64)
        network(torch.rand(4, stem.shape[1], side, side, generator=random).to(stem))
    for norm in norms:
        norm.eval().momentum = 0.1
        scale = norm.running_var.clamp_(min=0.01).sqrt()
        norm.running_mean += scale * torch.randn(scale.shape, generator=random) / 10
        norm.running_var *= torch.rand(scale.shape, generator=random) / 2 + 0.75
