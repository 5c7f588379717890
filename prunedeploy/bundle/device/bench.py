#!/usr/bin/env python3
"""Measures on the device what this bundle holds; writes results/result.json.

    sh build.sh && python3 bench.py

Needs Python 3.6 and what the device's system brings. Every engine is compared with the recorded
outputs first: one that computes something else has no speed. Engines run in turn, several times.

Exit status: 0 all was measured; 3 some part cannot be had on this device, which is said; 1 one
failed or computes something else; 2 a mistake in the call.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List

import state
import trt

HERE = os.path.dirname(os.path.abspath(__file__))
FAILED, MISSING = 1, 3


class Bench:
    """One measurement; ``result`` holds what was measured so far and is saved after every step."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.results = os.path.join(HERE, "results")
        self._turn = threading.Lock()
        with open(os.path.join(HERE, "bundle.json"), "rb") as file:
            text = file.read()
        self.bundle = json.loads(text.decode())
        self.result = {
            "type": "DeviceResult",
            "bundle_sha256": hashlib.sha256(text).hexdigest(),
            "complete": False,
            "missing": [],
            "candidates": [],
        }  # type: Dict[str, Any]

    def report(self, event: Dict[str, Any]) -> None:
        """Print one line on stdout: JSON for programs, or text."""
        with self._turn:
            if self.given.events:
                print(json.dumps(event), flush=True)
            elif "say" in event:
                print(event["say"], flush=True)

    def step(self, text: str) -> None:
        """Report the step that begins."""
        self.report({"event": "step", "say": text})

    def keep(self) -> None:
        """Write what is known, at one stroke."""
        os.makedirs(self.results, exist_ok=True)
        path = os.path.join(self.results, "result.json")
        with open(path + ".part", "w") as file:
            json.dump(self.result, file, indent=1)
        os.rename(path + ".part", path)
        self.report({"event": "result", "result": self.result})

    def lacks(self, text: str) -> None:
        """A part that this device cannot have."""
        self.result["missing"].append(text)
        self.report({"event": "missing", "say": "bench.py: " + text})

    # -- what there is to measure -----------------------------------------------------------------

    def check_files(self) -> None:
        """Every file is what was put into the bundle."""
        for name, expected in sorted(self.bundle["files"].items()):
            digest = hashlib.sha256()
            try:
                with open(os.path.join(HERE, name), "rb") as file:
                    for chunk in iter(lambda: file.read(1 << 20), b""):
                        digest.update(chunk)
            except OSError:
                raise SystemExit("bench.py: error: %s is missing: copy the bundle again" % name)
            if digest.hexdigest() != expected:
                raise SystemExit("bench.py: error: %s is damaged: copy the bundle again" % name)

    def candidates(self) -> List[Dict[str, Any]]:
        """A record for each engine that can be had here, TensorRT's built where they are not."""
        records = []  # type: List[Dict[str, Any]]
        if self.bundle["plans"] and self.given.only != "sparse":
            records += self.plans()
        if self.bundle["sparse"] and self.given.only != "tensorrt" and not self.given.build_only:
            if os.access(os.path.join(HERE, "sparse", "runner"), os.X_OK):
                records.append(
                    dict(_EMPTY, name="sparse", runtime="sparse", engine="sparse/model.so")
                )
            else:
                self.lacks("the sparse engine is not compiled yet: run sh build.sh sparse")
        return records

    def plans(self) -> List[Dict[str, Any]]:
        """TensorRT's engines."""
        self.trtexec, why = trt.find()
        if why:
            self.lacks(why)
            return []
        records = []
        for plan in self.bundle["plans"]:
            record = dict(
                _EMPTY,
                name=plan["name"],
                runtime="tensorrt",
                engine=plan["plan"],
                precision=plan["precision"],
                of=plan["of"],
            )
            if not os.path.isfile(os.path.join(HERE, plan["plan"])):
                self.step("building %s with TensorRT, which takes minutes" % plan["name"])
                begin = time.time()
                try:
                    record["version"] = trt.build(self.trtexec, plan, HERE, self.given.timeout)
                except trt.StepError as error:
                    record["error"] = str(error)
                record["build_seconds"] = round(time.time() - begin, 1)
            self.result["candidates"].append(record)
            self.keep()
            records.append(record)
        return records

    # -- measuring --------------------------------------------------------------------------------

    def measure(self, record: Dict[str, Any], rounds: int) -> None:
        """Run one engine: the outputs, and if they are right its times, into ``record``."""
        try:
            run = self.sparse if record["runtime"] == "sparse" else self.tensorrt
            measured = run(record, rounds)
        except trt.StepError as error:
            record["error"] = str(error)
            return
        samples = measured.pop("samples_ns")
        record.update(measured)
        if not record["passed"]:
            record["error"] = "its outputs are not the recorded ones: it has no speed"
            record["samples_ns"] = []
            return
        record["samples_ns"] = record["samples_ns"] + samples

    def sparse(self, record: Dict[str, Any], rounds: int) -> Dict[str, Any]:
        """The sparse engine, by its runner."""
        scratch = os.path.join(self.results, record["name"])
        os.makedirs(scratch, exist_ok=True)
        command = [os.path.join(HERE, "sparse", "runner")]
        command += ["--check", os.path.join(HERE, "check", "tensors.txt"), "--output", scratch]
        command += ["--rounds", str(rounds), "--threads", str(self.given.threads)]
        command += ["--tolerance", repr(self.bundle["tolerances"]["float32"])]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise trt.StepError("the runner does not run here: %s" % error.strerror)
        try:
            output, errors = process.communicate(timeout=self.given.timeout)
        except subprocess.TimeoutExpired:
            raise trt.StepError("the runner took longer than %.0f s" % self.given.timeout)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if process.returncode not in (0, 1):
            answer = errors.decode("utf-8", "replace").strip() or "no message"
            raise trt.StepError("the runner ended with %d: %s" % (process.returncode, answer))
        answer = json.loads(output.decode())
        names = {x["name"]: "%s/%s" % (record["name"], x["file"]) for x in answer["outputs"]}
        kept = ("isa", "threads", "passed", "max_abs", "max_rel", "changed_predictions")
        measured = {key: answer[key] for key in kept}
        return dict(measured, samples_ns=answer["samples_ns"], outputs=names, runs=answer["runs"])

    def tensorrt(self, record: Dict[str, Any], rounds: int) -> Dict[str, Any]:
        """Measure one engine of TensorRT."""
        plan = [x for x in self.bundle["plans"] if x["name"] == record["name"]][0]
        how = {"rounds": rounds, "timeout": self.given.timeout}
        measured = trt.measure(self.trtexec, plan, self.bundle, HERE, self.results, **how)
        scratch = os.path.join(self.results, record["name"])
        worst = trt.difference(self.bundle, HERE, scratch, measured["outputs"])
        names = {key: "%s/%s" % (record["name"], x) for key, x in measured["outputs"].items()}
        passed = worst[1] <= self.bundle["tolerances"][plan["precision"]]
        more = {"max_abs": worst[0], "max_rel": worst[1], "passed": passed, "runs": 1}
        return dict(measured, outputs=names, **more)

    def run(self) -> int:
        """All of it; the exit status."""
        if self.given.build_only:
            self.check_files()
            return self.status(self.candidates())
        shutil.rmtree(self.results, ignore_errors=True)
        self.result["identity"] = state.identity()
        self.step("measuring on %s" % self.result["identity"].get("board", "this machine"))
        self.result["before"] = state.snapshot()
        self.keep()
        watch = state.Watch(self.report if self.given.events else None)
        watch.start()
        try:
            self.check_files()  # of large models it takes a while
            records = self.candidates()
            self.result["candidates"] = records
            for turn in range(self.given.repeats):
                for record in [x for x in records if not x["error"]]:
                    text = "running %s, %d of %d"
                    self.step(text % (record["name"], turn + 1, self.given.repeats))
                    self.measure(record, self.given.rounds)
                    self.keep()
            self.result["tegrastats"] = state.tegrastats()
        finally:
            self.result["seen"] = watch.stop()
        self.result["after"] = state.snapshot()
        self.result["throttled"] = state.throttled(self.result["before"], self.result["after"])
        self.result["complete"] = True
        self.keep()
        return self.status(records)

    def status(self, records: List[Dict[str, Any]]) -> int:
        """Say how it went."""
        for record in records:
            if record["error"]:
                self.report({"event": "error", "say": "%s: %s" % (record["name"], record["error"])})
            elif record["samples_ns"]:
                ordered = sorted(record["samples_ns"])
                text = "%s: %.3f ms, largest difference %.2g of the range, batch %d"
                middle = ordered[len(ordered) // 2] / 1e6
                given = (record["name"], middle, record["max_rel"], self.bundle["batch"])
                self.report({"event": "measured", "say": text % given})
        if any(record["error"] for record in records):
            return FAILED
        return MISSING if self.result["missing"] else 0


_EMPTY = {"precision": "float32", "of": "model", "samples_ns": [], "error": "", "passed": False}


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build-only", action="store_true", help="build TensorRT's engines")
    parser.add_argument("--only", choices=("sparse", "tensorrt"), help="leave out the other")
    parser.add_argument("--rounds", type=int, default=100, help="timed runs of each, each time")
    parser.add_argument("--repeats", type=int, default=3, help="how often each gets its turn")
    parser.add_argument("--threads", type=int, default=0, help="of the sparse engine; 0: all")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one program")
    parser.add_argument("--events", action="store_true", help="print JSON, a document a line")
    given = parser.parse_args()
    if given.rounds < 1 or given.repeats < 1 or given.threads < 0:
        parser.error("--rounds and --repeats are 1 at least, --threads 0")
    return Bench(given).run()


if __name__ == "__main__":
    sys.exit(main())
