"""Detects this machine: its cores, instruction sets, board and GPUs."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import platform
from pathlib import Path
from typing import Any

from prunedeploy.targets.quota import cpu_quota
from prunedeploy.targets.table import RTX_RUNTIMES, TARGETS
from prunedeploy.targets.target import ISA_FLAGS, LANES, Target

FIGURES = ("macs_per_second", "bytes_per_second", "source", "hz", "cache_bytes")
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def cores() -> int:
    """Cores this process may use, at least 1: those it may be scheduled on, and no more than a
    container's CPU limit grants it whole.

    A part of a core does not count: a thread for it would be stopped in the middle of its work
    whenever the quota is used up, with all others waiting for it.
    """
    return max(1, int(min(len(os.sched_getaffinity(0)), cpu_quota())))


def host_isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instruction sets of ``ISA_FLAGS`` that this machine has."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((set(x.split()) for x in lines if x.startswith(("flags", "Features"))), set())
    return tuple(name for name, flag in ISA_FLAGS.items() if flag in flags)


@functools.cache
def gpus() -> tuple[str, ...]:
    """Compute capabilities of the CUDA GPUs here, as the driver tells; none without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    capabilities = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
        capabilities.append(f"{major.value}.{minor.value}")
    return tuple(capabilities)


def board() -> str:
    """The name of this machine in the device tree; empty where there is none."""
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace")
    except OSError:
        return ""


def detected(host: Target) -> Target:
    """The host's target with what this machine was detected to be."""
    isa = host_isa()
    lanes = next((count for name, count in LANES.items() if name in isa), 1)
    filled = dataclasses.replace(
        host,
        what=f"{host.what}, {cores()} cores",
        arch=platform.machine(),
        isa=isa,
        multiple=lanes,
        cores=cores(),
    )
    if capability := next(iter(gpus()), None):
        # behind those of the CPU: a GPU is asked for by name
        runtimes = (*host.runtimes, *(x for x in RTX_RUNTIMES if x not in host.runtimes))
        filled = dataclasses.replace(filled, compute_capability=capability, runtimes=runtimes)
    for like in TARGETS:  # the figures of the last target whose instruction sets it has
        comparable = like.arch == filled.arch and like.isa and not like.board
        if comparable and set(like.isa) <= set(isa):
            figures: dict[str, Any] = {name: getattr(like, name) for name in FIGURES}
            filled = dataclasses.replace(filled, **figures)
    return filled


def why_not_here(target: Target) -> str | None:
    """The reason why this machine is not ``target``, in one line; None where it is."""
    if target.name == "host":
        return None
    lead = f"{target.name} is not at hand"
    advice = "build on the device itself, or for --target host"
    if target.arch != platform.machine():
        return f"{lead}: this machine is {platform.machine()}, not {target.arch}; {advice}"
    if target.board and target.board not in board():
        return f"{lead}: this machine is not a {target.board}; {advice}"
    if target.compute_capability is not None and not target.board:
        if not gpus():
            return f"{lead}: no CUDA GPU here; {advice}"
        if target.compute_capability not in gpus():
            have = ", ".join(gpus())
            return f"{lead}: the GPU here is of {have}, not {target.compute_capability}; {advice}"
    if missing := [name for name in target.isa if name not in host_isa()]:
        return f"{lead}: this machine lacks {', '.join(missing)}; {advice}"
    return None
