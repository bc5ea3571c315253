"""From a file in the models folder to a network with those weights: verified first, then matched name by name.

A file is used only if its SHA-256 is known: from the zoo's pin, or from the sidecar that was written with it. Synthetic
and custom files also need ``allow_unpinned``, and the model's version then says what they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ModelNotLoaded
from pipeline.models.files import sha256_of
from pipeline.models.sidecar import Origin, read_sidecar
from pipeline.models.weight_values import find_fault
from pipeline.models.zoo import Variant

if TYPE_CHECKING:
    from torch import Tensor, nn

# Counts training steps; networks do not compute with it, and some files leave it out.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class VerifiedWeights:
    """A weight file whose hash was found right.

    Attributes:
        path: The safetensors file.
        variant: What it was made for.
        origin: Where it comes from.
        sha256: Of the file; caches of compiled models are named by it.
    """

    path: Path
    variant: Variant
    origin: Origin
    sha256: str

    @property
    def model_version(self) -> str:
        """What answers call the model: ``BiRefNet-lite``, or ``BiRefNet-lite+synthetic``."""
        suffix = "" if self.origin == "official" else f"+{self.origin}"
        return f"{self.variant.model_version}{suffix}"


def find_weights(models_dir: Path, variant: Variant, *, allow_unpinned: bool = False) -> VerifiedWeights:
    """The verified weights of ``variant`` in a folder.

    With ``allow_unpinned`` a synthetic or custom file goes before the official one: it is there on purpose.

    Raises:
        ModelNotLoaded: There are none, or they cannot be trusted.
    """
    unpinned = models_dir / variant.unpinned_file_name
    if allow_unpinned and unpinned.is_file():
        return verify_weights(unpinned, variant, allow_unpinned=True)
    return verify_weights(models_dir / variant.file_name, variant, allow_unpinned=allow_unpinned)


def verify_weights(path: Path, variant: Variant, *, allow_unpinned: bool = False) -> VerifiedWeights:
    """The file at ``path``, once its hash is the one that its pin or its sidecar names.

    Raises:
        ModelNotLoaded: It is missing, damaged, made for another variant, or unpinned without ``allow_unpinned``.
    """
    pin = variant.weights
    remedy = f"Run scripts/download_models.py {variant.name}"
    if not path.is_file():
        raise ModelNotLoaded(f"{variant.model_version} has no weights: {path.name} is missing. {remedy}.")
    own = sha256_of(path)
    if own == pin.sha256:
        if pin.format == "safetensors":
            return VerifiedWeights(path, variant, "official", own)
        raise ModelNotLoaded(f"{path.name} must be converted first. {remedy} --from FILE.")
    sidecar = read_sidecar(path)
    if sidecar is None:
        size, expected = path.stat().st_size, pin.size_bytes
        how = f"it has {size} bytes instead of {expected}" if size != expected else "its SHA-256 is another"
        raise ModelNotLoaded(f"{path.name} is not the published file ({how}), and has no sidecar. {remedy}.")
    if own != sidecar.sha256:
        raise ModelNotLoaded(f"{path.name} was changed or damaged: its SHA-256 is not the recorded one. {remedy}.")
    if sidecar.variant != variant.name:
        raise ModelNotLoaded(f"{path.name} holds '{sidecar.variant}', and '{variant.name}' was asked for.")
    if sidecar.origin == "official":
        if pin.format == "safetensors" or sidecar.source_sha256 != pin.sha256:
            raise ModelNotLoaded(f"{path.name} does not come from the published file that is pinned today. {remedy}.")
    elif not allow_unpinned:
        raise ModelNotLoaded(f"{path.name} is {sidecar.origin}; it loads only with allow_unpinned: true.")
    return VerifiedWeights(path, variant, sidecar.origin, own)


def load_weights(network: nn.Module, weights: VerifiedWeights) -> None:
    """Fills ``network`` with the weights, all of them, cast to its precision. It may be on the meta device.

    Raises:
        ModelNotLoaded: The file holds another network's weights.
    """
    state = network.state_dict()
    tensors = read_tensors(weights, {name: tuple(tensor.shape) for name, tensor in state.items()})
    assign = any(tensor.is_meta for tensor in state.values())
    if assign:
        # Copies: what becomes of the file later must not reach a network that serves.
        tensors = {name: tensor.to(state[name].dtype, copy=True) for name, tensor in tensors.items()}
    network.load_state_dict(tensors, strict=True, assign=assign)


def read_tensors(weights: VerifiedWeights, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The file's tensors under the network's names, in the file's precision; they may be views of the file.

    Args:
        weights: The file.
        shapes: Name and shape of each tensor of the network.

    Raises:
        ModelNotLoaded: The file cannot be read, names or shapes are not exactly the network's, or its values are none
            that a network can have.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    file_name, model = weights.path.name, weights.variant.model_version
    try:
        with safe_open(weights.path, framework="pt") as file:
            prefix = find_prefix(file.keys(), shapes)
            if prefix is None:
                raise ModelNotLoaded(
                    f"{file_name} does not hold {model}: {_difference(set(file.keys()), set(shapes))}."
                )
            names = set(file.keys())
            tensors = {}
            for name, shape in shapes.items():
                if f"{prefix}{name}" not in names:
                    tensors[name] = torch.zeros(shape, dtype=torch.int64)
                    continue
                found = tuple(file.get_slice(f"{prefix}{name}").get_shape())
                if found != shape:
                    raise ModelNotLoaded(f"{file_name} does not hold {model}: {name} is {found} instead of {shape}.")
                tensors[name] = file.get_tensor(f"{prefix}{name}")
    except (SafetensorError, OSError) as error:
        raise ModelNotLoaded(f"{file_name} cannot be read as safetensors.") from error
    if fault := find_fault(tensors):
        raise ModelNotLoaded(f"{file_name} {fault}. It cannot be used as weights of {model}.")
    return tensors


def find_prefix(names: Iterable[str], network_names: Collection[str]) -> str | None:
    """What stands before the network's names in a file, such as ``module.`` or ``model.generator.``; often nothing.

    Below it the file must hold exactly the network's names, apart from step counters. Names beside it (a
    discriminator's, a loss's) do not matter. None if no prefix does that, or more than one: guessing could load an
    averaged copy, or half a network.
    """
    names = list(names)
    needed = {name for name in network_names if not name.endswith(_COUNTER)}
    if not needed:
        return None
    longest = max(needed, key=lambda name: (len(name), name))
    prefixes = {name.removesuffix(longest) for name in names if name.endswith(longest)}
    fitting = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
    fitting = [prefix for prefix in fitting if _below(prefix, names) == needed]
    return fitting[0] if len(fitting) == 1 else None


def _below(prefix: str, names: Iterable[str]) -> set[str]:
    return {n.removeprefix(prefix) for n in names if n.startswith(prefix) and not n.endswith(_COUNTER)}


def _difference(found: set[str], expected: set[str]) -> str:
    """How far two sets of names are apart, with one example of each side."""
    parts = [f"{len(found)} tensors instead of {len(expected)}"]
    if missing := sorted(expected - found):
        parts.append(f"'{missing[0]}' is missing")
    if unexpected := sorted(found - expected):
        parts.append(f"'{unexpected[0]}' does not belong")
    return ", ".join(parts)
