"""Only files whose hash is known are loaded, only into their own network, and the version says what they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import ModelNotLoaded
from pipeline.models.sidecar import Sidecar, read_sidecar, record, sidecar_path, write_sidecar
from pipeline.models.weights import (
    VerifiedWeights,
    find_prefix,
    find_weights,
    load_weights,
    read_tensors,
    verify_weights,
)
from pipeline.models.zoo import Variant
from tests.pipeline.models.weight_files import Small, shapes, small, variant_of


def save(path: Path, network: nn.Module, prefix: str = "", **more: torch.Tensor) -> Path:
    save_file({f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()} | more, path)
    return path


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    """A variant whose official file is in ``tmp_path`` under its name."""
    variant = variant_of(save(tmp_path / "download", small()))
    (tmp_path / "download").rename(tmp_path / variant.file_name)
    return variant


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


# --- verification ---


def test_a_pinned_file_is_official_without_a_sidecar(tmp_path: Path, variant: Variant) -> None:
    found = find_weights(tmp_path, variant)

    assert (found.origin, found.sha256, found.model_version) == ("official", variant.weights.sha256, "Small")


def test_a_missing_file_is_told_with_its_remedy(tmp_path: Path, variant: Variant) -> None:
    with pytest.raises(ModelNotLoaded, match=r"missing. Run scripts/download_models.py small\."):
        find_weights(tmp_path / "elsewhere", variant)


@pytest.mark.parametrize("allow_unpinned", [False, True])
@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_file_is_never_trusted(tmp_path: Path, variant: Variant, keep: int, allow_unpinned: bool) -> None:
    path = tmp_path / variant.file_name
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(ModelNotLoaded, match=r"has \d+ bytes instead of \d+"):
        find_weights(tmp_path, variant, allow_unpinned=allow_unpinned)


@pytest.mark.parametrize("allow_unpinned", [False, True])
@pytest.mark.parametrize("with_sidecar", [False, True])
def test_a_changed_byte_is_never_trusted(
    tmp_path: Path, variant: Variant, allow_unpinned: bool, with_sidecar: bool
) -> None:
    path = tmp_path / variant.file_name
    if with_sidecar:
        record(path, "small", "official")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(ModelNotLoaded, match="SHA-256"):
        find_weights(tmp_path, variant, allow_unpinned=allow_unpinned)


def test_a_sidecar_cannot_make_another_file_official(tmp_path: Path, variant: Variant) -> None:
    path = save(tmp_path / variant.file_name, small(seed=2))
    record(path, "small", "official", source_sha256=variant.weights.sha256)

    with pytest.raises(ModelNotLoaded, match="not come from the published file"):
        find_weights(tmp_path, variant)


@pytest.mark.parametrize("origin", ["synthetic", "custom"])
def test_an_unpinned_file_loads_only_if_asked_for_and_says_so(tmp_path: Path, variant: Variant, origin: str) -> None:
    path = save(tmp_path / variant.unpinned_file_name, small(seed=2))
    write_sidecar(path, Sidecar(**{**vars(record(path, "small", "custom")), "origin": origin}))

    assert find_weights(tmp_path, variant).model_version == "Small"
    assert find_weights(tmp_path, variant, allow_unpinned=True).model_version == f"Small+{origin}"
    with pytest.raises(ModelNotLoaded, match=f"is {origin}; it loads only with allow_unpinned"):
        verify_weights(path, variant)


def test_an_unpinned_file_without_a_sidecar_is_not_loaded(tmp_path: Path, variant: Variant) -> None:
    save(tmp_path / variant.unpinned_file_name, small(seed=2))

    with pytest.raises(ModelNotLoaded, match="no sidecar"):
        find_weights(tmp_path, variant, allow_unpinned=True)


def test_an_unpinned_file_that_changed_is_not_loaded(tmp_path: Path, variant: Variant) -> None:
    path = save(tmp_path / variant.unpinned_file_name, small(seed=2))
    record(path, "small", "custom")
    save(path, small(seed=3))

    with pytest.raises(ModelNotLoaded, match="changed or damaged"):
        find_weights(tmp_path, variant, allow_unpinned=True)


def test_weights_of_another_variant_are_refused(tmp_path: Path, variant: Variant) -> None:
    path = save(tmp_path / variant.unpinned_file_name, small(seed=2))
    record(path, "large", "custom")

    with pytest.raises(ModelNotLoaded, match="holds 'large', and 'small' was asked for"):
        find_weights(tmp_path, variant, allow_unpinned=True)


def test_a_converted_file_is_official_through_its_source(tmp_path: Path, variant: Variant) -> None:
    pickled = dataclasses.replace(
        variant, weights=dataclasses.replace(variant.weights, format="pickle", sha256="a" * 64)
    )
    path = save(tmp_path / pickled.file_name, small())
    record(path, "small", "official", source_sha256="a" * 64)

    assert find_weights(tmp_path, pickled).origin == "official"

    record(path, "small", "official", source_sha256="b" * 64)
    with pytest.raises(ModelNotLoaded, match="pinned today"):
        find_weights(tmp_path, pickled)


def test_a_published_pickle_must_be_converted_first(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.pt")
    variant = variant_of(tmp_path / "a.pt", format="pickle")

    with pytest.raises(ModelNotLoaded, match="must be converted first"):
        verify_weights(tmp_path / "a.pt", variant)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"variant": 1, "origin": 2, "source_sha256": 3, "sha256": 4}', '"x"', "\udce9"],
)
def test_a_sidecar_that_cannot_be_understood_is_told(tmp_path: Path, text: str) -> None:
    sidecar_path(tmp_path / "a").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(ModelNotLoaded, match=r"a\.json"):
        read_sidecar(tmp_path / "a")


def test_a_sidecar_with_an_unknown_origin_is_not_believed(tmp_path: Path, variant: Variant) -> None:
    path = save(tmp_path / variant.unpinned_file_name, small(seed=2))
    fields = vars(record(path, "small", "custom")) | {"origin": "trusted"}
    sidecar_path(path).write_text(json.dumps(fields))

    with pytest.raises(ModelNotLoaded, match="other values"):
        find_weights(tmp_path, variant, allow_unpinned=True)


def test_no_folder_is_named_in_what_callers_read(tmp_path: Path, variant: Variant) -> None:
    (tmp_path / variant.file_name).write_bytes(b"short")

    with pytest.raises(ModelNotLoaded) as caught:
        find_weights(tmp_path, variant)

    assert str(tmp_path) not in caught.value.detail


# --- loading ---


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_gets_every_weight(tmp_path: Path, variant: Variant, device: str) -> None:
    with torch.device(device):
        network = Small()

    load_weights(network, find_weights(tmp_path, variant))

    assert_same(network, small())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_half_precision_files_are_cast_to_the_network_s(tmp_path: Path, device: str) -> None:
    variant = variant_of(save(tmp_path / "a", small().half()))
    with torch.device(device):
        network = Small()

    load_weights(network, verify_weights(tmp_path / "a", variant))

    assert network.model[0].weight.dtype == torch.float32
    assert_same(network, small().half().float())


def test_a_network_that_serves_does_not_change_with_its_file(tmp_path: Path, variant: Variant) -> None:
    with torch.device("meta"):
        network = Small()
    path = tmp_path / variant.file_name
    load_weights(network, find_weights(tmp_path, variant))

    with path.open("r+b") as file:  # in place: the inode stays
        file.write(b"\0" * path.stat().st_size)

    assert_same(network, small())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.generator.", "net."])
def test_a_prefix_is_found(tmp_path: Path, prefix: str) -> None:
    variant = variant_of(save(tmp_path / "a", small(), prefix))
    network = Small()

    load_weights(network, verify_weights(tmp_path / "a", variant))

    assert_same(network, small())


def test_tensors_beside_the_network_s_do_not_matter(tmp_path: Path) -> None:
    more = {"discriminator.model.0.weight": torch.zeros(2, 3, 1, 1), "loss.weight": torch.zeros(1)}
    variant = variant_of(save(tmp_path / "a", small(), "generator.", **more))
    network = Small()

    load_weights(network, verify_weights(tmp_path / "a", variant))

    assert_same(network, small())


def test_a_file_without_step_counters_loads(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in small().state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "a")
    network = Small()

    load_weights(network, verify_weights(tmp_path / "a", variant_of(tmp_path / "a")))

    assert_same(network, small())


NAMES = ["model.0.weight", "model.1.weight", "model.1.bias", "model.1.num_batches_tracked"]


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (NAMES, ""),
        ([f"a.{name}" for name in NAMES], "a."),
        ([f"a.{name}" for name in NAMES] + ["b.model.0.weight"], "a."),
        ([f"xa{name}" for name in NAMES], None),  # ends within a name
        (NAMES[1:], None),  # one is missing
        ([*NAMES, "model.2.weight"], None),  # one too many
        ([f"a.{name}" for name in NAMES] + ["a.model.2.weight"], None),
        ([f"{p}.{name}" for name in NAMES for p in ("net", "net_ema")], None),  # two copies
        ([], None),
    ],
)
def test_a_prefix_is_taken_only_if_exactly_the_network_is_below_it(names: list[str], prefix: str | None) -> None:
    assert find_prefix(names, NAMES) == prefix


def test_a_network_of_another_size_is_refused(tmp_path: Path, variant: Variant) -> None:
    with pytest.raises(ModelNotLoaded, match=r"does not hold Small: model.0.weight is \(2, 3, 1, 1\) instead of \(5,"):
        load_weights(Small(width=5), find_weights(tmp_path, variant))


def test_another_network_is_refused_with_an_example(tmp_path: Path, variant: Variant) -> None:
    with pytest.raises(ModelNotLoaded, match=r"6 tensors instead of 2, 'bias' is missing, 'model\.0\.weight'"):
        load_weights(nn.Linear(3, 2), find_weights(tmp_path, variant))


def test_a_refused_file_leaves_the_network_as_it_was(tmp_path: Path, variant: Variant) -> None:
    network = small(seed=5, width=5)

    with pytest.raises(ModelNotLoaded):
        load_weights(network, find_weights(tmp_path, variant))

    assert_same(network, small(seed=5, width=5))


def test_a_pinned_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x10\0\0\0\0\0\0\0rubbish")

    with pytest.raises(ModelNotLoaded, match="cannot be read as safetensors"):
        read_tensors(verify_weights(tmp_path / "a", variant_of(tmp_path / "a")), shapes(small()))


# --- values ---


def custom(folder: Path, variant: Variant, network: nn.Module) -> VerifiedWeights:
    """Somebody's own weights; their hash is the recorded one."""
    path = save(folder / variant.unpinned_file_name, network)
    record(path, "small", "custom")
    return find_weights(folder, variant, allow_unpinned=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_with_a_value_that_is_no_number_is_refused(
    tmp_path: Path, variant: Variant, value: float, dtype: torch.dtype
) -> None:
    network = small().to(dtype)
    network.model[0].weight.data[1, 2] = value
    weights = custom(tmp_path, variant, network)

    with pytest.raises(
        ModelNotLoaded, match=r"^Small\.safetensors holds values that are not numbers \(in model\.0\.weight"
    ):
        load_weights(Small(), weights)


def test_a_variance_that_half_precision_could_not_hold_is_taken(tmp_path: Path, variant: Variant) -> None:
    network = small()
    network.model[1].running_var[0] = float("inf")
    load_weights(loaded := Small(), custom(tmp_path, variant, network))

    assert loaded.model[1].running_var[0] == float("inf")


def test_a_variance_that_is_no_number_is_refused(tmp_path: Path, variant: Variant) -> None:
    network = small()
    network.model[1].running_var[0] = float("nan")

    with pytest.raises(ModelNotLoaded, match="running_var"):
        load_weights(Small(), custom(tmp_path, variant, network))


def test_a_file_of_zeros_is_refused(tmp_path: Path, variant: Variant) -> None:
    network = small()
    for tensor in network.state_dict().values():
        tensor.zero_()

    with pytest.raises(ModelNotLoaded, match="holds only zeros"):
        load_weights(Small(), custom(tmp_path, variant, network))
