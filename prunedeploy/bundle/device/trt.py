"""TensorRT through trtexec: engines built, timed and asked for their outputs.

Python 3.6, standard library. The command lines are in bundle.json, in the words of the target's
version of trtexec.
"""

import array
import ast
import importlib
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from typing import Any, Dict, List, Optional, Tuple

TRTEXEC_PATHS = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
CODES = {"<f4": "f", "<f8": "d", "<i8": "q", "<i4": "i", "<i2": "h", "|i1": "b", "|u1": "B"}


class StepError(Exception):
    """A step of the measurement that came to nothing; the text says why."""


def find() -> Tuple[str, str]:
    """Where trtexec is, and otherwise why TensorRT cannot be used."""
    for path in (os.environ.get("TRTEXEC", ""), shutil.which("trtexec") or "") + TRTEXEC_PATHS:
        if path and os.access(path, os.X_OK):
            return path, ""
    try:
        version = importlib.import_module("tensorrt").__version__
    except ImportError:
        return "", (
            "TensorRT is missing: there is no trtexec on the path or in /usr/src/tensorrt/bin, and "
            "Python has no module tensorrt; it comes with JetPack (apt install nvidia-jetpack)"
        )
    return "", (
        "TensorRT %s is there, its program trtexec is missing: apt install libnvinfer-bin (before "
        "JetPack 5: libnvinfer-samples), or name it in TRTEXEC" % version
    )


def run(command: List[str], timeout: float, log: str) -> str:
    """Run trtexec, and return its output, which is also written to the file ``log``."""
    with open(log, "wb") as file:
        file.write((" ".join(command) + "\n").encode())
        file.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StepError("trtexec took longer than %.0f s: see %s" % (timeout, log))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    with open(log, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    if status != 0:
        errors = [line for line in text.splitlines() if "[E]" in line or "FAILED" in line]
        last = errors[0].strip() if errors else "no message"
        raise StepError("trtexec failed with status %d: %s (see %s)" % (status, last, log))
    return text


def version(text: str) -> str:
    """8.2.1 of "[TensorRT v8201]", which every run prints first."""
    match = re.search(r"\[TensorRT v(\d+)\]", text)
    if match is None:
        return ""
    number = int(match.group(1))
    parts = (number // 1000, number // 100 % 10, number % 100)
    if number >= 100000:  # from 10 on: v101601 is 10.16.1
        parts = (number // 10000, number // 100 % 100, number % 100)
    return "%d.%d.%d" % parts


def build(trtexec: str, plan: Dict[str, Any], folder: str, timeout: float) -> str:
    """Build one engine, beside and then in place; trtexec's version."""
    os.makedirs(os.path.join(folder, "built"), exist_ok=True)
    target = os.path.join(folder, plan["plan"])
    arguments = [x.replace(plan["plan"], plan["plan"] + ".part") for x in plan["build"]]
    command = [trtexec] + [_in_folder(x, folder) for x in arguments]
    text = run(command, timeout, os.path.join(folder, "built", plan["name"] + ".log"))
    if not os.path.isfile(target + ".part"):
        raise StepError("trtexec wrote no engine: see built/%s.log" % plan["name"])
    os.rename(target + ".part", target)
    return version(text)


def measure(
    trtexec: str,
    plan: Dict[str, Any],
    bundle: Dict[str, Any],
    folder: str,
    results: str,
    **how: Any,
) -> Dict[str, Any]:
    """Times and outputs of one engine for the first batch of the recorded inputs."""
    scratch = os.path.join(results, plan["name"])
    os.makedirs(scratch, exist_ok=True)
    loads = []  # type: List[str]
    for spec in bundle["inputs"]:
        raw = os.path.join(scratch, "input_%d.bin" % len(loads))
        with open(raw, "wb") as file:
            file.write(_first(os.path.join(folder, spec["file"]), bundle["runs"]))
        loads.append("%s:%s" % (spec["name"], raw))
    times, output = os.path.join(scratch, "times.json"), os.path.join(scratch, "output.json")
    command = [trtexec] + [_in_folder(x, folder) for x in plan["run"]]
    command += ["--loadInputs=" + ",".join(loads), "--exportOutput=" + output]
    command += ["--exportTimes=" + times, "--iterations=%d" % how["rounds"], "--duration=0"]
    text = run(command, how["timeout"], os.path.join(scratch, "trtexec.log"))
    with open(times) as file:
        rows = json.load(file)
    with open(output) as file:
        outputs = json.load(file)
    return {
        "samples_ns": [int(1e6 * float(row["latencyMs"])) for row in rows],
        "compute_ns": [int(1e6 * float(row["computeMs"])) for row in rows],
        "outputs": _store(outputs, bundle, scratch),
        "version": version(text),
    }


def _in_folder(argument: str, folder: str) -> str:
    """Files of the bundle by their whole path."""
    for option in ("--onnx=", "--saveEngine=", "--loadEngine="):
        if argument.startswith(option):
            return option + os.path.join(folder, argument[len(option) :])
    return argument


# -- arrays ----------------------------------------------------------------------------------------


def npy(path: str) -> Tuple[str, Tuple[int, ...], bytes]:
    """Type, shape and bytes of a .npy file."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:6] != b"\x93NUMPY":
        raise StepError("%s is no .npy file" % path)
    size, begin = struct.unpack("<H", data[8:10])[0], 10
    if data[6] > 1:
        size, begin = struct.unpack("<I", data[8:12])[0], 12
    header = ast.literal_eval(data[begin : begin + size].decode("latin1"))
    return header["descr"], tuple(header["shape"]), data[begin + size :]


def values(path: str) -> List[float]:
    """The elements of a .npy file."""
    code, _, data = npy(path)
    if code not in CODES:
        raise StepError("%s holds %s, which cannot be compared here" % (path, code))
    numbers = array.array(CODES[code])
    numbers.frombytes(data)
    if sys.byteorder != "little":
        numbers.byteswap()
    return [float(x) for x in numbers]


def _first(path: str, runs: int) -> bytes:
    """The bytes of the first of ``runs`` batches."""
    data = npy(path)[2]
    return data[: len(data) // runs]


def _store(outputs: List[Dict[str, Any]], bundle: Dict[str, Any], scratch: str) -> Dict[str, str]:
    """The outputs of trtexec as .npy files of float32; their names by that of the output."""
    names = {}
    for index, each in enumerate(outputs):
        shape = "".join("%s," % x for x in str(each["dimensions"]).split("x"))
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }" % shape
        header += " " * (-(len(header) + 11) % 64) + "\n"
        name = "output_%d.npy" % index
        with open(os.path.join(scratch, name), "wb") as file:
            file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
            file.write(struct.pack("<%df" % len(each["values"]), *map(float, each["values"])))
        names[each["name"]] = name
    missing = [spec["name"] for spec in bundle["outputs"] if spec["name"] not in names]
    if missing:
        raise StepError("trtexec gave no output %s" % missing[0])
    return names


def compare(wanted: List[float], got: List[float]) -> Tuple[float, float]:
    """Largest difference, and the same relative to the range of what was recorded."""
    worst = 0.0
    for left, right in zip(wanted, got):
        same = left == right or (math.isnan(left) and math.isnan(right))
        distance = 0.0 if same else abs(left - right)
        worst = distance if math.isnan(distance) or distance > worst else worst
        if math.isnan(worst):
            break
    finite = [x for x in wanted if not math.isnan(x) and not math.isinf(x)]
    span = max(finite) - min(finite) if finite else 0.0
    size = max(map(abs, finite)) if finite else 0.0
    scale = (span if span > 2.0**-18 * size else size) or 1.0
    return worst, worst / scale


def difference(
    bundle: Dict[str, Any], folder: str, scratch: str, outputs: Dict[str, str]
) -> Tuple[float, float, Optional[str]]:
    """Compare all outputs of the first batch; also return the one that differs most."""
    worst, where = (0.0, 0.0), None  # type: Tuple[float, float], Optional[str]
    for spec in bundle["outputs"]:
        wanted = values(os.path.join(folder, spec["file"]))
        wanted = wanted[: len(wanted) // bundle["runs"]]
        got = values(os.path.join(scratch, outputs[spec["name"]]))
        if len(got) != len(wanted):
            raise StepError("output %s has %d elements" % (spec["name"], len(got)))
        one = compare(wanted, got)
        if not one[1] <= worst[1]:
            worst, where = one, spec["name"]
    return worst[0], worst[1], where
