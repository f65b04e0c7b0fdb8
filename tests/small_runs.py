# SPDX-License-Identifier: Apache-2.0
"""A small net fine-tuned on small images: what tests of the training loop share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.data.inputs import PixelImages
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer
from fusetune.members.member import Member, Preprocess
from fusetune.predictions.targets import Targets

CLASSES = ("dark", "light")
PREPROCESS = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SETTINGS = FineTune(
    epochs=4,
    batch_size=8,
    optimizer=Optimizer(name="sgd", lr=0.05),
    augmentation=Augmentation(flip=True, crop_padding=1),
)


class Stopped(Exception):
    """Raised by a listener to stop a run in the middle."""


class Net(nn.Module):
    """A small net with everything that keeps state: batch norm, dropout, an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.fc, self.aux = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images).mean(dim=(2, 3))
        return (self.fc(features), self.aux(features)) if self.training else self.fc(features)


def member() -> Member:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    return Member(model=model, engine="torch", classes=CLASSES, preprocess=PREPROCESS, head=("fc",))


def split(name: str, num: int) -> Split:
    """Noisy images that are dark or light on the whole."""
    rng = np.random.default_rng(len(name))
    labels = np.arange(num) % 2
    pixels = rng.normal(100 + 60 * labels[:, None, None, None], 40, (num, 8, 8, 3))
    ids = np.array([f"{name}-{i}" for i in range(num)])
    return Split(PixelImages(pixels.clip(0, 255).astype(np.uint8)), Targets(ids, CLASSES, labels))


SPLITS = (split("train", 40), split("validation", 16))


def finetune(
    work: Path,
    settings: FineTune = SETTINGS,
    report: Any = lambda event: None,
    teacher: Path | None = None,
) -> tuple[Member, Any]:
    made = member()
    plan = Plan(Classification(), settings, seed=3, teacher=teacher)
    history = Torch().finetune(made, plan, SPLITS, work, report)
    return made, history


def weights(made: Member) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in made.model.state_dict().items()}


def untimed(history: Any) -> list[dict[str, float]]:
    """The epochs of a history without how fast they were."""
    return [{k: v for k, v in e.items() if k != "images_per_second"} for e in history.epochs]


def validation_loss(made: Member) -> float:
    """Of the validation rows, as a member predicts them."""
    outputs = Torch().outputs(made, SPLITS[1].images, lambda event: None)
    return Classification().scores(outputs, SPLITS[1].targets.labels_N)["loss"]


def assert_goes_on(
    finetune: Callable[..., tuple[Member, Any]],
    work: Path,
    settings: FineTune,
    monkeypatch: pytest.MonkeyPatch,
    events: int,
) -> Any:
    """A run that is stopped after so many events ends with the same bytes; the history of one in peace.

    Args:
        finetune: From a folder, settings and a listener to the member and its history.
        work: A folder.
        settings: Of the runs.
        monkeypatch: Checkpoints are written after every step.
        events: After so many events.
    """
    whole, history = finetune(work / "whole", settings)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.REPORT_SECONDS", 0.0)
    seen: list[Mapping[str, Any]] = []

    def stop(event: Mapping[str, Any]) -> None:
        seen.append(event)
        if len(seen) == events:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(work / "stopped", settings, stop)
    resumed, again = finetune(work / "stopped", settings)
    assert weights(resumed) == weights(whole)
    assert untimed(again) == untimed(history)
    return history


def assert_resumes(
    work: Path,
    settings: FineTune,
    monkeypatch: pytest.MonkeyPatch,
    stops: tuple[int, ...],
    teacher: Path | None = None,
) -> None:
    """Runs that are stopped in the middle of an epoch, or after it, end with the same bytes.

    Args:
        work: A folder.
        settings: Of the runs.
        monkeypatch: Checkpoints are written after every step.
        stops: Epochs, from 1, to stop in.
        teacher: What a teacher says of the train rows.
    """
    whole, history = finetune(work / "whole", settings, teacher=teacher)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.REPORT_SECONDS", 0.0)
    for epoch in stops:
        for at_end in (False, True):

            def stop(event: Mapping[str, Any], epoch: int = epoch, at_end: bool = at_end) -> None:
                ended = event.get("end_of_epoch", False)
                inside = not ended and event["done"] * settings.epochs > epoch - 0.5
                if event["epoch"] == epoch and (ended if at_end else inside):
                    raise Stopped

            folder = work / f"{epoch}-{at_end}"
            with pytest.raises(Stopped):
                finetune(folder, settings, stop, teacher)
            resumed, again = finetune(folder, settings, teacher=teacher)
            assert weights(resumed) == weights(whole)
            assert untimed(again) == untimed(history)
            assert again.best_epoch == history.best_epoch
