"""From a checkpoint or an ONNX file to the fastest engine and a report, in one call."""
