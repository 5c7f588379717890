"""ONNX models: reading and writing, one form of them, shapes, sizes, sparsity."""
