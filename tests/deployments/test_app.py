"""The graph and its configuration belong together, and importing them costs little."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from pydantic import ValidationError
from ray import serve

from deployments.app import AppArgs, build
from deployments.batching import BatchOptions
from deployments.resources import MODELS, PlanDoesNotFit
from pipeline.models.ladder import EngineOptions

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = {"BiRefNet", "MobileSAM", "LaMa", "JobManager", "Ingress"}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def application(config: dict[str, Any]) -> dict[str, Any]:
    (only,) = config["applications"]
    found: dict[str, Any] = only
    return found


def set_nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float], alive: bool = True) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": alive, "Resources": item} for item in resources])


def bound(app: serve.Application) -> dict[str, Any]:
    """Every deployment of the graph by name."""
    found: dict[str, Any] = {}

    def visit(node: serve.Application) -> None:
        deployment = node._bound_deployment
        found[deployment.name] = deployment
        for argument in deployment.init_args:
            if isinstance(argument, serve.Application):
                visit(argument)

    visit(app)
    return found


def test_the_graph_has_the_five_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 2.0})
    app = build(AppArgs())
    assert set(bound(app)) == DEPLOYMENTS
    assert app._bound_deployment.name == "Ingress"


def test_with_a_gpu_node_the_models_reserve_their_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 4.0, "GPU": 1.0})
    found = bound(build(AppArgs.model_validate({"gpu_share": {"LaMa": 0.25}})))
    assert {name: found[name].ray_actor_options["num_gpus"] for name in MODELS} == {
        "BiRefNet": 0.4,
        "MobileSAM": 0.2,
        "LaMa": 0.25,
    }
    assert found["BiRefNet"].init_args[0].has_gpu


def test_without_a_gpu_no_model_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 2.0})
    found = bound(build(AppArgs()))
    assert all(found[name].ray_actor_options["num_gpus"] == 0 for name in DEPLOYMENTS)
    assert not found["BiRefNet"].init_args[0].has_gpu


def test_the_models_are_told_which_weights_they_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 2.0})
    monkeypatch.setenv("MODELS_DIR", "/weights")
    monkeypatch.setenv("BIREFNET_MODEL_PATH", "/mine/birefnet.safetensors")
    monkeypatch.setenv("MOBILE_SAM_CHECKPOINT", "/mine/sam.safetensors")
    args = AppArgs(engine="torch", variant="general", allow_unpinned=True, threads=3, precision="bfloat16")
    options = {name: bound(build(args))[name].init_args[0] for name in MODELS}
    common = EngineOptions("torch", False, 3, Path("/weights"), None, "general", True, "bfloat16")
    assert options == {
        "BiRefNet": replace(common, weights_file=Path("/mine/birefnet.safetensors")),
        "MobileSAM": replace(common, weights_file=Path("/mine/sam.safetensors")),
        "LaMa": common,
    }


def test_unpinned_weights_do_not_load_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 2.0})
    assert not bound(build(AppArgs()))["BiRefNet"].init_args[0].allow_unpinned


def test_a_dead_nodes_resources_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 64.0}, alive=False)
    with pytest.raises(PlanDoesNotFit):
        build(AppArgs())


def test_a_plan_that_does_not_fit_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, {"CPU": 2.0})
    with pytest.raises(PlanDoesNotFit, match="Deployment BiRefNet does not fit"):
        build(AppArgs.model_validate({"cpu_share": {"BiRefNet": 8}}))


def test_every_deployment_says_how_many_requests_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's own limit is 5, on the ingress too."""
    set_nodes(monkeypatch, {"CPU": 2.0})
    for name, deployment in bound(build(AppArgs())).items():
        assert deployment.max_ongoing_requests >= 64, name


def test_the_configured_arguments_are_the_applications(application: dict[str, Any]) -> None:
    AppArgs.model_validate(application["args"])


@pytest.mark.parametrize(
    "typo",
    [
        {"devise": "cpu"},
        {"device": "gpu"},
        {"variant": "portrait"},
        {"gpu_share": {"Birefnet": 0.4}},
        {"cpu_share": {"Ingres": 1}},
    ],
)
def test_a_typo_in_the_arguments_stops_the_start(typo: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AppArgs.model_validate(typo)


def test_configured_deployments_are_those_of_the_graph(application: dict[str, Any]) -> None:
    assert {deployment["name"] for deployment in application["deployments"]} == DEPLOYMENTS


def test_the_configuration_leaves_resources_to_the_plan(application: dict[str, Any]) -> None:
    assert not any("ray_actor_options" in deployment for deployment in application["deployments"])


def test_configured_batches_are_valid_and_within_what_a_replica_takes(
    application: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_nodes(monkeypatch, {"CPU": 2.0})
    found = bound(build(AppArgs()))
    for deployment in application["deployments"]:
        if "user_config" in deployment:
            options = BatchOptions.model_validate(deployment["user_config"])
            assert options.max_batch_size <= found[deployment["name"]].max_ongoing_requests


def test_the_import_path_is_the_builder(application: dict[str, Any]) -> None:
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"


def test_the_whole_configuration_is_one_serve_understands(config: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)


def test_requests_have_no_timeout_of_serves(config: dict[str, Any]) -> None:
    """It would cut event streams and WebSockets."""
    assert "request_timeout_s" not in config["http_options"]


def test_importing_the_application_leaves_torch_out() -> None:
    code = "import sys, deployments.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_importing_the_library_leaves_ray_out() -> None:
    code = "import sys, pipeline.models.ladder, pipeline.operations.extract_and_remove; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
