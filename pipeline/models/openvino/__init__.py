"""OpenVINO: networks converted from PyTorch, compiled for this CPU, checked once and kept on disk."""
