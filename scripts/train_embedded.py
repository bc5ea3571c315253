"""Train the embedded network from scratch.

    .venv/bin/python scripts/train_embedded.py --data DIR --out runs/embedded --minutes 100

``DIR`` holds tar files or loose pairs of ``<name>.jpg`` and ``<name>.png`` (mask, 0..255). Names that begin with
``duts-val`` are used for validation alone. Stop the script in any way and start it again with the same ``--out``: it
goes on from its last checkpoint. The same script and checkpoints serve CPU and GPU. A budget in minutes counts training
time only; learning rate and picture size follow the share of it that is used, so that a run ends on time however busy
the machine is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from pipeline.models.embedded.network import EmbeddedNetwork
from scripts.training_embedded.checkpoint import load_checkpoint, save_checkpoint
from scripts.training_embedded.corrections import corrected, join
from scripts.training_embedded.export import export_weights
from scripts.training_embedded.lanes import Lanes
from scripts.training_embedded.muon import Muon
from scripts.training_embedded.pairs import Rgba, load_pairs
from scripts.training_embedded.samples import Batch, make_batch
from scripts.training_embedded.validation import Figures, validate

STORED_SIZE = 256
REPLAYED_SHARE = 1 / 8
"""Tapped samples of a batch shown again in the next one, with the tap added that corrects the answer."""


def main() -> None:
    options = _parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    cv2.setNumThreads(1)
    if device.type == "cpu":
        torch.set_num_threads(1)  # the lanes are the threads
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "train.pid").write_text(str(os.getpid()))
    cache = options.cache or options.out / "cache"
    training = load_pairs(options.data, validation=False, size=STORED_SIZE, cache=cache)
    validation = load_pairs(options.data, validation=True, size=STORED_SIZE, cache=cache)
    Training(options, device, training, validation).run()


class Training:
    """One run: network, its average, optimisers and how far they are."""

    def __init__(self, options: argparse.Namespace, device: torch.device, training: Rgba, validation: Rgba) -> None:
        self.options = options
        self.device = device
        self.training, self.validation = training, validation
        self.network, self.average = EmbeddedNetwork(), EmbeddedNetwork().requires_grad_(False)
        for network in (self.network, self.average):
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.average.load_state_dict(self.network.state_dict())
        self.lanes = Lanes(self.network, count=options.lanes if device.type == "cpu" else 1)
        self.optimisers = _make_optimisers(self.network, options)
        self.step = 0
        self.elapsed_s = 0.0
        self.checkpoint = options.out / "checkpoint.pt"
        self._resume()

    def run(self) -> None:
        """Train to the end of the budget, validating and saving on the way."""
        saved_s = validated_s = self.elapsed_s
        replay: Batch | None = None
        average_loss = 0.0
        bar = tqdm(
            total=100,
            initial=round(100 * self.progress, 2),
            unit="%",
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
            mininterval=20,
        )
        started_s = time.monotonic()
        for fresh in self._batches():
            self._set_learning_rates()
            batch = fresh if replay is None else join(fresh, replay)
            loss, probability = self._optimise(batch)
            replay = corrected(batch, probability, round(REPLAYED_SHARE * self.options.batch))
            self._update_average()
            self.step += 1
            now_s = time.monotonic()
            self.elapsed_s += now_s - started_s
            started_s = now_s
            average_loss += (loss - average_loss) * max(0.02, 1 / self.step)
            bar.n = round(100 * self.progress, 2)
            bar.set_postfix_str(
                f"step {self.step}, size {batch.masks.shape[-1]}, loss {average_loss:.3f}", refresh=False
            )
            bar.update(0)
            if self.elapsed_s - validated_s > 60 * self.options.validate_minutes:
                validated_s = self.elapsed_s
                self._report(bar, self._validate(batch.masks.shape[-1]))
                started_s = time.monotonic()
            if self.elapsed_s - saved_s > 60 * self.options.save_minutes:
                saved_s = self.elapsed_s
                self._save()
        self._save()
        figures = self._validate(self.size)
        self._report(bar, figures)
        export_weights(self.average, self.options.out / "embedded.safetensors", size=self.size, figures=figures)

    @property
    def progress(self) -> float:
        """How much of the budget is used, 0..1."""
        if self.options.epochs is not None:
            used, budget = self.step * self.options.batch, self.options.epochs * len(self.training)
        else:
            used, budget = self.elapsed_s, 60 * self.options.minutes
        return min(1.0, float(used / budget)) if budget > 0 else 1.0

    @property
    def size(self) -> int:
        """Side of the training pictures at this point of the run."""
        return next(int(size) for size, start in reversed(self.options.size) if self.progress >= start)

    def _batches(self) -> Iterator[Batch]:
        """Fresh batches up to the end of the budget, the next ones prepared while one is in use."""
        fresh = self.options.batch - round(REPLAYED_SHARE * self.options.batch)
        with ThreadPoolExecutor(self.options.loaders) as threads:
            ahead = [
                threads.submit(self._batch, self.step + offset, fresh, self.size)
                for offset in range(self.options.loaders)
            ]
            while self.progress < 1:
                following = self.step + self.options.loaders
                ahead.append(threads.submit(self._batch, following, fresh, self.size))
                yield ahead.pop(0).result()

    def _batch(self, step: int, batch_size: int, size: int) -> Batch:
        return make_batch(self.training, step=step, batch_size=batch_size, size=size, seed=self.options.seed)

    def _optimise(self, batch: Batch) -> tuple[float, Tensor]:
        """One step; the loss and the probabilities (B, S, S) it was measured on."""
        pixels = torch.from_numpy(batch.pixels).to(self.device)
        masks = torch.from_numpy(batch.masks).to(self.device)[:, None] / 255
        loss, probability = self.lanes.backward(pixels, masks)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        for optimiser in self.optimisers:
            optimiser.step()
        return loss, probability

    def _set_learning_rates(self) -> None:
        """Up over the first steps, then level, then straight down to nothing over the last part."""
        warm_up = min(1.0, (self.step + 1) / 300)
        cool_down = min(1.0, (1 - self.progress) / self.options.cool_down + 0.005)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.options.lr * warm_up * cool_down

    @torch.no_grad()
    def _update_average(self) -> None:
        share = max(1 - self.options.average, 1 / (self.step + 1))
        pairs = zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True)
        mine, current = zip(*((old, new) for old, new in pairs if new.is_floating_point()), strict=True)
        torch._foreach_lerp_(mine, current, share)

    def _validate(self, size: int) -> Figures:
        return validate(self.average, self.validation, size=size, device=self.device)

    def _report(self, bar: tqdm[Any], figures: Figures) -> None:
        epochs = self.step * self.options.batch / len(self.training)
        minutes = self.elapsed_s / 60
        line = f"{minutes:.1f} min, step {self.step}, {epochs:.1f} epochs, size {self.size}: {figures}"
        bar.write(line)
        with (self.options.out / "log.txt").open("a") as log:
            log.write(line + "\n")

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        save_checkpoint(self.checkpoint, state)

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint)
        if state is None:
            if self.options.start_from is not None:
                weights = {name: weight.float() for name, weight in load_file(self.options.start_from).items()}
                counters = {
                    key: value for key, value in self.network.state_dict().items() if value.dtype == torch.int64
                }
                self.network.load_state_dict(counters | weights)
                self.average.load_state_dict(counters | weights)
            return
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        # Batches depend on seed and step alone, so there is no generator to restore.
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]


def _make_optimisers(network: EmbeddedNetwork, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices and convolutions; AdamW for norms, biases, heads and depthwise weights."""
    hidden: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in network.named_parameters():
        is_matrix = weight.ndim >= 2 and not name.startswith("head") and weight.flatten(1).shape[1] > 16
        (hidden if is_matrix else others).append(weight)
    return [
        Muon(hidden, lr=options.lr, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, lr=options.lr, weight_decay=0.0, foreach=True),
    ]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of tar files or pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and weights")
    parser.add_argument("--start-from", type=Path, help="weights (safetensors) to begin a new run with; default: none")
    parser.add_argument("--cache", type=Path, help="folder for decoded photos; by default inside --out")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="training time")
    budget.add_argument("--epochs", type=float)
    parser.add_argument(
        "--size",
        type=_size_schedule,
        default="128:0,160:0.5,224:0.75",
        help="sides and the share of the run each starts at",
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument(
        "--cool-down", type=float, default=0.6, help="share of the run over which the learning rate falls"
    )
    parser.add_argument("--average", type=float, default=0.998, help="decay of the weights' moving average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=os.cpu_count(), help="threads that work out gradients on a CPU")
    parser.add_argument("--loaders", type=int, default=1, help="threads that prepare batches")
    parser.add_argument("--validate-minutes", type=float, default=5)
    parser.add_argument("--save-minutes", type=float, default=3)
    return parser.parse_args()


def _size_schedule(text: str) -> list[tuple[int, float]]:
    """``128:0,224:0.75`` as [(128, 0.0), (224, 0.75)]."""
    stages = [stage.split(":") for stage in text.split(",")]
    return [(int(size), float(start)) for size, start in stages]


if __name__ == "__main__":
    main()
