"""The networks as graphs for other runtimes: bytes in, bytes out, written as ONNX and checked against PyTorch."""
