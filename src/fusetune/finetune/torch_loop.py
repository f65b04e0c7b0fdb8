# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning loop for PyTorch, to be read from top to bottom.

Nothing here hangs on global random state: row order, augmentation and dropout come from (seed,
epoch, step or row), and a checkpoint holds the rest, so that a run killed anywhere and started
again ends with the same bits.

Shapes: B rows of a batch, H height, W width, 3 RGB channels.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from fusetune.atomic import replacing
from fusetune.errors import MemberFailed
from fusetune.finetune.batches import PixelStore, augmented, epoch_batches, row_slices
from fusetune.finetune.engine import History, Plan, Report, Split
from fusetune.finetune.randomness import Keys, mixed_seed, row_keys
from fusetune.finetune.settings import FineTune, Optimizer, Schedule
from fusetune.members.member import Member, Preprocess
from fusetune.predictions.kinds import Array

__all__ = ["Training", "model_outputs"]

CHECKPOINT_SECONDS = 60.0  # within an epoch; at its end there is always one
REPORT_SECONDS = 0.2
EVALUATION_BATCH = 256


@dataclass
class State:
    """Everything that changes while training; saved as one file, so never half of it."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rows: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)


class Training:
    """One member's fine-tuning, from wherever the last checkpoint left it to its best epoch."""

    def __init__(self, member: Member, plan: Plan, splits: tuple[Split, Split]) -> None:
        self.member, self.objective = member, plan.objective
        self.settings, self.seed = plan.settings, plan.seed
        self.train, self.validation = splits
        self.keys: Keys = row_keys(self.train.ids)
        self.pixels = PixelStore(self.train.images, member.preprocess)
        self.validation_pixels = PixelStore(self.validation.images, member.preprocess)
        self.accelerator = Accelerator()
        groups = parameter_groups(member, plan.settings)
        optimizer = build_optimizer(groups, plan.settings.optimizer)
        self.model, self.optimizer = self.accelerator.prepare(member.model, optimizer)
        self.state = State()

    def run(self, work: Path, report: Report) -> History:
        """Train to the end; the member keeps the best epoch's weights."""
        checkpoint = work / "checkpoint.pt"
        self.restore(checkpoint)
        with torch.random.fork_rng():
            while self.state.epoch < self.settings.epochs and not self.out_of_patience():
                self.train_epoch(checkpoint, report)
                self.end_epoch(report)
                self.save(checkpoint)
        self.member.model.load_state_dict(self.state.best_weights)
        return History(tuple(self.state.epochs), self.state.best_epoch, self.state.seconds)

    def train_epoch(self, checkpoint: Path, report: Report) -> None:
        """One pass over the train rows, from the state's step on."""
        state, settings = self.state, self.settings
        batches = epoch_batches(self.keys, settings.batch_size, seed=self.seed, epoch=state.epoch)
        set_training_mode(self.model, self.member.head, settings)
        last_report = last_save = before = time.perf_counter()
        for step in range(state.step, len(batches)):
            self.set_learning_rate(
                (state.epoch * len(batches) + step) / (settings.epochs * len(batches))
            )
            state.loss_sum += self.train_step(batches[step], step) * len(batches[step])
            state.rows += len(batches[step])
            state.step = step + 1
            now = time.perf_counter()
            state.epoch_seconds, before = state.epoch_seconds + now - before, now
            if now - last_report > REPORT_SECONDS:
                self.check_finite()
                report(self.progress(len(batches)))
                last_report = now
            if now - last_save > CHECKPOINT_SECONDS:
                self.save(checkpoint)
                last_save = before = time.perf_counter()
        self.check_finite()

    def train_step(self, rows: Array, step: int) -> float:
        """One step of the optimizer; returns the batch's mean loss."""
        state, device = self.state, self.accelerator.device
        pixels = self.pixels.batch(rows)
        augmentation = self.settings.augmentation
        pixels = augmented(pixels, self.keys[rows], augmentation, seed=self.seed, epoch=state.epoch)
        images = to_model(
            torch.from_numpy(np.ascontiguousarray(pixels)).to(device), self.member.preprocess
        )
        targets = torch.from_numpy(self.objective.collate(self.train.targets, rows)).to(device)
        torch.manual_seed(mixed_seed(self.seed, "dropout", state.epoch, step))
        with self.accelerator.autocast():
            loss = self.objective.loss(self.model(images), targets, self.settings)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        return float(loss.detach())

    def end_epoch(self, report: Report) -> None:
        """Score the validation rows, note the epoch, and keep its weights if they are the best."""
        state = self.state
        outputs = model_outputs(
            self.model, self.validation_pixels, self.member.preprocess, self.accelerator.device
        )
        rows = np.arange(len(self.validation.ids))
        figures = self.objective.scores(
            outputs, self.objective.collate(self.validation.targets, rows)
        )
        state.epoch += 1
        state.seconds += state.epoch_seconds
        record = {
            "epoch": state.epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": state.loss_sum / state.rows,
            **{f"validation_{name}": value for name, value in figures.items()},
            "images_per_second": state.rows / max(state.epoch_seconds, 1e-9),
        }
        state.epochs.append(record)
        if figures["loss"] < state.best_loss:
            state.best_loss, state.best_epoch = figures["loss"], state.epoch
            weights = self.member.model.state_dict()
            state.best_weights = {
                name: value.detach().cpu().clone() for name, value in weights.items()
            }
        report(
            {"phase": "finetune", "epochs": self.settings.epochs, "end_of_epoch": True, **record}
        )
        state.step, state.loss_sum, state.rows, state.epoch_seconds = 0, 0.0, 0, 0.0
        if not state.best_weights:
            raise diverged("validation", state.epoch)

    def out_of_patience(self) -> bool:
        """True if early stopping says so."""
        patience = self.settings.patience
        return patience is not None and self.state.epoch - self.state.best_epoch >= patience

    def set_learning_rate(self, progress: float) -> None:
        """Set the rate for this share of all steps done."""
        rate = self.settings.optimizer.peak_lr * schedule_factor(self.settings.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def progress(self, steps: int) -> dict[str, Any]:
        """The event that a progress bar is drawn from."""
        state, settings = self.state, self.settings
        rate = state.rows / max(state.epoch_seconds, 1e-9)
        left = (settings.epochs - state.epoch) * len(self.keys) - state.rows
        accuracy = state.epochs[-1].get("validation_accuracy") if state.epochs else None
        return {
            "phase": "finetune",
            "epoch": state.epoch + 1,
            "epochs": settings.epochs,
            "done": (state.epoch + state.step / steps) / settings.epochs,
            "loss": state.loss_sum / state.rows,
            "validation_accuracy": accuracy,
            "images_per_second": rate,
            "seconds_left": left / rate,
        }

    def check_finite(self) -> None:
        """Stop a diverged run before it wastes more time."""
        if not math.isfinite(self.state.loss_sum):
            raise diverged("training", self.state.epoch + 1)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        content = {
            "state": vars(self.state),
            "model": self.member.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if path.exists():
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.state = State(**content["state"])
            self.member.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])


def parameter_groups(member: Member, settings: FineTune) -> list[dict[str, Any]]:
    """Trainable parameters: matrices and kernels with weight decay, biases and norms without."""
    head_only = settings.train == "head"
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in member.model.named_parameters():
        parameter.requires_grad_(not head_only or in_head(name, member.head))
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.optimizer.weight_decay}]
    return [*groups, {"params": plain, "weight_decay": 0.0}] if plain else groups


def build_optimizer(groups: list[dict[str, Any]], optimizer: Optimizer) -> torch.optim.Optimizer:
    """SGD or AdamW; the learning rate is set before every step."""
    if optimizer.name == "sgd":
        nesterov = optimizer.nesterov
        return torch.optim.SGD(
            groups, lr=optimizer.peak_lr, momentum=optimizer.momentum, nesterov=nesterov
        )
    return torch.optim.AdamW(groups, lr=optimizer.peak_lr, betas=optimizer.betas)


def schedule_factor(schedule: Schedule, progress: float) -> float:
    """Factor of the peak learning rate at a share of all steps in [0, 1)."""
    if progress < schedule.warmup:
        return progress / schedule.warmup
    if schedule.name == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - schedule.warmup) / (1 - schedule.warmup)))


def set_training_mode(model: nn.Module, head: tuple[str, ...], settings: FineTune) -> None:
    """Training mode; with a frozen body only the head's, so that batch statistics stay."""
    model.train(settings.train == "full")
    if settings.train == "head":
        for name, module in model.named_modules():
            if in_head(name, head):
                module.train()


def in_head(name: str, head: tuple[str, ...]) -> bool:
    """True if a module or parameter belongs to the head."""
    return any(name == part or name.startswith(f"{part}.") for part in head)


def model_outputs(
    model: nn.Module, pixels: PixelStore, preprocess: Preprocess, device: torch.device
) -> Array:
    """`(N, ...)` main-head outputs in evaluation mode; the model's mode is restored."""
    parts = list(output_batches(model, pixels, preprocess, device))
    return np.concatenate(parts)


def output_batches(
    model: nn.Module, pixels: PixelStore, preprocess: Preprocess, device: torch.device
) -> Iterator[Array]:
    """The same, batch by batch."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in row_slices(len(pixels.images), EVALUATION_BATCH):
                images = to_model(torch.from_numpy(pixels.batch(rows)).to(device), preprocess)
                outputs = model(images)
                main = outputs[0] if isinstance(outputs, tuple) else outputs
                yield main.float().cpu().numpy()
    finally:
        model.train(training)


def to_model(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """`(B, 3, size, size)` normalized floats from `(B, H, W, 3)` uint8, on the pixels' device."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    size = preprocess.size
    if tuple(images.shape[2:]) != (size, size):  # else the store has fitted them already
        shape = preprocess.resized(*images.shape[2:])
        mode = preprocess.interpolation
        smooth = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
        images = functional.interpolate(images, shape, mode=mode, **smooth)
    top, left = ((side - size) // 2 for side in images.shape[2:])
    images = images[:, :, top : top + size, left : left + size]
    mean, std = (
        torch.tensor(v, device=images.device).view(1, 3, 1, 1)
        for v in (preprocess.mean, preprocess.std)
    )
    return (images - mean) / std


def diverged(which: str, epoch: int) -> MemberFailed:
    """The error for a loss that is no longer finite."""
    return MemberFailed(
        f"its {which} loss is no longer finite in epoch {epoch}",
        "a loss that falls",
        "Lower finetune.optimizer.lr, or set finetune.clip_norm.",
    )
