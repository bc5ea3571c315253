"""What engines depend on: the GPU, and the TensorRT that runs them. Importing this imports neither."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from pipeline.errors import ModelNotLoaded

_NAMES: Final = {
    "Builder": "build_serialized_network create_builder_config create_network create_optimization_profile",
    "BuilderFlag": "TF32",
    "IBuilderConfig": "add_optimization_profile clear_flag create_timing_cache get_timing_cache progress_monitor "
    "set_timing_cache",
    "ICudaEngine": "create_execution_context get_device_memory_size_for_profile_v2 get_tensor_dtype "
    "get_tensor_profile_shape num_optimization_profiles",
    "ExecutionContextAllocationStrategy": "USER_MANAGED",
    "IExecutionContext": "execute_async_v3 set_device_memory set_input_shape set_optimization_profile_async "
    "set_tensor_address",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "phase_finish phase_start step_complete",
    "ITimingCache": "serialize",
    "Logger": "WARNING",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "get_error num_errors parse",
    "ParserError": "desc node_name node_operator",
    "Runtime": "deserialize_cuda_engine",
}
"""Everything of TensorRT's Python API that is used here; TensorRT 10 and 11 have it."""


@dataclass(frozen=True)
class Platform:
    """Where an engine was built, or would run: it runs nowhere else.

    Attributes:
        gpu: The GPU's name.
        compute_capability: As ``9.0``.
        tensorrt: TensorRT's version.
    """

    gpu: str
    compute_capability: str
    tensorrt: str


def this_platform() -> Platform:
    """This machine's GPU and TensorRT.

    Raises:
        ModelNotLoaded: There is no GPU, or a package is missing.
    """
    import torch  # slow, and only asked where a GPU is hoped for

    if not torch.cuda.is_available():
        raise ModelNotLoaded(
            f"TensorRT needs an NVIDIA GPU, and PyTorch {torch.__version__} sees none. On a machine with one, run "
            "scripts/setup_env.sh --gpu."
        )
    missing = [name for name in ("tensorrt", "pycuda") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelNotLoaded(f"The package {' and '.join(missing)} is not installed. Run scripts/setup_env.sh --gpu.")
    major, minor = torch.cuda.get_device_capability()
    return Platform(torch.cuda.get_device_name(), f"{major}.{minor}", load_tensorrt().__version__)


def load_tensorrt() -> Any:
    """The module ``tensorrt``. Raises ``ModelNotLoaded`` if it is not there or does not start."""
    return _load("tensorrt")


def load_cuda() -> Any:
    """The module ``pycuda.driver``, ready. Raises ``ModelNotLoaded`` if it is not there or finds no driver."""
    cuda: Any = _load("pycuda.driver")
    cuda.init()
    return cuda


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:  # also where a library of the driver is missing
        raise ModelNotLoaded(f"The package {name} does not load: {error}. Run scripts/setup_env.sh --gpu.") from error


def missing_names(tensorrt: object) -> list[str]:
    """What this code uses and the module does not have, as ``Builder.create_network``."""
    return [
        f"{owner}.{name}"
        for owner, names in _NAMES.items()
        for name in names.split()
        if not hasattr(getattr(tensorrt, owner, None), name)
    ]
