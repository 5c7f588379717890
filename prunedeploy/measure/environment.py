"""The environment of a measurement: machine, operating system, versions, date."""

from __future__ import annotations

import datetime
import platform
from importlib import metadata
from pathlib import Path

from prunedeploy import targets

CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
LIBRARIES = ("prunedeploy", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu")


def environment() -> dict[str, str]:
    """Names to values; facts that this machine does not report are left out."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(targets.cores()),
        "isa": " ".join(targets.host_isa()),
        "clock_mhz": _cpuinfo("cpu MHz"),
        "governor": _read(CPUFREQ / "scaling_governor"),
        "load": _read(Path("/proc/loadavg")).partition(" ")[0],
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }
    return {key: value for key, value in facts.items() if value}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith(key)), "")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
