"""Says which packages of scripts/requirements/*.lock, and which torch, have known holes: pip-audit, asked of OSV.

Exits with 1 for a hole that ``scripts/requirements/audit_ignore.txt`` does not name. Where the database does not
answer, it says so, and exits with 0: a check that needs the network must not keep anybody from working without it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.check_lock import APART, pins  # noqa: E402

REQUIREMENTS = ROOT / "scripts" / "requirements"
OSV_URL = "https://api.osv.dev/v1/query"
ANSWER_WITHIN_S = 3.0
FINISH_WITHIN_S = 180.0


def pinned() -> list[str]:
    """``name==version`` of every package that the service or its development uses."""
    found = {name: version for lock in REQUIREMENTS.glob("*.lock") for name, version in pins(lock.read_text()).items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    apart = [item for item in project["dependencies"] if item.partition("==")[0] in APART]
    return sorted([f"{name}=={version}" for name, version in found.items()] + apart)


def ignored(text: str) -> dict[str, str]:
    """The reason for each id of the list. Raises ``SystemExit`` for an id without one."""
    reasons = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise SystemExit(f"audit_ignore.txt: {name} needs a reason after it")
        reasons[name] = reason.strip()
    return reasons


def holes(report: dict[str, Any], accepted: dict[str, str]) -> list[str]:
    """A line for each hole that is not accepted, by its id or another name of it."""
    return [
        f"{package['name']} {package['version']}: {hole['id']},"
        f" mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for package in report["dependencies"]
        for hole in package.get("vulns", ())
        if not {hole["id"], *hole["aliases"]} & set(accepted)
    ]


def answers(url: str) -> bool:
    """Whether the database answers a question soon."""
    question = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}
    try:
        return httpx.post(url, json=question, timeout=ANSWER_WITHIN_S).is_success
    except httpx.HTTPError:
        return False


def audit(requirements: list[str], url: str, *, finish_within_s: float) -> dict[str, Any] | None:
    """pip-audit's report; None if that takes too long or the database goes away. Raises ``SystemExit`` if it breaks."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(requirements), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(wanted), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", url, "--timeout", "10", "--progress-spinner", "off"]
        command += ["--format", "json", "--aliases", "on", "--desc", "off", "--output", str(report)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=finish_within_s, check=False)
        except subprocess.TimeoutExpired:
            return None
        if not report.exists() and not answers(url):
            return None
        if not report.exists():
            raise SystemExit(f"pip-audit failed: {done.stderr.strip()[-2000:]}")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--osv-url", default=OSV_URL)
    parser.add_argument("--ignore", type=Path, default=REQUIREMENTS / "audit_ignore.txt")
    parser.add_argument("--finish-within-s", type=float, default=FINISH_WITHIN_S)
    options = parser.parse_args()
    accepted = ignored(options.ignore.read_text(encoding="utf-8"))
    requirements = pinned()
    if not answers(options.osv_url):
        print(f"audit: SKIPPED, {options.osv_url} does not answer within {ANSWER_WITHIN_S:g} s")
        return 0
    report = audit(requirements, options.osv_url, finish_within_s=options.finish_within_s)
    if report is None:
        print(f"audit: SKIPPED, {options.osv_url} went away, or took longer than {options.finish_within_s:g} s")
        return 0
    found = holes(report, accepted)
    for line in found:
        print(f"audit: {line}", file=sys.stderr)
    print(f"audit: {len(requirements)} packages, {len(found)} known holes ({len(accepted)} accepted)")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
