"""The device's state: its identity, clocks, temperatures, power mode and throttling.

Python 3.6, standard library; every source is optional, and what is not there is left out.
"""

import glob
import os
import platform
import re
import shutil
import signal
import subprocess
import threading
import time
from typing import Any, Dict, List, Optional

CLOCKS = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
# what may say that the device was slowed down: counters that grow, or states above zero
THROTTLES = (
    "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
    "/sys/class/hwmon/hwmon*/oc*_event_cnt",
)
COOLING = "/sys/class/thermal/cooling_device*/cur_state"
POWER = (
    "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input",
    "/sys/class/hwmon/hwmon*/power*_input",
)
GPU_CLOCKS = ("/sys/class/devfreq/*/cur_freq",)


def read(path: str) -> str:
    """The text of a file of the kernel; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def numbers(patterns: Any) -> Dict[str, int]:
    """Every file of these patterns that holds a number."""
    values = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in sorted(glob.glob(pattern)):
            text = read(path)
            if re.match(r"^-?\d+$", text):
                values[path] = int(text)
    return values


def output_of(command: List[str], timeout: float = 5.0) -> str:
    """The output of a program, at most ``timeout`` seconds of it; empty where it is missing."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=os.setsid,
        )
    except OSError:
        return ""
    try:
        output = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
    return output.decode("utf-8", "replace").strip()


def identity() -> Dict[str, Any]:
    """Facts that do not change during a run."""
    flags = [x for x in read("/proc/cpuinfo").splitlines() if x.startswith("model name")]
    facts = {
        "board": read("/proc/device-tree/model"),
        "l4t": read("/etc/nv_tegra_release").partition("\n")[0],
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": flags[0].partition(":")[2].strip() if flags else "",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "power_mode": output_of(["nvpmodel", "-q"]),
        "governors": sorted(
            {read(x) for x in glob.glob("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")}
        ),
        "highest_khz": numbers("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"),
        "nvidia_smi": output_of(
            [
                "nvidia-smi",
                "--query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,"
                "clocks_throttle_reasons.active",
                "--format=csv,noheader",
            ]
        ),
    }
    return {key: value for key, value in facts.items() if value}


def celsius() -> Dict[str, float]:
    """Temperatures by zone."""
    zones = {}
    for path, value in numbers("/sys/class/thermal/thermal_zone*/temp").items():
        zone = os.path.dirname(path)
        zones[read(zone + "/type") or os.path.basename(zone)] = value / 1000.0
    return zones


def snapshot() -> Dict[str, Any]:
    """Facts that change during a run, as they are now."""
    facts = {
        "time": round(time.time(), 3),
        "load": read("/proc/loadavg").split(" ")[0],
        "cpu_khz": list(numbers(CLOCKS).values()),
        "gpu_hz": numbers(GPU_CLOCKS),
        "celsius": celsius(),
        "power": numbers(POWER),
        "throttle": dict(numbers(THROTTLES), **_cooling()),
        "vcgencmd": output_of(["vcgencmd", "get_throttled"], 2.0),
    }  # type: Dict[str, Any]
    return {key: value for key, value in facts.items() if value}


def _cooling() -> Dict[str, int]:
    """States of what cools by slowing down; a fan slows nothing down."""
    return {
        path: value
        for path, value in numbers(COOLING).items()
        if "fan" not in read(os.path.join(os.path.dirname(path), "type"))
    }


def tegrastats() -> str:
    """One line of tegrastats: all of a Jetson's clocks, temperatures and rails."""
    lines = output_of(["tegrastats", "--interval", "500"], 1.3).splitlines()
    return lines[-1] if lines else ""


def throttled(before: Dict[str, Any], after: Dict[str, Any]) -> Optional[bool]:
    """Whether a counter grew or a state rose; None where the device tells nothing."""
    first, last = before.get("throttle", {}), after.get("throttle", {})
    pi = after.get("vcgencmd", "")
    if not last and not pi:
        return None
    grew = any(value > first.get(path, 0) for path, value in last.items())
    # bits 0 to 3: now; 16 to 19: since the start
    return grew or bool(pi and int(pi.rpartition("=")[2] or "0", 16) & 0xF)


class Watch(threading.Thread):
    """Keeps the lowest and highest clock and temperature while others run."""

    def __init__(self, report: Any = None, every: float = 1.0) -> None:
        super(Watch, self).__init__()
        self.daemon = True
        self._report, self._every, self._end = report, every, threading.Event()
        self._lock = threading.Lock()
        self._clocks, self._warmth = [], []  # type: List[int], List[float]

    def run(self) -> None:
        """Until ``stop``."""
        while not self._end.wait(self._every):
            clocks, warmth = list(numbers(CLOCKS).values()), list(celsius().values())
            with self._lock:
                self._clocks += clocks
                self._warmth += warmth
            if self._report is not None:
                self._report({"event": "alive"})

    def stop(self) -> Dict[str, Any]:
        """End the sampling, and return the ranges of clocks and temperatures."""
        self._end.set()
        self.join(5)
        with self._lock:
            ranges = {}  # type: Dict[str, Any]
            if self._clocks:
                ranges["cpu_khz"] = [min(self._clocks), max(self._clocks)]
            if self._warmth:
                ranges["celsius"] = [min(self._warmth), max(self._warmth)]
        return ranges
