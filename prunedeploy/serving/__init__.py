"""Engines inside servers: ONNX Runtime, Triton, MLServer, and an HTTP server of our own."""
