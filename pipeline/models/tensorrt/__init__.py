"""The networks on TensorRT: engines built once per GPU, kept on disk, verified against PyTorch, run with PyCUDA.

Not run where this was written: there was no NVIDIA GPU. Names and signatures were compared with the Python bindings of
TensorRT 11.4; the graphs were run on ONNX Runtime, and so was what stands around an engine. On a machine with a GPU,
``scripts/warmup_tensorrt.py --check`` tells whether the rest is right.
"""
