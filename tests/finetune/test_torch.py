# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning loop: it learns, it resumes to the same bits, it says when it diverges."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.data.inputs import PixelImages
from fusetune.errors import MemberFailed
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer, Schedule
from fusetune.finetune.torch_checkpoint import read_checkpoint, write_checkpoint
from fusetune.finetune.torch_inputs import ModelInput
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
    work: Path, settings: FineTune = SETTINGS, report: Any = lambda event: None
) -> tuple[Member, Any]:
    made = member()
    plan = Plan(Classification(), settings, seed=3)
    history = Torch().finetune(made, plan, SPLITS, work, report)
    return made, history


def weights(made: Member) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in made.model.state_dict().items()}


def test_it_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    made, history = finetune(tmp_path)
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    assert len(losses) == 4
    assert history.best_epoch == 1 + int(np.argmin(losses))
    test = split("held-out", 200)
    outputs = Torch().outputs(made, test.images, lambda event: None)
    assert Classification().scores(outputs, test.targets.labels_N)["accuracy"] > 0.9
    validation = Torch().outputs(made, SPLITS[1].images, lambda event: None)
    scores = Classification().scores(validation, SPLITS[1].targets.labels_N)
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-7)


def test_two_runs_give_the_same_bits_whatever_the_global_random_state(tmp_path: Path) -> None:
    one, _ = finetune(tmp_path / "a")
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.random.get_rng_state()
    two, _ = finetune(tmp_path / "b")
    assert weights(one) == weights(two)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, stop_after: int
) -> None:
    whole, history = finetune(tmp_path / "whole")

    def stop(event: Mapping[str, Any]) -> None:
        if event.get("end_of_epoch") and event["epoch"] == stop_after + 1:
            raise Stopped  # the checkpoint of this epoch is not written yet

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", report=stop)
    assert (tmp_path / "stopped" / "checkpoint.pt").exists()
    resumed, again = finetune(tmp_path / "stopped")
    assert weights(resumed) == weights(whole)
    assert again.best_epoch == history.best_epoch
    untimed = [{k: v for k, v in e.items() if k != "images_per_second"} for e in history.epochs]
    assert [
        {k: v for k, v in e.items() if k != "images_per_second"} for e in again.epochs
    ] == untimed


def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = finetune(tmp_path / "whole")
    monkeypatch.setattr("fusetune.finetune.torch_loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("fusetune.finetune.torch_loop.REPORT_SECONDS", 0.0)
    steps = []

    def stop(event: Mapping[str, Any]) -> None:
        steps.append(event)
        if len(steps) == 9:  # five batches and the epoch's end before, three batches after
            raise Stopped

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", report=stop)
    resumed, _ = finetune(tmp_path / "stopped")
    assert weights(resumed) == weights(whole)


EVERYTHING = Augmentation(
    flip=True,
    crop_padding=1,
    resized_crop=0.5,
    rand_augment=1,
    color_jitter=0.2,
    cutout=2,
    mixup=0.2,
    cutmix=1.0,
)


def test_a_run_with_every_augmentation_stopped_within_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, epochs=2, augmentation=EVERYTHING, label_smoothing=0.1)
    whole, _ = finetune(tmp_path / "whole", settings)
    monkeypatch.setattr("fusetune.finetune.torch_loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("fusetune.finetune.torch_loop.REPORT_SECONDS", 0.0)

    def stop(event: Mapping[str, Any]) -> None:
        if event["epoch"] == 2 and event["done"] > 0.75:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", settings, report=stop)
    resumed, _ = finetune(tmp_path / "stopped", settings)
    assert weights(resumed) == weights(whole)


def test_another_seed_or_augmentation_gives_other_weights(tmp_path: Path) -> None:
    one, _ = finetune(tmp_path / "a")
    plain = FineTune(
        epochs=4, batch_size=8, optimizer=SETTINGS.optimizer, augmentation=Augmentation(flip=False)
    )
    two, _ = finetune(tmp_path / "b", plain)
    assert weights(one) != weights(two)


def test_early_stopping_waits_for_its_patience(tmp_path: Path) -> None:
    still = FineTune(epochs=9, batch_size=8, patience=2, optimizer=Optimizer(name="sgd", lr=1e-12))
    _, history = finetune(tmp_path, still)
    assert len(history.epochs) - history.best_epoch == 2 or len(history.epochs) == 9


def test_head_only_leaves_the_body_and_its_statistics(tmp_path: Path) -> None:
    before = weights(member())
    made, _ = finetune(
        tmp_path, FineTune(epochs=2, batch_size=8, train="head", optimizer=SETTINGS.optimizer)
    )
    changed = {name for name, value in weights(made).items() if value != before[name]}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_diverged_run_says_so_and_what_to_do(tmp_path: Path) -> None:
    wild = FineTune(
        epochs=3, batch_size=8, clip_norm=None, optimizer=Optimizer(name="sgd", lr=1e30)
    )
    with pytest.raises(
        MemberFailed, match=r"no longer finite in epoch 1; expected a loss that falls\. Lower"
    ):
        finetune(tmp_path, wild)


def test_predictions_do_not_hang_on_batch_mates_or_training_mode() -> None:
    made = member()
    made.model.train()
    images = SPLITS[0].images
    whole = Torch().outputs(made, images, lambda event: None)
    alone = Torch().outputs(made, images.take(np.array([5])), lambda event: None)
    assert np.allclose(whole[5], alone[0], atol=1e-6)
    assert made.model.training


def test_the_schedule_warms_up_and_falls() -> None:
    cosine = Schedule(name="cosine", warmup=0.1)
    assert cosine.factor(0.05) == pytest.approx(0.5)
    assert cosine.factor(0.1) == 1.0
    assert cosine.factor(0.55) == pytest.approx(0.5)
    assert cosine.factor(1.0) == pytest.approx(0.0)
    assert Schedule(name="constant", warmup=0.0).factor(0.9) == 1.0


def test_normalizing_and_resizing_follow_the_member() -> None:
    def model_input(size: int, resize: int | None = None) -> ModelInput:
        made = Preprocess(size=size, resize=resize, mean=(0, 0, 0), std=(1, 1, 1))
        return ModelInput(made, torch.device("cpu"))

    pixels = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    white = ModelInput(PREPROCESS, torch.device("cpu"))(pixels)
    assert white.shape == (2, 3, 8, 8)
    assert torch.allclose(white, torch.tensor(2.0))
    assert model_input(20, 24)(pixels).shape == (2, 3, 20, 20)
    assert model_input(8)(torch.zeros((1, 8, 12, 3), dtype=torch.uint8)).shape == (1, 3, 8, 8)


def test_a_damaged_checkpoint_is_told_and_not_read(tmp_path: Path) -> None:
    """Wherever it is: torch itself reads most changed bytes without a word."""
    path = tmp_path / "whole.pt"
    write_checkpoint(path, {"weights": torch.arange(4.0), "epoch": 3})
    content = path.read_bytes()
    found = read_checkpoint(path)
    assert found is not None
    assert torch.equal(found["weights"], torch.arange(4.0))
    for place in range(0, len(content), 7):
        changed = content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
        path.write_bytes(changed)
        assert read_checkpoint(path) is None
    for length in (0, 10, len(content) - 1):
        path.write_bytes(content[:length])
        assert read_checkpoint(path) is None

    whole, _ = finetune(tmp_path / "whole")
    events: list[Mapping[str, Any]] = []
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "checkpoint.pt").write_bytes(changed)
    again, _ = finetune(tmp_path / "damaged", report=events.append)
    assert {"phase": "damaged", "file": "checkpoint.pt"} in events
    assert weights(again) == weights(whole)


@pytest.mark.parametrize("epochs_before", [0, 2])
def test_a_budget_that_is_over_keeps_the_best_epoch_and_the_way_on(
    tmp_path: Path, epochs_before: int
) -> None:
    whole, history = finetune(tmp_path / "whole")
    ends_at = time.monotonic() + 1e6

    class Ending:
        """A budget that is over after some epochs."""

        rows = 1

        @property
        def ends_at(self) -> float:
            return ends_at

    def listen(event: Mapping[str, Any]) -> None:
        nonlocal ends_at
        if event.get("end_of_epoch") and event["epoch"] == epochs_before:
            ends_at = 0.0

    ends_at = ends_at if epochs_before else 0.0
    made = member()
    plan = Plan(Classification(), SETTINGS, seed=3, budget=Ending())  # type: ignore[arg-type]
    stopped = Torch().finetune(made, plan, SPLITS, tmp_path / "cut", listen)
    assert stopped.stopped is not None
    assert stopped.stopped[0] == epochs_before
    assert len(stopped.epochs) == max(epochs_before, 1)
    assert f"stopped fine-tuning in epoch {epochs_before + 1} of 4" in stopped.notes[0]
    losses = [epoch["validation_loss"] for epoch in stopped.epochs]
    validation = Torch().outputs(made, SPLITS[1].images, lambda event: None)
    scores = Classification().scores(validation, SPLITS[1].targets.labels_N)
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-7)
    resumed, again = finetune(tmp_path / "cut")
    assert weights(resumed) == weights(whole)
    assert again.best_epoch == history.best_epoch
    assert again.stopped is None
    assert again.notes == ()
