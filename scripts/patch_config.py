"""Writes a copy of a Serve config that listens elsewhere: ``serve run`` itself takes neither host nor port.

python scripts/patch_config.py serve_config.yaml patched.yaml --host 0.0.0.0 --port 8080
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

# Serve's own defaults, for a config that names neither.
SERVE_HOST, SERVE_PORT = "127.0.0.1", 8000


def patch(config: dict[str, Any], *, host: str | None = None, port: int | None = None) -> dict[str, Any]:
    """``config`` with its address replaced where one is given; the argument stays as it was."""
    http_options = dict(config.get("http_options") or {})
    if host is not None:
        http_options["host"] = host
    if port is not None:
        http_options["port"] = port
    return {**config, "http_options": http_options}


def address(config: dict[str, Any]) -> tuple[str, int]:
    """Host and port a Serve config listens on."""
    http_options = config.get("http_options") or {}
    return http_options.get("host", SERVE_HOST), int(http_options.get("port", SERVE_PORT))


def read(path: Path) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no Serve config: it holds no mapping.")
    return config


def write(config: dict[str, Any], path: Path) -> None:
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    write(patch(read(options.source), host=options.host, port=options.port), options.target)


if __name__ == "__main__":
    main()
