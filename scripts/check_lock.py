"""Says whether scripts/requirements/*.lock still belong to pyproject.toml; ``scripts/lock.sh`` makes them anew."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Installed apart from the lock files, by setup_env.sh.
APART = {"torch"}


def pins(lock: str) -> dict[str, str]:
    """Version of each package in the text of a lock file."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[\w,-]*\])?==([^\s;\\]+)", lock, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def problems(requirements: list[str], lock: str) -> list[str]:
    """What ``requirements`` ask for and the lock does not give: a package, or an allowed version of it."""
    pinned = pins(lock)
    found = []
    for requirement in map(Requirement, requirements):
        version = pinned.get(canonicalize_name(requirement.name))
        if requirement.name in APART:
            if version is not None:
                found.append(f"{requirement.name} must not be in the lock")
        elif version is None:
            found.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return found


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    base = project["project"]["dependencies"]
    dev = base + project["dependency-groups"]["dev"]
    found = [
        f"scripts/requirements/{name}.lock: {problem}"
        for name, requirements in (("base", base), ("dev", dev))
        for problem in problems(requirements, (ROOT / f"scripts/requirements/{name}.lock").read_text(encoding="utf-8"))
    ]
    for line in found:
        print(line, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
