"""Writes files that try an image service to a folder: every format, mode and size, odd, damaged, and lying.

    .venv/bin/python scripts/hostile_corpus.py FOLDER [--seed 1]

Beside them lies ``outcomes.json``: for each file what must become of it in a background removal, ``ok`` or the code of
its error; several where a library may or may not notice the damage. The same seed makes the same files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.hostile_files import all_specimens

OUTCOMES = "outcomes.json"


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    count, size = write_corpus(options.folder, options.seed)
    print(f"{count} files, {size / 2**20:.0f} MiB, in {options.folder}")
    return 0


def write_corpus(folder: Path, seed: int) -> tuple[int, int]:
    """Number of files written, and bytes of them together."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    size = 0
    for specimen in all_specimens(seed):
        (folder / specimen.name).write_bytes(specimen.data)
        outcomes[specimen.name] = specimen.outcomes
        size += len(specimen.data)
    (folder / OUTCOMES).write_text(json.dumps(outcomes, indent=1) + "\n")
    return len(outcomes), size


if __name__ == "__main__":
    sys.exit(main())
