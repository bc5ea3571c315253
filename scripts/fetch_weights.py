"""Fetches the weights that a configuration will look for and that are missing: fetch_weights.py [CONFIG]

serve.sh runs it before the service. It says nothing if there is nothing to do. Where no address answers within 3 s it
gives up, so that a start without a connection does not wait; a download that has begun shows how far it is.
CLEARCUT_DOWNLOAD=0 (environment or .env) keeps it from fetching.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import Settings  # noqa: E402
from pipeline.models.zoo import VARIANTS, Variant, default_names  # noqa: E402
from scripts import patch_config  # noqa: E402

if TYPE_CHECKING:
    from pipeline.models.download import Patience

PROBE_S = 3.0


def main(arguments: Sequence[str] | None = None, *, probe_s: float = PROBE_S, patience: Patience | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    config = patch_config.read(Path(given[0]) if given else ROOT / "serve_config.yaml")
    settings = Settings(_env_file=ROOT / ".env")
    if not settings.clearcut_download:
        return 0
    models_dir = ROOT / settings.models_dir
    missing = [v for v in wanted(config, settings, models_dir) if not (models_dir / v.file_name).is_file()]
    if not missing:
        return 0

    from pipeline.models.download import is_reachable  # slow to import, and seldom needed
    from scripts import download_models

    size_mb = sum(variant.weights.size_bytes for variant in missing) / 1e6
    what = f"model weights ({', '.join(variant.name for variant in missing)}: {size_mb:.0f} MB)"
    if not is_reachable([url for variant in missing for url in variant.weights.urls], probe_s):
        say(f"{what} are missing, and there is no connection to fetch them: embedded engines take their place.")
        say("later, or from another machine: .venv/bin/python scripts/download_models.py")
        return 0
    say(f"fetching {what} once, into {models_dir}; --no-download starts without them")
    names = [variant.name for variant in missing]
    code = download_models.main([*names, "--if-missing", "--models-dir", str(models_dir)], patience=patience)
    if code != download_models.OK:
        say("not all weights could be fetched: embedded engines take their place. The next start tries again.")
    return code


def wanted(config: Mapping[str, Any], settings: Settings, models_dir: Path) -> list[Variant]:
    """The official files that the ladder looks for under this configuration."""
    found: dict[str, Variant] = {}
    for application in config.get("applications") or []:
        args = application.get("args") or {}
        if args.get("engine") == "embedded":
            continue
        birefnet, *others = default_names(has_gpu=args.get("device") != "cpu" and has_gpu())
        if args.get("variant", "auto") != "auto":
            birefnet = args["variant"]
        for variant in (VARIANTS[name] for name in (birefnet, *others)):
            is_replaced = args.get("allow_unpinned") and (models_dir / variant.unpinned_file_name).is_file()
            if not (is_replaced or _named_file(variant, settings)):
                found[variant.name] = variant
    return list(found.values())


def _named_file(variant: Variant, settings: Settings) -> Path | None:
    """The file that the environment names for this network."""
    if variant.network == "birefnet":
        return settings.birefnet_model_path
    return settings.mobile_sam_checkpoint if variant.network == "mobile_sam" else None


def has_gpu() -> bool:
    """Whether the service will run on one: there is a driver, and setup_env.sh did not install torch's CPU build."""
    from scripts.download_models import has_nvidia_driver

    build = Path(sys.prefix) / ".torch"
    return has_nvidia_driver() and not (build.is_file() and build.read_text().strip() == "cpu")


def say(message: str) -> None:
    print(f"serve.sh: {message}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the start itself tells what is wrong with a configuration
        sys.exit(f"serve.sh: weights are not fetched ({type(error).__name__})")
