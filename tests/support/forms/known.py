"""Where the interpreter and ONNX Runtime are known to differ, and who is right.

A row is for an operator, the labels of forms that its pattern finds, and what becomes of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    operator: str
    pattern: str
    status: str  # differ, or refused
    reason: str

    def holds(self, operator: str, status: str, label: str) -> bool:
        found = re.search(self.pattern, label) is not None
        return operator == self.operator and status == self.status and found


DILATED = (
    r"(?=.*auto_pad=SAME_).*dilations=",
    "differ",
    "ONNX Runtime takes the pads from a kernel without dilations; by ONNX the result has "
    "ceil(size / stride) elements",
)

KNOWN: tuple[Known, ...] = (
    Known("AveragePool", *DILATED),
    Known("LpPool", *DILATED),
    Known("MaxPool", *DILATED),
    Known(
        "AffineGrid",
        r"1, 1, 4\] align_corners=1",
        "refused",
        "one element between two corners: 0 / 0 in ONNX's definition, 0 in ONNX Runtime",
    ),
    Known(
        "Attention",
        r"mask 2 qk_matmul_output_mode=2",
        "differ",
        "scores that a boolean mask takes out are -inf by ONNX's definition, the lowest finite "
        "number in ONNX Runtime",
    ),
    Known(
        "Attention",
        r"float64 lengths is_causal=1",
        "differ",
        "ONNX Runtime computes float64 by the definition that onnx 1.23 has put right",
    ),
    Known(
        "BlackmanWindow",
        r"^int\d+ 1( |$)",
        "differ",
        "0.42 - 0.5 + 0.08 is 0 but for rounding, which in ONNX Runtime is that of float32",
    ),
    Known("Cast", r"^float\d+ to text", "refused", "ONNX does not say how a float is written"),
    Known(
        "DFT",
        r" 2 (None|1|2|-2) 4 inverse=1 onesided=1",
        "differ",
        "a half spectrum longer than dft_length has: ONNX Runtime reads on, NumPy's irfft does not",
    ),
    Known(
        "MaxUnpool",
        r" shape",
        "refused",
        "ONNX's own example has indices of the shape that follows from the attributes, ONNX "
        "Runtime takes them for those of output_shape",
    ),
    Known(
        "QuantizeLinear",
        r"^float16 \w+ axis=-1 block_size=4",
        "differ",
        "the scale's type is that of the division, float16; ONNX Runtime divides in float32",
    ),
    Known(
        "ReduceLogSumExp",
        r"int",
        "differ",
        "by ONNX's definition (version 18) computed in float64, by ONNX Runtime in integers",
    ),
    Known(
        "Resize",
        r"half_pixel_symmetric mode=nearest nearest_mode=ceil",
        "differ",
        "the middle of the input, 3.0 but for the last bit of float32, rounded up",
    ),
    Known("Sign", r"special values float16", "differ", "ONNX Runtime has 0 for NaN in float16"),
    Known(
        "StringSplit",
        r"^(delimiter= )?maxsplit=1",
        "differ",
        "the rest of a text keeps the space at its end; ONNX Runtime takes it away",
    ),
    Known(
        "Upsample",
        r"^(int32|uint8).* mode=linear",
        "refused",
        "ONNX does not say how integers between two others are rounded",
    ),
)


def known(operator: str, status: str, label: str) -> Known | None:
    return next((row for row in KNOWN if row.holds(operator, status, label)), None)
