"""The training script runs, survives a kill and leaves weights that load."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.models.embedded.weights import WEIGHTS_PATH, load_weights

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_embedded.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(12):
        mask = np.zeros((60, 80), np.uint8)
        cv2.circle(mask, (20 + 3 * index, 30), 14, 255, -1)
        photo = generator.integers(0, 120, (60, 80, 3), dtype=np.uint8)
        photo[mask > 0] += 120
        name = f"{'duts-val' if index % 3 == 0 else 'photo'}-{index}"
        cv2.imwrite(str(folder / f"{name}.jpg"), photo)
        cv2.imwrite(str(folder / f"{name}.png"), mask)
    return folder


def command(data: Path, out: Path, epochs: int) -> list[str]:
    arguments = f"--data {data} --out {out} --epochs {epochs} --size 64:0,96:0.5 --batch 8 --save-minutes 0"
    return [sys.executable, str(SCRIPT), *arguments.split()]


@pytest.mark.slow
def test_training_goes_on_after_a_kill_and_exports_weights(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(data, out, 10_000), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (out / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = subprocess.run(command(data, out, 6), capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0, finished.stderr
    trained = load_weights(out / "embedded.safetensors")
    assert trained.side_px == 96
    assert "automatic IoU" in (out / "log.txt").read_text()


@pytest.mark.slow
def test_a_run_begins_where_given_weights_ended(data: Path, tmp_path: Path) -> None:
    again = [*command(data, tmp_path / "again", 0), "--start-from", str(WEIGHTS_PATH)]
    finished = subprocess.run(again, capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0, finished.stderr
    before, after = (load_file(path) for path in (WEIGHTS_PATH, tmp_path / "again" / "embedded.safetensors"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
