"""ONNX Runtime on a GPU, by its CUDA or its TensorRT provider, or not at all.

onnxruntime falls back to the CPU without a word: where a library is missing, or node by node. Here
the provider that was asked for has to be the one that runs, and what it leaves to the CPU is said.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Engine
from prunedeploy.runtimes.api import OpenOptions, Session
from prunedeploy.runtimes.ort.cpu import Ort, OrtSession, library, payload
from prunedeploy.targets import Target, gpus, why_not_here

CUDA, TENSORRT, CPU = (f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "CPU"))
ASSIGNMENT = "session.record_ep_graph_assignment_info"  # from onnxruntime 1.24 on

# float32 is float32: TensorFloat-32 has float16's eleven bits
OPTIONS: Mapping[str, Mapping[str, str]] = {
    CUDA: {"use_tf32": "0"},
    TENSORRT: {"trt_fp16_enable": "0"},
}


class OrtGpuSession(OrtSession):
    """A session of which the first of ``wanted`` is known to compute."""

    def __init__(self, engine: Engine, options: OpenOptions, wanted: tuple[str, ...]) -> None:
        if gpus() and hasattr(library(), "preload_dlls"):
            library().preload_dlls()  # CUDA's libraries, where they came as Python packages
        providers = [(name, dict(OPTIONS.get(name, {}))) for name in wanted]
        with warnings.catch_warnings(), payload(engine) as (path, weights):
            warnings.simplefilter("ignore")  # it warns of what is an error below
            specs = (engine.manifest.inputs, engine.manifest.outputs)
            entries = {ASSIGNMENT: "1"}
            super().__init__(path, *specs, options, providers, entries, weights=weights)
        self.provider = self._proved(wanted[0])

    def _proved(self, wanted: str) -> str:
        """The provider that runs, with what it leaves to others.

        Raises:
            UserError: it does not run, or computes no node.
        """
        running = self._inner.get_providers()
        if wanted not in running:
            self.close()
            raise UserError(
                f"{wanted} was asked for and {running[0]} would run: check the driver and the CUDA "
                "libraries of onnxruntime-gpu, or take --runtime ort"
            )
        nodes = self._nodes()
        if nodes is None:
            return wanted
        if not nodes[wanted]:
            self.close()
            raise UserError(f"{wanted} computes no node of this model: take --runtime ort")
        others = [f"{count} on {name}" for name, count in nodes.items() if name != wanted]
        return wanted if not others else f"{wanted} ({', '.join(others)} of {nodes.total()} nodes)"

    def _nodes(self) -> Counter[str] | None:
        """How many nodes each provider was given; None where onnxruntime cannot tell."""
        assignment = getattr(self._inner, "get_provider_graph_assignment_info", None)
        if assignment is None:
            return None
        counts: Counter[str] = Counter()
        for part in assignment():
            counts[part.ep_name] += len(part.get_nodes())
        return counts


class OrtCuda(Ort):
    """Payload: the model itself, as for ``ort``."""

    name = "ort-cuda"
    wanted: tuple[str, ...] = (CUDA, CPU)

    def refuse(self, target: Target) -> str | None:
        """It builds for the machine it runs on, which has the GPU and the right onnxruntime."""
        if target.compute_capability is None:
            return f"{target.name} has no CUDA GPU, which {self.name} is for: take --runtime ort"
        if reason := why_not_here(target):
            return reason
        try:
            have = library().get_available_providers()
        except UserError as error:
            absent = isinstance(error, MissingExtra)
            return str(MissingExtra("onnxruntime-gpu", "gpu")) if absent else str(error)
        if self.wanted[0] not in have:
            return (
                f"the onnxruntime here has no {self.wanted[0]}: pip uninstall onnxruntime, "
                "then pip install 'prunedeploy[gpu]'"
            )
        return None

    def open(self, engine: Engine, options: OpenOptions) -> Session:
        """A session on the GPU."""
        return OrtGpuSession(engine, options, self.wanted)


class OrtTensorRT(OrtCuda):
    """TensorRT for what it takes, CUDA for the rest."""

    name = "ort-tensorrt"
    wanted = (TENSORRT, CUDA, CPU)
