"""Exponentials, logarithms and what is made of them, by polynomials.

Coefficients are those of the CPU's kernels (``c/functions.h``), whose results are within 2 units of
the last digit. Of the GPU's own approximations only ``ex2.approx`` is taken, which is within 2
units over its whole range; ``lg2.approx`` and ``tanh.approx`` lose digits near 1 and 0.
"""

from __future__ import annotations

import math

from prunedeploy.runtimes.sparse.gpu.instructions import (
    absolute,
    add,
    bounded,
    choose,
    copysign,
    divide,
    fma,
    instruction,
    keep_nan,
    larger,
    mul,
    neg,
    polynomial,
    reciprocal,
    smaller,
    sub,
)
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, f32

LOG2E = f32(math.log2(math.e))
ONE, ZERO, HALF = f32(1), f32(0), f32(0.5)
POWER = instruction("ex2.approx.f32")
EXPM1 = (
    *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
    *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
)
LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
ERF_SMALL = (
    *(-5.96761703e-4, 4.99119423e-3, -2.67681349e-2),
    *(1.12819925e-1, -3.76125336e-1, 1.28379166e-1),
)
ERF_LARGE = (
    *(-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2),
    *(-1.06777877e-1, -6.34846687e-1, -1.28717512e-1),
)
GELU = (
    *(-2.1560288560e-6, 3.1458195735e-5, -1.4977867974e-4, -2.2117356374e-4, 7.1672790347e-3),
    *(-5.2562345072e-2, -4.5918902369e-1, -1.1511069778, -1.0),
)


def exp(entry: Entry, value: str) -> str:
    """By powers of two: ``x * log2(e)`` in two parts, so that large ``x`` keep their digits."""
    high = mul(entry, value, LOG2E)
    low = fma(entry, value, LOG2E, neg(entry, high))
    power = POWER(entry, high)
    # 2^low is 1 + low * ln(2) to the last digit; infinite values have no low part
    scale = mul(entry, low, f32(math.log(2)))
    result = fma(entry, power, scale, power)
    return choose(entry, "nan", result, result, power, result)


def expm1_nonpositive(entry: Entry, value: str) -> str:
    """``exp(x) - 1`` for ``x <= 0``, exact near 0."""
    within = bounded(entry, value, -30.0, math.inf)
    n = instruction("cvt.rni.f32.f32")(entry, mul(entry, within, LOG2E))
    rest = fma(entry, n, f32(-0.693145752), within)
    rest = fma(entry, n, f32(-1.42860677e-6), rest)
    square = mul(entry, rest, rest)
    core = fma(entry, polynomial(entry, rest, EXPM1), square, rest)
    # NaN has no power, and comes out of ``core``
    scale = POWER(entry, n)
    return fma(entry, core, scale, sub(entry, scale, ONE))


def log(entry: Entry, value: str) -> str:
    """The natural logarithm: the exponent, and a polynomial of the rest in [sqrt(1/2), sqrt(2))."""
    tiny = entry.register("pred")
    scaled, less, m, e = entry.registers("f32", 4)
    bits, power = entry.registers("u32", 2)
    entry.add(
        f"setp.lt.f32 {tiny}, {value}, {f32(1.17549435e-38)}",
        f"mul.rn.f32 {scaled}, {value}, {f32(2.0**23)}",
        f"selp.f32 {scaled}, {scaled}, {value}, {tiny}",
        f"selp.f32 {less}, {f32(23)}, {ZERO}, {tiny}",
        f"mov.b32 {bits}, {scaled}",
        f"sub.s32 {bits}, {bits}, {0x3F3504F3}",
        f"shr.s32 {power}, {bits}, 23",
        f"and.b32 {bits}, {bits}, {0x7FFFFF}",
        f"add.s32 {bits}, {bits}, {0x3F3504F3}",
        f"mov.b32 {m}, {bits}",
        f"sub.rn.f32 {m}, {m}, {ONE}",
        f"cvt.rn.f32.s32 {e}, {power}",
        f"sub.rn.f32 {e}, {e}, {less}",
    )
    square = mul(entry, m, m)
    y = fma(
        entry,
        polynomial(entry, m, LOG),
        mul(entry, m, square),
        mul(entry, e, f32(-2.12194440e-4)),
    )
    y = add(entry, fma(entry, square, f32(-0.5), y), m)
    y = fma(entry, e, f32(0.693359375), y)
    y = choose(entry, "lt", value, f32(math.inf), y, value)  # infinity and NaN
    y = choose(entry, "lt", value, ZERO, f32(math.nan), y)
    return choose(entry, "eq", value, ZERO, f32(-math.inf), y)


def log1p_unit(entry: Entry, value: str) -> str:
    """``log(1 + x)`` for ``0 <= x <= 1``: what rounding ``1 + x`` loses is made up for."""
    whole = add(entry, value, ONE)
    lost = sub(entry, sub(entry, whole, ONE), value)
    return sub(entry, log(entry, whole), divide(entry, lost, whole))


def tanh(entry: Entry, value: str) -> str:
    """The hyperbolic tangent: a polynomial near 0, the exponential beyond."""
    size, square = absolute(entry, value), mul(entry, value, value)
    small = fma(entry, mul(entry, polynomial(entry, square, TANH), square), value, value)
    grown = add(entry, exp(entry, add(entry, size, size)), ONE)
    large = fma(entry, reciprocal(entry, grown), f32(-2), ONE)
    signed = copysign(entry, large, value)
    return choose(entry, "lt", size, f32(0.625), small, signed)


def erf(entry: Entry, value: str) -> str:
    """The error function: a polynomial near 0, ``1 - exp(polynomial)`` beyond."""
    size, square = absolute(entry, value), mul(entry, value, value)
    small = fma(entry, polynomial(entry, square, ERF_SMALL), value, value)
    t = smaller(entry, size, f32(4))  # from there on it is 1
    power = exp(entry, fma(entry, polynomial(entry, t, ERF_LARGE), t, neg(entry, t)))
    signed = copysign(entry, sub(entry, ONE, power), value)
    result = choose(entry, "lt", size, f32(0.927734375), small, signed)
    return keep_nan(entry, value, result)


def gelu(entry: Entry, value: str) -> str:
    """``max(x, 0) - |x| * 2^q(|x|)``, with a polynomial for the logarithm of the normal tail."""
    positive = larger(entry, value, ZERO)
    negative = smaller(entry, value, ZERO)
    t = smaller(entry, absolute(entry, value), f32(12))
    power = POWER(entry, polynomial(entry, t, GELU))
    # 0 * -infinity is NaN, as it is in x * (1 + erf(x / sqrt(2)))
    lost = mul(entry, negative, ZERO)
    rest = sub(entry, mul(entry, t, power), lost)
    return keep_nan(entry, value, sub(entry, positive, rest))


def gelu_tanh(entry: Entry, value: str) -> str:
    """``x * (1 + tanh(u)) / 2``, which is ``x / (1 + exp(-2 u))``."""
    square = mul(entry, value, value)
    twice = mul(entry, value, fma(entry, square, f32(-0.0713548162), f32(-1.59576912)))
    return divide(entry, value, add(entry, exp(entry, twice), ONE))


def sigmoid(entry: Entry, value: str) -> str:
    """``1 / (1 + exp(-x))``."""
    return reciprocal(entry, add(entry, exp(entry, neg(entry, value)), ONE))


def softplus(entry: Entry, value: str) -> str:
    """``log(1 + exp(x))``, as ``max(x, 0) + log(1 + exp(-|x|))``."""
    power = exp(entry, neg(entry, absolute(entry, value)))
    return keep_nan(entry, value, add(entry, larger(entry, value, ZERO), log1p_unit(entry, power)))


def mish(entry: Entry, value: str) -> str:
    """``x * tanh(softplus(x))``, which is ``x * n / (n + 2)`` with ``n = e^x * (e^x + 2)``."""
    e = exp(entry, bounded(entry, value, -math.inf, 20.0))
    n = mul(entry, e, add(entry, e, f32(2)))
    return mul(entry, value, divide(entry, n, add(entry, n, f32(2))))
