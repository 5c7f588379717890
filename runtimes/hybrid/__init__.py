"""One session of ONNX Runtime whose known parts are sparse engines."""
