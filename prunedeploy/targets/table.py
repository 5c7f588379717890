"""The table of targets.

Figures are peaks of the data sheet that ``source`` names, at the clock it gives, and what a machine
reaches is less; those of x86 were measured on one core of an AMD EPYC with AVX-512
(``benchmarks/scatter.py``, ``machine.py``), AVX2 at half its width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prunedeploy.targets.target import Peak, Target, Toolchain
from prunedeploy.targets.tensorrt import dialect

GPU_RUNTIMES = ("tensorrt", "ort-tensorrt", "ort-cuda", "sparse")  # on a server or a PC
# of sm_75, 80, 86, 89, 120
RTX_RUNTIMES = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-cuda", "sparse")


def _tensorrt(version: str, *precisions: str, name: str = "", **system: str) -> Toolchain:
    """The toolchain of a machine with this version of TensorRT."""
    limits = dialect(version)
    name = name or f"TensorRT {version}"
    return Toolchain(name, limits.opset, limits.ir_version, precisions, **system)


# JetPack 4.6 is the last for the Jetson Nano, and TensorRT 8.2 the version in it.
JETPACK_4 = _tensorrt("8.2", "float32", "float16", python="3.6", glibc="2.27")
JETPACK_6 = _tensorrt("10.3", "float32", "tf32", "float16", "int8", python="3.10", glibc="2.35")
# servers and PCs, where a newer version can be installed
TURING = _tensorrt("10.6", "float32", "float16", "int8", name="TensorRT 10")
AMPERE = _tensorrt("10.6", "float32", "tf32", "bfloat16", "float16", "int8", name="TensorRT 10")


def _peaks(**operations: float) -> tuple[Peak, ...]:
    return tuple(Peak(precision, number) for precision, number in operations.items())


HOPPER = _peaks(
    float64=34e12, float32=67e12, tf32=494.5e12, bfloat16=989.5e12, float16=989.5e12, int8=1979e12
)


def _x86(name: str, what: str, isa: tuple[str, ...], multiple: int, macs: float) -> Target:
    return Target(
        name,
        what,
        "x86_64",
        isa,
        runtimes=("ort", "sparse"),
        multiple=multiple,
        macs_per_second=macs,
        bytes_per_second=28e9,
        source="one core, measured: benchmarks/scatter.py",
        hz=3.65e9,
        cache_bytes=32 << 20,
    )


def _server(
    *identity: str,
    peaks: tuple[Peak, ...],
    runtimes: tuple[str, ...] = RTX_RUNTIMES,
    **rest: Any,
) -> Target:
    """A GPU in an x86 machine, whatever its processor: ``identity`` is name, words, capability.

    From Ampere on its tensor cores take 2:4 sparse weights.
    """
    name, what, capability = identity
    newer = float(capability) >= 8.0
    target = Target(name, what, "x86_64", (), capability, runtimes, multiple=8, peaks=peaks, **rest)
    return replace(
        target,
        macs_per_second=target.peak("float32") / 2,
        sparse_tensor_cores=newer,
        toolchain=AMPERE if newer else TURING,
    )


TARGETS: tuple[Target, ...] = (
    Target("host", "this machine", "detected", runtimes=("ort", "sparse", "hybrid", "null")),
    _x86("x86-avx2", "x86-64 with AVX2 and FMA", ("avx2", "fma"), 8, 25e9),
    _x86("x86-avx512", "x86-64 with AVX-512", ("avx2", "fma", "avx512"), 16, 50e9),
    Target(
        "raspberry-pi-5",
        "4 Cortex-A76",
        "aarch64",
        ("neon",),
        runtimes=("ort", "sparse"),
        board="Raspberry Pi 5",
        multiple=4,
        cores=4,
        cpu="cortex-a76",
        # two 128-bit pipes of FMA at 2.4 GHz; LPDDR4X-4267, 32 bits wide
        peaks=_peaks(float32=154e9, float16=307e9),
        macs_per_second=77e9,
        bytes_per_second=17.1e9,
        source="Arm Cortex-A76 Software Optimization Guide; Raspberry Pi 5 product brief",
        hz=2.4e9,
        cache_bytes=2 << 20,
    ),
    Target(
        "jetson-nano",
        "4 Cortex-A57 and a Maxwell GPU",
        "aarch64",
        ("neon",),
        "5.3",
        ("tensorrt", "ort", "sparse", "sparse-gpu"),
        ("jetson",),
        "Jetson Nano",
        multiple=8,
        cores=4,
        cpu="cortex-a57",
        peaks=_peaks(float32=236e9, float16=472e9),
        macs_per_second=236e9,
        bytes_per_second=25.6e9,
        source="NVIDIA Jetson Nano data sheet DS-09366: 128 cores at 921.6 MHz, LPDDR4 25.6 GB/s",
        toolchain=JETPACK_4,
        hz=1.43e9,
        cache_bytes=256 << 10,
    ),
    Target(
        "jetson-orin",
        "Cortex-A78AE and an Ampere GPU (figures: AGX Orin 64 GB)",
        "aarch64",
        ("neon",),
        "8.7",
        ("tensorrt", "ort", "sparse", "sparse-gpu"),
        board="Orin",
        multiple=8,
        cores=12,
        cpu="cortex-a78ae",
        peaks=_peaks(float32=5.3e12, float16=42.5e12, int8=85e12),
        macs_per_second=2.65e12,
        bytes_per_second=204.8e9,
        source="NVIDIA Jetson AGX Orin Series technical brief v1.2, GPU alone, halved for density",
        sparse_tensor_cores=True,
        toolchain=JETPACK_6,
        hz=2.2e9,
        cache_bytes=4 << 20,
    ),
    _server(
        *("rtx2080ti", "a Turing GPU", "7.5"),
        peaks=_peaks(float32=13.4e12, float16=53.8e12, int8=215e12),
        bytes_per_second=616e9,
        cache_bytes=5.5e6,
        source="NVIDIA Turing architecture whitepaper WP-09183; float16 with float32 sums",
    ),
    _server(
        *("t4", "a Turing GPU of data centres", "7.5"),
        peaks=_peaks(float32=8.1e12, float16=65e12, int8=130e12),
        bytes_per_second=320e9,
        cache_bytes=4 << 20,
        source="NVIDIA T4 data sheet",
    ),
    _server(
        *("a100", "an Ampere GPU of data centres (SXM, 80 GB)", "8.0"),
        peaks=_peaks(
            float64=9.7e12,
            float32=19.5e12,
            tf32=156e12,
            bfloat16=312e12,
            float16=312e12,
            int8=624e12,
        ),
        bytes_per_second=2039e9,
        cache_bytes=40 << 20,
        source="NVIDIA A100 data sheet",
    ),
    _server(
        *("a10", "an Ampere GPU of data centres (24 GB)", "8.6"),
        peaks=_peaks(float32=31.2e12, tf32=62.5e12, bfloat16=125e12, float16=125e12, int8=250e12),
        bytes_per_second=600e9,
        cache_bytes=6 << 20,
        source="NVIDIA A10 data sheet, halved for density",
    ),
    _server(
        *("l4", "an Ada GPU of data centres", "8.9"),
        peaks=_peaks(float32=30.3e12, tf32=60e12, bfloat16=121e12, float16=121e12, int8=242.5e12),
        bytes_per_second=300e9,
        cache_bytes=48 << 20,
        source="NVIDIA L4 data sheet, halved for density",
    ),
    _server(
        *("h100", "a Hopper GPU (SXM, 80 GB)", "9.0"),
        runtimes=GPU_RUNTIMES,
        peaks=HOPPER,
        bytes_per_second=3350e9,
        cache_bytes=50 << 20,
        source="NVIDIA H100 data sheet, halved for density",
    ),
    _server(
        *("h200", "a Hopper GPU (SXM, 141 GB)", "9.0"),
        runtimes=GPU_RUNTIMES,
        peaks=HOPPER,
        bytes_per_second=4800e9,
        cache_bytes=50 << 20,
        source="NVIDIA H200 data sheet, halved for density",
    ),
)
