"""From ONNX to a graph of operators on whole tensors."""
