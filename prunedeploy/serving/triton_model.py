"""A sparse engine behind Triton's python backend; ``serve_repo`` copies this file as ``model.py``.

It needs NumPy, which the python backend brings along, and nothing else: neither prunedeploy nor
torch. The engine lies beside it as ``engine.so``: Python would take a ``model.so`` for this module.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np

ABI = 1  # PD_ABI of the engine's model.h


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rank", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("abi", ctypes.c_int),
        ("version", ctypes.c_char_p),
        ("isa", ctypes.c_char_p),
        ("inputs", ctypes.c_int),
        ("input", ctypes.POINTER(_Tensor)),
        ("outputs", ctypes.c_int),
        ("output", ctypes.POINTER(_Tensor)),
        ("batches", ctypes.c_int),
        ("batch", ctypes.POINTER(ctypes.c_int)),
        ("threads", ctypes.c_int),
    )


class Engine:
    """One session of a compiled engine."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._lib = ctypes.CDLL(str(path.absolute()))
        self._lib.pd_info.restype = ctypes.POINTER(_Model)
        self._lib.pd_create.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
        pointers = ctypes.POINTER(ctypes.c_void_p)
        self._lib.pd_run.argtypes = [ctypes.c_void_p, ctypes.c_int, pointers, pointers]
        self._lib.pd_destroy.argtypes = [ctypes.c_void_p]
        self._lib.pd_error.restype = ctypes.c_char_p
        model = self._lib.pd_info().contents
        if model.abi != ABI:
            raise RuntimeError(f"{path} has interface {model.abi}, this file needs {ABI}")
        self.inputs = [_described(t) for t in model.input[: model.inputs]]
        self.outputs = [_described(t) for t in model.output[: model.outputs]]
        self.batches = sorted(model.batch[: model.batches], reverse=True)
        # only then may requests be computed together, or one in pieces
        self.batched = all(shape[:1] == (-1,) for _, _, shape in self.inputs + self.outputs)
        self._session = ctypes.c_void_p()
        self._check(self._lib.pd_create(ctypes.byref(self._session), threads or model.threads))

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(self._lib.pd_error(code).decode())

    def run(self, arrays: list[Any]) -> list[Any]:
        """Every output, for one array an input, in the order of the engine."""
        arrays = [
            np.ascontiguousarray(array, dtype)
            for array, (_, dtype, _) in zip(arrays, self.inputs, strict=True)
        ]
        batch = len(arrays[0]) if self.batched else self.batches[0]
        for array, (name, _, shape) in zip(arrays, self.inputs, strict=True):
            wanted = _sized(shape, batch)
            if array.shape != wanted:
                raise ValueError(f"input {name!r} takes {wanted}, found {array.shape}")
        results = [np.empty(_sized(shape, batch), dtype) for _, dtype, shape in self.outputs]
        begin = 0
        for size in self._pieces(batch):
            ins, outs = self._pointers(arrays, begin), self._pointers(results, begin)
            self._check(self._lib.pd_run(self._session, size, ins, outs))
            begin += size
        return results

    def _pieces(self, batch: int) -> list[int]:
        if batch in self.batches:
            return [batch]
        pieces: list[int] = []
        for size in self.batches:
            pieces += [size] * ((batch - sum(pieces)) // size)
        if not self.batched or sum(pieces) != batch:
            raise ValueError(f"the engine was built for batches of {self.batches}, found {batch}")
        return pieces

    def _pointers(self, arrays: list[Any], begin: int) -> Any:
        """Where sample ``begin`` of each array lies."""
        step = [array.strides[0] if self.batched else 0 for array in arrays]
        addresses = [array.ctypes.data + begin * s for array, s in zip(arrays, step, strict=True)]
        return (ctypes.c_void_p * len(arrays))(*addresses)

    def close(self) -> None:
        """Let go of memory and threads."""
        self._lib.pd_destroy(self._session)
        self._session = ctypes.c_void_p()


def _described(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name.decode(), tensor.dtype.decode(), tuple(tensor.shape[: tensor.rank])


def _sized(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    return tuple(batch if dim < 0 else dim for dim in shape)


class TritonPythonModel:
    """The class that Triton calls; every instance is a process with a session of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine beside this file."""
        import triton_python_backend_utils

        self._utils = triton_python_backend_utils
        parameters = json.loads(args["model_config"]).get("parameters", {})
        threads = int(parameters.get("threads", {}).get("string_value", "0"))
        self._engine = Engine(Path(__file__).with_name("engine.so"), threads)

    def execute(self, requests: list[Any]) -> list[Any]:
        """All requests as one batch; each for itself where that cannot be done."""
        asked = [self._arrays(request) for request in requests]
        if len(asked) > 1 and self._engine.batched:
            try:
                together = [np.concatenate(arrays) for arrays in zip(*asked, strict=True)]
                results = self._engine.run(together)
            except (ValueError, RuntimeError):
                pass  # one of them is at fault, and is the only one to be told
            else:
                ends = np.cumsum([len(arrays[0]) for arrays in asked])[:-1]
                cut = zip(*(np.split(result, ends) for result in results), strict=True)
                return [self._response(list(pieces)) for pieces in cut]
        return [self._alone(arrays) for arrays in asked]

    def finalize(self) -> None:
        """The end of the instance."""
        self._engine.close()

    def _arrays(self, request: Any) -> list[Any]:
        get = self._utils.get_input_tensor_by_name
        return [get(request, name).as_numpy() for name, _, _ in self._engine.inputs]

    def _alone(self, arrays: list[Any]) -> Any:
        try:
            return self._response(self._engine.run(arrays))
        except (ValueError, RuntimeError) as error:
            return self._utils.InferenceResponse([], self._utils.TritonError(str(error)))

    def _response(self, results: list[Any]) -> Any:
        tensors = [
            self._utils.Tensor(name, np.ascontiguousarray(result))
            for (name, _, _), result in zip(self._engine.outputs, results, strict=True)
        ]
        return self._utils.InferenceResponse(tensors)
