"""Every block of the README that talks to the service works as pasted."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, RunningService

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_has_blocks_for_both_apis() -> None:
    text = "\n".join(BLOCKS)
    for route in ("/api/background-removal/remove", "/upload", "/segment", "/status/", "/download/", "/cleanup/"):
        assert route in text


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's examples use curl")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0][:40])
def test_a_block_of_the_readme_works_as_pasted(block: str, service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    script = "set -eo pipefail\n" + block.replace("http://127.0.0.1:8000", service.url)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in re.findall(r"-o (\S+\.png)", block):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG"), name
