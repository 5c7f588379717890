"""Every micro-pattern by name, with the regimes that make sense for it. Add a row to add one."""

from __future__ import annotations

from functools import partial

from torch import nn

from peers.case import Spec
from peers.joined import (
    Concat,
    ConvNext,
    Dense,
    Inception,
    Inverted,
    Many,
    Rep,
    Residual,
    Siamese,
    Skip,
)
from peers.sequences import Attention, Embedded, Recurrent
from peers.toys import (
    DEAD,
    UNEVEN,
    WIDTH,
    Between,
    Excited,
    Flat,
    Mean,
    Middle,
    Shuffled,
    Split,
    Wrapped,
    halves,
    in_turn,
)

CLEAN, BETA, COLUMNS = ("clean",), ("clean", "beta"), ("clean", "beta", "columns")
ALL = (*COLUMNS, "independent")
TWO_IMAGES = ((2, 3, 8, 8), (2, 3, 8, 8))
SEQUENCE, TOKENS = ((2, 5, 8),), ((2, 5),)
WIDE_SEQUENCE = ((2, 5, WIDTH),)
GROUP = (4, 5, 6, 7)
SAME = (1, 5, 9, 13)  # the same in each quarter
MIXED = (2, 7, 8, 15)  # constants of either sign, of which ReLU lets two pass


def _grouped(groups: int) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=groups)


def _norm(norm: nn.Module, last: bool = False, normalised: bool = True) -> Between:
    return Between(Wrapped(norm, last), normalised=normalised)


CONVOLUTIONS = (
    Spec("plain", lambda: Between(nn.ReLU()), COLUMNS),
    Spec("denormal rows", lambda: Between(nn.ReLU()), ("denormal",)),
    Spec("BN, pad 1", lambda: Between(nn.ReLU(), norm=True), (*COLUMNS, "negative beta")),
    Spec("BN, 1x1", lambda: Between(nn.ReLU(), kernel=1, norm=True), BETA),
    Spec("BN, flatten", lambda: Flat(norm=True), BETA),
    Spec("flatten -> linear", Flat, COLUMNS),
    Spec("depthwise", lambda: Middle(_grouped(WIDTH), MIXED, MIXED), BETA),
    Spec("depthwise, its rows only", lambda: Middle(_grouped(WIDTH), MIXED, MIXED, "rows"), BETA),
    Spec("grouped, equal per group", lambda: Middle(_grouped(4), SAME, SAME), COLUMNS),
    Spec("grouped, 1 per group", lambda: Middle(_grouped(4)), COLUMNS),
    Spec("grouped, unequal", lambda: Middle(_grouped(4), (1, 2, 3, 5), (1, 5, 6, 14)), COLUMNS),
    Spec("grouped, whole group", lambda: Middle(_grouped(4), GROUP, GROUP), COLUMNS),
    Spec("ConvTranspose", lambda: Middle(nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)), COLUMNS),
    Spec("Conv, stride 2, dilated", lambda: Middle(nn.Conv2d(WIDTH, WIDTH, 3, 2, 2, 2)), COLUMNS),
)

OPERATORS = (
    Spec("PReLU", lambda: Between(nn.PReLU(WIDTH)), BETA),
    Spec("hard swish", lambda: Between(nn.Hardswish()), BETA),
    Spec("GELU", lambda: Between(nn.GELU()), BETA),
    Spec("sigmoid(0) = .5, pad 1", lambda: Between(nn.Sigmoid())),
    Spec("sigmoid(0) = .5, 1x1", lambda: Between(nn.Sigmoid(), kernel=1)),
    Spec("max pool", lambda: Between(nn.MaxPool2d(2)), BETA),
    Spec("average pool, padded", lambda: Between(nn.AvgPool2d(3, 1, 1)), BETA),
    Spec("bilinear upsample", lambda: Between(nn.Upsample(scale_factor=2, mode="bilinear")), BETA),
    Spec("nearest upsample", lambda: Between(nn.Upsample(scale_factor=2)), BETA),
    Spec("pad with 1", lambda: Between(nn.ConstantPad2d(1, 1.0), padding=0), BETA),
    Spec("pad by reflection", lambda: Between(nn.ReflectionPad2d(1), padding=0), BETA),
    Spec("pixel shuffle", lambda: Between(nn.PixelShuffle(2), tail=4, dead=GROUP), BETA),
    Spec("squeeze-excite", Excited, COLUMNS),
    Spec("squeeze-excite, live gates", lambda: Excited(live=True)),
    Spec("softmax over C", lambda: Between(nn.Softmax2d()), CLEAN, nothing=True),
    Spec("mean over C", lambda: Between(Mean(), tail=1), BETA),
)

NORMS = (
    Spec("InstanceNorm", lambda: _norm(nn.InstanceNorm2d(WIDTH, affine=True)), BETA),
    Spec("GroupNorm, scale 0", lambda: _norm(nn.GroupNorm(4, WIDTH)), BETA),
    Spec("LayerNorm over C, scale 0", lambda: _norm(nn.LayerNorm(WIDTH), True), BETA),
    Spec(
        "GroupNorm, scale not 0",
        lambda: _norm(nn.GroupNorm(4, WIDTH), normalised=False),
        nothing=True,
    ),
    Spec(
        "LayerNorm over C, scale not 0",
        lambda: _norm(nn.LayerNorm(WIDTH), True, normalised=False),
        nothing=True,
    ),
)

JOINS = (
    Spec("concat", Concat, COLUMNS),
    Spec("residual add", Residual, ALL),
    Spec("whole branch", partial(Residual, True), BETA),
    Spec("chunk, equal", lambda: Split(halves, "halves", SAME), COLUMNS),
    Spec("chunk, 2 + 2", lambda: Split(halves, "halves", DEAD), COLUMNS),
    Spec("chunk, 3 + 1", lambda: Split(halves, "halves", UNEVEN), COLUMNS),
    Spec("slice, step 2", lambda: Split(in_turn, "in turn", UNEVEN), COLUMNS),
    Spec("channel shuffle", Shuffled, COLUMNS),
    Spec("channel shuffle, 3 + 1", lambda: Shuffled(UNEVEN), COLUMNS),
    Spec("Inception", Inception, ALL),
    Spec("DenseNet", Dense, ALL),
    Spec("RepVGG", Rep, COLUMNS),
    Spec("inverted residual", Inverted, ALL),
    Spec("ConvNeXt block", ConvNext, COLUMNS),
    Spec("U-Net", Skip, ALL),
    Spec("Siamese", Siamese, COLUMNS, TWO_IMAGES),
    Spec("two inputs, two outputs", Many, COLUMNS, TWO_IMAGES),
)

SEQUENCES = (
    Spec("LSTM", lambda: Recurrent(nn.LSTM), ("clean", "columns"), SEQUENCE),
    Spec("GRU", lambda: Recurrent(nn.GRU), ("clean", "columns"), SEQUENCE),
    Spec("embedding", lambda: Embedded(False), ("clean", "columns"), TOKENS, tokens=20),
    Spec("embedding, tied", lambda: Embedded(True), CLEAN, TOKENS, tokens=20),
    Spec("heads", lambda: Attention(4, 1, False, "head"), COLUMNS, WIDE_SEQUENCE),
    Spec("heads, fused QKV", lambda: Attention(4, 1, True, "head"), COLUMNS, WIDE_SEQUENCE),
    Spec("grouped-query heads", lambda: Attention(4, 2, False, "head"), COLUMNS, WIDE_SEQUENCE),
    Spec("value dimensions", lambda: Attention(4, 1, False, "value"), COLUMNS, WIDE_SEQUENCE),
    Spec("dimensions, fused QKV", lambda: Attention(4, 1, True, "dimension"), CLEAN, WIDE_SEQUENCE),
)

PATTERNS = (*CONVOLUTIONS, *OPERATORS, *NORMS, *JOINS, *SEQUENCES)
