"""Engines inside the servers that are there already: ONNX Runtime, Triton, MLServer."""
